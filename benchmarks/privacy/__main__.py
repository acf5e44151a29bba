"""``python -m benchmarks.privacy``."""

from __future__ import annotations

import sys

from benchmarks.privacy.command import main

if __name__ == "__main__":
    sys.exit(main())
