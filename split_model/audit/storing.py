"""Keeps an audit with its bundle: the verdicts, and the inverse network of each setting."""

from __future__ import annotations

import hashlib
from pathlib import Path

from split_model import __version__
from split_model.audit.results import Audit, Result
from split_model.bundle import Bundle, FileRef, exposure
from split_model.bundle.exposure import Exposure, Exposures

_NETWORK = "inverse network"


def store(bundle: Bundle, audit: Audit, folder: Path) -> Exposures:
    """Keep verdicts and networks, see `exposure.store`; the same audit gives the same bytes.

    Args:
        bundle: The audited one.
        audit: What was found.
        folder: The audit's work folder, which has the networks.

    Returns:
        All that is kept now.

    """
    networks: dict[str, bytes] = {}
    rows = []
    for result in audit.results:
        content = (folder / result.network).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        path = f"{exposure.FOLDER}/cut-{result.cut:03}-{digest[:12]}.npz"
        networks[path] = content
        rows.append(_exposure(result, audit, FileRef(path=path, sha256=digest, size_bytes=len(content))))
    found = Exposures(
        format=exposure.FORMAT, bundle=bundle.identity, rows=tuple(rows), made_by=f"split-model {__version__}"
    )
    return exposure.store(bundle, found, networks)


def _exposure(result: Result, audit: Audit, network: FileRef) -> Exposure:
    best = result.best
    own = next((attack.ssim for attack in result.attacks if attack.attacker == _NETWORK), None)
    return Exposure(
        cut=result.cut,
        spec=result.spec,
        codebook=result.codebook,
        reveals=result.reveals,
        attacker=best.attacker,
        ssim=best.ssim,
        ssim_low=best.ssim_low,
        ssim_high=best.ssim_high,
        pictures=audit.victims,
        quick=audit.quick,
        network=network,
        network_ssim=own,
    )
