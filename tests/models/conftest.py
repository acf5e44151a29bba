"""The recipes are scripts, not packages: put their folders on the path as running them does."""

from __future__ import annotations

import sys
from pathlib import Path

_MODELS = Path(__file__).resolve().parents[2] / "models"
for _folder in (_MODELS, _MODELS / "efficientnet_lite0", _MODELS / "photographs", _MODELS / "mediapipe"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
