"""Header records of the release of a request's features."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from split_model.privacy import CodebookSpec, NoiseSpec

Token: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class NoRelease(msgspec.Struct, frozen=True, tag="none", forbid_unknown_fields=True):
    """The raw features, unprotected: only where the user set ``release = "none"``."""


class Noise(msgspec.Struct, frozen=True, tag="noise", forbid_unknown_fields=True, kw_only=True):
    """Features under the noise release; ``digest``: of the plan that both sides derive from the bundle."""

    spec: NoiseSpec
    digest: Token


class Codebook(msgspec.Struct, frozen=True, tag="codebook", forbid_unknown_fields=True, kw_only=True):
    """A codeword of each group by randomised response; ``digest`` as in `Noise`."""

    spec: CodebookSpec
    digest: Token


Release: TypeAlias = NoRelease | Noise | Codebook
