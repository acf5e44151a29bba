"""What the strongest attack sees, in words, by a stated rule.

SSIM is compared with two things: He, Zhang and Lee (ACSAC 2019) call pictures below 0.3 unrecognisable; and the
answer alone, without any features, lets an attacker draw the mean public picture of its class.
"""

from __future__ import annotations

from typing import Literal, get_args

Reveals = Literal["answer", "traces", "layout", "picture"]

#: From the least to the most.
LEVELS: tuple[Reveals, ...] = get_args(Reveals)
PICTURE_SSIM, LAYOUT_SSIM = 0.6, 0.3
WORDS: dict[Reveals, str] = {
    "answer": "no more than the answer",
    "traces": "traces, not recognisable",
    "layout": "the layout is visible",
    "picture": "the picture is recognisable",
}


def reveals(ssim: float, low: float, answer_high: float) -> Reveals:
    """Say what an attack sees.

    Args:
        ssim: The strongest attack's mean SSIM.
        low: Where its 95 % interval begins.
        answer_high: Where the interval of the answer alone ends.

    Returns:
        ``picture`` from SSIM 0.6 on, ``layout`` from 0.3 on; below, ``traces`` where the interval lies above that
        of the answer alone, else ``answer``.

    """
    if ssim >= PICTURE_SSIM:
        return "picture"
    if ssim >= LAYOUT_SSIM:
        return "layout"
    return "traces" if low > answer_high else "answer"
