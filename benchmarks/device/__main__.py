"""``python -m benchmarks.device``."""

from __future__ import annotations

import sys

from benchmarks.device.command import main

if __name__ == "__main__":
    sys.exit(main())
