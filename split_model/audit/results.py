"""What an audit finds, as its JSON has it."""

from __future__ import annotations

import msgspec

from split_model.audit.verdict import Reveals


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """One attacker on one setting: SSIM and PSNR with the interval of 95 % over pictures."""

    attacker: str
    ssim: float
    ssim_low: float
    ssim_high: float
    psnr_db: float
    note: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One setting.

    ``found``: the share of frames that the exact likelihood picks out of ``candidates``; ``bound``: what pure ε
    allows; None without a mechanism. ``attacks``: the strongest first.
    """

    cut: int
    mechanism: str
    setting: str
    per_value_epsilon: float | None
    whole_input_epsilon: float | None
    attacks: list[Attack]
    found: float | None
    bound: float | None
    candidates: int
    reveals: Reveals
    pictures: str


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What an attacker draws without any features."""

    name: str
    ssim: float
    ssim_low: float
    ssim_high: float
    psnr_db: float


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
