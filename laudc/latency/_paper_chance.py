"""How full the fullest tile is where channels are on by chance: the load imbalance of channel skipping, exactly."""

from __future__ import annotations

import math
from functools import cache

_DEVIATIONS = 10


@cache
def fullest_share(tiles: int, decisions: int, rate: float) -> float:
    """The expected maximum over `tiles` of the share that is on, out of `decisions` of each, on at `rate` alone.

        E[max] = sum over k of  1 - P(Binomial(decisions, rate) <= k) ** tiles

    summed within ten standard deviations of the mean: what lies beyond is less than a float can show.
    """
    if tiles == 1 or rate in (0.0, 1.0):
        return rate
    mean, spread = decisions * rate, math.sqrt(decisions * rate * (1 - rate))
    margin = _DEVIATIONS * (spread + 1)
    low, high = max(0, math.floor(mean - margin)), min(decisions, math.ceil(mean + margin))
    exactly = math.exp(_log_probability(low, decisions, rate))
    at_most, expected = 0.0, float(low)
    for count in range(low, high):
        at_most += exactly
        expected += 1 - min(at_most, 1.0) ** tiles
        exactly *= (decisions - count) / (count + 1) * rate / (1 - rate)
    return min(expected / decisions, 1.0)


def _log_probability(count: int, decisions: int, rate: float) -> float:
    ways = math.lgamma(decisions + 1) - math.lgamma(count + 1) - math.lgamma(decisions - count + 1)
    return ways + count * math.log(rate) + (decisions - count) * math.log1p(-rate)
