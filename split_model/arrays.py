"""The types of arrays in annotations; docstrings give shapes and dtypes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
#: uint8 [height, width, channels]
Picture: TypeAlias = NDArray[np.uint8]
