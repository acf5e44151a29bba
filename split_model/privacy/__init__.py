"""Releases of features under differential privacy: mechanism, allocation of the budget, accounting."""

from split_model.bundle.manifest import Allocation
from split_model.privacy.accountant import (
    composed_whole_input_epsilon,
    per_value_epsilon_max,
    per_value_epsilon_mean,
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
    ChannelRho,
    Event,
    GaussianEvent,
    LaplaceEvent,
    ResponseEvent,
)
from split_model.privacy.gaussian import GaussianGrid, make_gaussian_grid
from split_model.privacy.grid import Grid, GridCost, grid_cost, least_epsilon, make_grid
from split_model.privacy.guarantee import Guarantee, per_value, whole_input
from split_model.privacy.plan import NoisePlan, NoiseSpec, cut_channels
from split_model.privacy.randomised_response import RandomisedResponse
from split_model.privacy.release import NoiseRelease, recover

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "AllocationWish",
    "Channel",
    "ChannelNoise",
    "ChannelRho",
    "CodebookPlan",
    "CodebookRelease",
    "CodebookSpec",
    "Event",
    "GaussianEvent",
    "GaussianGrid",
    "Grid",
    "GridCost",
    "Guarantee",
    "LaplaceEvent",
    "NoisePlan",
    "NoiseRelease",
    "NoiseSpec",
    "RandomisedResponse",
    "ResponseEvent",
    "allocate",
    "composed_whole_input_epsilon",
    "cut_channels",
    "expected_share",
    "grid_cost",
    "least_epsilon",
    "make_gaussian_grid",
    "make_grid",
    "per_value",
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
