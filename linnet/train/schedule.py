"""Learning-rate schedules: progress in [0, 1] -> factor in [0, 1] of the peak rate.

Progress is steps done / steps planned. A schedule has no state of its own, so a resumed run
follows the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def wsd(warmup: float, decay: float) -> Schedule:
    """Warmup, stable, decay to zero; ``warmup`` and ``decay`` are shares of the run.

    The decay is 1 - sqrt, which Hägele et al. (2024) found better than linear and than cosine.
    """

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        if progress <= 1 - decay:
            return 1.0
        return 1 - math.sqrt((progress - (1 - decay)) / decay)

    return factor


def cosine(warmup: float, decay: float) -> Schedule:
    """Warmup, then half a cosine to zero (Loshchilov and Hutter 2017). ``decay`` has no meaning here."""

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))

    return factor


SCHEDULES: dict[str, Callable[[float, float], Schedule]] = {"wsd": wsd, "cosine": cosine}
