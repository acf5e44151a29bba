"""``python -m benchmarks.server``."""

from __future__ import annotations

import sys

from benchmarks.server.command import main

if __name__ == "__main__":
    sys.exit(main())
