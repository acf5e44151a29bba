"""The ``[release]`` table: how features are protected, with the unit of each epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from split_model.bundle import Cut
from split_model.bundle.manifest import MAX_CODEWORDS, MAX_GROUPS
from split_model.errors import ConfigError
from split_model.privacy import AllocationWish, CodebookSpec, NoiseSpec, default_bits, settle, settle_codebook
from split_model.privacy.plan import DEFAULT_EPSILON, why_unreleasable

Positive = Annotated[float, msgspec.Meta(gt=0.0)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all config tables except those with a kind."""


class ReleaseTable(Table, frozen=True):
    """``[release]``: how features are protected.

    ``noise``: ``epsilon`` is per value, the mean over a frame's values, 16 unless set. ``bits`` a value, on the
    wire: 4 unless set, more for an epsilon over 38. ``allocation``: how epsilon is shared among channels; ``auto``,
        the default, takes at each cut the one that `prepare` measured as best. The preset ``cis`` is noise with
        ``rank``.

    ``codebook``: ``whole_input_epsilon`` is the epsilon of a whole frame, and has no default. ``codewords`` and
    ``groups`` choose among a cut's codebooks; the default is the one with the best expected accuracy. Cuts without
    a codebook are not used.

    ``pace``: ``free``: a release leaves when its head is done. ``fixed``: work on the board ends in slots as long
    as the longest measured time, so that the time of a release does not depend on the frame.
    """

    mechanism: Literal["noise", "codebook", "none"] = "noise"
    preset: Literal["cis"] | None = None
    epsilon: Positive | None = None
    allocation: AllocationWish | None = None
    bits: Annotated[int, msgspec.Meta(ge=4, le=8)] | None = None
    whole_input_epsilon: Positive | None = None
    codewords: Annotated[int, msgspec.Meta(ge=2, le=MAX_CODEWORDS)] | None = None
    groups: Annotated[int, msgspec.Meta(ge=1, le=MAX_GROUPS)] | None = None
    pace: Literal["free", "fixed"] = "free"

    @property
    def wish(self) -> AllocationWish:
        """The wanted allocation of epsilon, preset and default included."""
        return self.allocation or ("rank" if self.preset == "cis" else "auto")

    @property
    def noise_epsilon(self) -> float:
        """Mean per-value epsilon of the noise, default included."""
        return self.epsilon or DEFAULT_EPSILON

    @property
    def noise_bits(self) -> int:
        """Bits a value, default included; the default depends on the epsilon."""
        return self.bits or default_bits(self.noise_epsilon)

    @property
    def name(self) -> str:
        """Name of the release that a profile's timings are valid for; the bundle makes the choice at each cut."""
        if self.mechanism == "none":
            return "none"
        if self.mechanism == "codebook":
            which = [
                f"{key}={value}" for key, value in (("codewords", self.codewords), ("groups", self.groups)) if value
            ]
            return " ".join([f"codebook whole_input_epsilon={self.whole_input_epsilon or 0:g}", *which])
        return f"noise epsilon={self.noise_epsilon:g} {self.wish} bits={self.noise_bits}"

    def spec_at(self, cut: Cut) -> NoiseSpec | CodebookSpec | None:
        """Return the release at a cut; None if the user chose to send features unprotected.

        Raises:
            ConfigError: An epsilon is out of range, or the cut has no codebook that fits.

        """
        if self.mechanism == "none":
            return None
        if self.mechanism == "noise":
            return NoiseSpec(
                epsilon=self.noise_epsilon,
                allocation=settle(self.wish, cut, self.noise_epsilon),
                bits=self.noise_bits,
            )
        assert self.whole_input_epsilon is not None  # the config was checked
        spec = settle_codebook(cut, self.whole_input_epsilon, codewords=self.codewords, groups=self.groups)
        if spec is None:
            raise ConfigError(
                f"cut {cut.index} has no codebook that fits release.whole_input_epsilon, codewords and groups",
                remedy="prepare the bundle with --codebook",
            )
        return spec

    def usable(self, cut: Cut) -> bool:
        """Whether this release can be made at a cut."""
        return self.why_unusable(cut) is None

    def why_unusable(self, cut: Cut) -> str | None:
        """Why this release cannot be made at a cut; None if it can.

        ``codebook`` needs a codebook in the bundle that fits. ``noise`` needs tensors that can take noise, each
        with a calibration.
        """
        if self.mechanism == "noise":
            reasons = (why_unreleasable(tensor) for tensor in cut.tensors)
            missing = None if cut.calibration is not None else "has no calibration"
            return next(filter(None, reasons), missing)
        if self.mechanism == "none" or self.whole_input_epsilon is None:
            return None
        fits = settle_codebook(cut, self.whole_input_epsilon, codewords=self.codewords, groups=self.groups)
        return None if fits is not None else "has no codebook that fits whole_input_epsilon, codewords and groups"


def check_release(release: ReleaseTable, where: Callable[..., str]) -> None:
    """Check the release; an epsilon of the other mechanism (which has another unit) is a `ConfigError`.

    ``where``: gives the file of a key path, for errors.
    """
    others = {
        "noise": ("codebook", ("whole_input_epsilon", "codewords", "groups")),
        "codebook": ("noise", ("epsilon", "allocation", "bits")),
        "none": ("codebook", ("whole_input_epsilon", "codewords", "groups")),
    }
    units = {"epsilon": " is per value and", "whole_input_epsilon": " is of a frame as a whole and"}
    other, names = others[release.mechanism]
    for name in names:
        if getattr(release, name) is not None:
            place = where("release.mechanism", f"release.{name}")
            raise ConfigError(
                f"{place}: release.{name}{units.get(name, '')} belongs to release.mechanism = '{other}', not "
                f"'{release.mechanism}'",
                remedy="leave it out",
            )
    if release.mechanism == "codebook" and release.whole_input_epsilon is None:
        raise ConfigError(
            f"{where('release.mechanism')}: release.mechanism = 'codebook' needs release.whole_input_epsilon, what "
            "one frame costs",
            remedy="set it: 6 to 8 for a few dozen codewords",
        )
    for name in ("epsilon", "whole_input_epsilon"):
        value = getattr(release, name)
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{where(f'release.{name}')}: release.{name} = {value}", remedy="give a number")
