"""What the strongest attack sees, in words, by a stated rule.

SSIM is compared with two things: He, Zhang and Lee (ACSAC 2019) call pictures below 0.3 unrecognisable; and the
answer alone, without any features, lets an attacker draw the mean public picture of its class. Who is in a picture
counts too, where people are known.
"""

from __future__ import annotations

from split_model.bundle.exposure import LEVELS, WORDS, Reveals

__all__ = ["LAYOUT_SSIM", "LEVELS", "PICTURE_SSIM", "WORDS", "Reveals", "reveals"]

PICTURE_SSIM, LAYOUT_SSIM = 0.6, 0.3


def reveals(ssim: float, low: float, answer_high: float, *, identified: bool = False) -> Reveals:
    """Say what an attack sees.

    Args:
        ssim: The strongest attack's mean SSIM.
        low: Where its 95 % interval begins.
        answer_high: Where the interval of the answer alone ends.
        identified: People are told apart better than by the answer alone, beyond the intervals of both.

    Returns:
        ``picture`` from SSIM 0.6 on, ``layout`` from 0.3 on; below, ``traces`` where the interval lies above that
        of the answer alone, or people are identified, else ``answer``.

    """
    if ssim >= PICTURE_SSIM:
        return "picture"
    if ssim >= LAYOUT_SSIM:
        return "layout"
    return "traces" if low > answer_high or identified else "answer"
