"""Milliseconds of several variants side by side, so that a disturbance of the machine meets them all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping


def interleaved_ms(variants: Mapping[str, Callable[[int], object]], *, rounds: int) -> dict[str, list[float]]:
    """The milliseconds of `rounds` calls of each variant, in rounds of shuffled order.

    A variant is called with the round's number and returns when its work is done. Each timed call follows an untimed
    one of the same variant: by then the idle threads that another's thread pool keeps spinning have gone to sleep.
    """
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in random.Random(number).sample(list(variants), len(variants)):
            variants[name](number)
            start = time.perf_counter()
            variants[name](number)
            samples[name].append(1e3 * (time.perf_counter() - start))
    return samples
