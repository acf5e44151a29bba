#!/bin/sh
# Put the device program and a model's bundle onto boards, over SSH. 'deploy/deploy.sh --help' says how.
exec "$(dirname "$0")/python.sh" device "$@"
