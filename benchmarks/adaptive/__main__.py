"""``python -m benchmarks.adaptive``."""

from __future__ import annotations

import sys

from benchmarks.adaptive.command import main

if __name__ == "__main__":
    sys.exit(main())
