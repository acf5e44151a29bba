"""``python -m split_model``."""

import sys

from split_model.cli import main

sys.exit(main())
