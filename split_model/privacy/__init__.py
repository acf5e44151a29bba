"""Releases of features under differential privacy: mechanism, allocation of the budget, accounting."""

from split_model.privacy.accountant import (
    composed_whole_input_epsilon,
    per_value_epsilon_max,
    per_value_epsilon_mean,
    whole_input_epsilon,
)
from split_model.privacy.allocation import Allocation, Channel, allocate, relative_cost
from split_model.privacy.events import ChannelNoise, LaplaceEvent
from split_model.privacy.grid import Grid, GridCost, grid_cost, least_epsilon, make_grid
from split_model.privacy.plan import NoisePlan, NoiseSpec, cut_channels
from split_model.privacy.release import NoiseRelease, recover

__all__ = [
    "Allocation",
    "Channel",
    "ChannelNoise",
    "Grid",
    "GridCost",
    "LaplaceEvent",
    "NoisePlan",
    "NoiseRelease",
    "NoiseSpec",
    "allocate",
    "composed_whole_input_epsilon",
    "cut_channels",
    "grid_cost",
    "least_epsilon",
    "make_grid",
    "per_value_epsilon_max",
    "per_value_epsilon_mean",
    "recover",
    "relative_cost",
    "whole_input_epsilon",
]
