"""What an audit finds, as its JSON has it."""

from __future__ import annotations

import msgspec

from split_model.bundle.evaluation import Share
from split_model.bundle.exposure import Reveals
from split_model.privacy import CodebookSpec, NoiseSpec


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """One attacker on one setting, with the 95 % interval of SSIM over pictures.

    ``feature_distance``: squared distance of the head's features from those of the true picture, over that of the
    mean public picture; 0 is the same features, 1 no better than the mean.
    """

    attacker: str
    ssim: float
    ssim_low: float
    ssim_high: float
    psnr_db: float
    feature_distance: float
    note: str = ""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What an attacker draws without any features."""

    name: str
    ssim: float
    ssim_low: float
    ssim_high: float
    psnr_db: float


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """How often somebody is named from one release, of ``people`` people; chance is 1 in ``people``.

    ``retrieval``: the nearest known picture is of the right person. ``probe``: a linear classifier, trained on
    releases of the known pictures, names the right one.
    """

    people: int
    retrieval: Share
    probe: Share

    @property
    def chance(self) -> float:
        """The share of right guesses without any knowledge."""
        return 1 / self.people

    @property
    def best(self) -> Share:
        """The better of both."""
        return max(self.retrieval, self.probe, key=lambda share: share.value)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model still answers: the mean agreement with the unsplit model, and accuracy where known.

    ``aware``: agreement with the tail that was trained with this noise; None where there is none.
    """

    agreement: Share | None
    accuracy: Share | None
    aware: Share | None = None

    @property
    def best(self) -> float | None:
        """The agreement that a user gets: of the noise-aware tail, where there is one."""
        share = self.agreement if self.aware is None else self.aware
        return None if share is None else share.value


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One setting.

    ``found``: the share of frames that the exact likelihood picks out of ``candidates``; ``bound``: what pure ε
    allows; None without a mechanism. ``attacks``: the strongest on one release first. ``pictures`` and ``network``
    are files in the audit's work folder.
    """

    cut: int
    mechanism: str
    setting: str
    spec: NoiseSpec | None
    codebook: CodebookSpec | None
    per_value_epsilon: float | None
    whole_input_epsilon: float | None
    payload_bytes: int
    attacks: list[Attack]
    found: float | None
    bound: float | None
    candidates: int
    reveals: Reveals
    pictures: str
    network: str
    identity: Identity | None = None
    task: Task | None = None

    @property
    def best(self) -> Attack:
        """The strongest attack on one release."""
        return self.attacks[0]


class WireCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check of what really leaves, through the wire; see `audit.wire_audit`.

    ``claim``: the largest log ratio of probabilities that the release allows; ``proven``: the one that the trials
    prove, wrong with a chance of 10^-6 at most. ``holds``: not proven to be broken.
    """

    cut: int
    setting: str
    name: str
    claim: float
    proven: float
    trials: int
    holds: bool
    text: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """A whole audit. ``skipped``: attackers that could not be tried, and why."""

    bundle: str
    identity: str
    victims: int
    public: int
    quick: bool
    references: list[Reference]
    results: list[Result]
    skipped: list[str]
    answer_identity: Identity | None = None
    wire: list[WireCheck] = []
