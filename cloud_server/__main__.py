"""``python -m cloud_server`` is ``cloud-server``."""

from __future__ import annotations

import sys

from cloud_server.cli import main

sys.exit(main())
