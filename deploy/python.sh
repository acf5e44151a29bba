#!/bin/sh
# Runs the Python half of the deploy scripts out of this checkout. Any Python 3.10 or newer will do; it needs no packages.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 70
for python in "$root/.venv/bin/python" python3 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        PYTHONPATH=$root PYTHONDONTWRITEBYTECODE=1 exec "$python" -m deploy "$@"
    fi
done
echo "deploy: error: this needs Python 3.10 or newer on this machine; install python3" >&2
exit 69
