"""Effective values of unset keys whose default depends on other keys; `config show` prints them."""

from __future__ import annotations

from edge_runtime.config.config import Config


def in_force(config: Config) -> dict[str, str]:
    """Return the effective values of unset keys by key path, as values or in words.

    Keys that are set are left out, as are those whose absence needs no explanation.
    """
    release, planner = config.release, config.planner
    told: dict[str, str] = {}
    if release.mechanism == "noise":
        told |= {
            "release.epsilon": f"{release.noise_epsilon:g}",
            "release.allocation": release.wish,
            "release.bits": str(release.noise_bits),
        }
    if release.mechanism == "codebook":
        told |= {"release.codewords": "the best of the cut", "release.groups": "the best of the cut"}
    floor = planner.floor
    if floor is not None:
        told["planner.accuracy_floor"] = f"{floor.value:g}"
    told |= {
        "planner.reveal_at_most": "anything",
        "device.backend": "the installed one",
        "device.head_memory_mb": "room for the two largest heads",
        "device.status": "in the service's runtime folder",
        "privacy.subject_budget": "unlimited",
        "privacy.window_budget": "unlimited",
    }
    return told
