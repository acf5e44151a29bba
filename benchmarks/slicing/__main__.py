"""``python -m benchmarks.slicing``."""

from __future__ import annotations

import sys

from benchmarks.slicing.command import main

if __name__ == "__main__":
    sys.exit(main())
