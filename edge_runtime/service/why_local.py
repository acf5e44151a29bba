"""Explains why no frame was offloaded."""

from __future__ import annotations

from edge_runtime.loop.results import Step


def why_local(step: Step | None, local: int) -> str | None:
    """Return the reason, as of the last frame, that frames were answered on this board.

    Args:
        step: The last frame, None if there was none.
        local: The split that runs the whole model here.

    Returns:
        A sentence, or None if the reason is logged elsewhere: a fixed split, a link that is down, no usable cut.

    """
    if step is None or not step.view.up:
        return None
    decision = step.decision
    here = decision.expected_at(local)
    cuts = [prediction for prediction in decision.predictions if prediction.split != local]
    if here is None or not cuts or decision.split != local:
        return None
    best = min(cuts, key=lambda prediction: prediction.total_s)
    return (
        f"no frame was offloaded: by prediction one takes {here.total_s * 1e3:.2g} ms here and "
        f"{best.total_s * 1e3:.2g} ms at the best cut, {best.split}; planner.split = {best.split} sends frames all "
        "the same"
    )
