"""What the tests of `prepare` make models with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.split_model.prepare import made_models


@pytest.fixture(scope="session")
def builder() -> type[made_models.ModelBuilder]:
    return made_models.ModelBuilder


@pytest.fixture(scope="session")
def residual() -> Any:
    """Makes the smallest residual network; keywords go to every convolution."""
    return made_models.residual
