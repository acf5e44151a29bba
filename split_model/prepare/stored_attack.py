"""Runs the stored attackers of an audit, which are inverse networks, on a new picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from split_model.arrays import Array, Picture
from split_model.audit.attackers.decoder import Decoder
from split_model.bundle import Bundle, Cut
from split_model.bundle.exposure import WORDS, Exposures, load, network_of
from split_model.features.preprocess import to_real
from split_model.privacy import CodebookSpec, NoiseSpec


class StoredAttacks:
    """The attackers that ``split-model audit --store`` stored with a bundle, if any."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._found: Exposures | None = load(bundle)

    def __call__(
        self, cut: Cut, spec: NoiseSpec | CodebookSpec | None, arrived: Sequence[Array]
    ) -> tuple[Picture, str] | None:
        """Return the reconstruction by this release's attacker, and the verdict as text; None without one.

        Args:
            cut: The cut of the features.
            spec: The release; None for unprotected features.
            arrived: The features as the tail gets them.

        """
        row = None if self._found is None else self._found.find(cut.index, spec)
        content = None if row is None else network_of(self._bundle, row)
        if row is None or row.network is None or content is None:
            return None
        decoder = Decoder.from_bytes(content, row.network.path)
        real = [to_real(one, tensor) for one, tensor in zip(arrived, cut.tensors, strict=True)]
        drawn = np.rint(decoder([real])[0] * 255).astype(np.uint8)
        shown: Picture = np.repeat(drawn, 3, axis=-1) if drawn.shape[-1] == 1 else drawn
        preprocess = self._bundle.manifest.preprocess
        if preprocess is not None and preprocess.colour == "bgr":
            shown = shown[..., ::-1]
        return shown, WORDS[row.reveals]
