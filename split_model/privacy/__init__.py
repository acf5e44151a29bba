"""Releases of features under differential privacy: mechanisms, allocation of the budget, accounting."""

from split_model.bundle.manifest import Allocation
from split_model.privacy.accountant import (
    Guarantee,
    per_value_epsilon_max,
    per_value_epsilon_mean,
    whole_input,
    whole_input_epsilon,
)
from split_model.privacy.allocation import (
    ALLOCATIONS,
    AllocationWish,
    Channel,
    allocate,
    relative_cost,
    settle,
)
from split_model.privacy.codebook import (
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    expected_share,
    recover_codebook,
    settle_codebook,
)
from split_model.privacy.events import (
    ChannelNoise,
    Event,
    LaplaceEvent,
    ResponseEvent,
)
from split_model.privacy.grid import Grid, least_epsilon, make_grid
from split_model.privacy.plan import NoisePlan, NoiseSpec, PlanMaker, cut_channels, default_bits
from split_model.privacy.randomised_response import RandomisedResponse
from split_model.privacy.recovery import NoiseRecovery, recover
from split_model.privacy.release import NoiseRelease

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "AllocationWish",
    "Channel",
    "ChannelNoise",
    "CodebookPlan",
    "CodebookRelease",
    "CodebookSpec",
    "Event",
    "Grid",
    "Guarantee",
    "LaplaceEvent",
    "NoisePlan",
    "NoiseRecovery",
    "NoiseRelease",
    "NoiseSpec",
    "PlanMaker",
    "RandomisedResponse",
    "ResponseEvent",
    "allocate",
    "cut_channels",
    "default_bits",
    "expected_share",
    "least_epsilon",
    "make_grid",
    "per_value_epsilon_max",
    "per_value_epsilon_mean",
    "recover",
    "recover_codebook",
    "relative_cost",
    "settle",
    "settle_codebook",
    "whole_input",
    "whole_input_epsilon",
]
