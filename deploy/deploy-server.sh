#!/bin/sh
# Put the server program and bundles onto a server, over SSH. 'deploy/deploy-server.sh --help' says how.
exec "$(dirname "$0")/python.sh" server "$@"
