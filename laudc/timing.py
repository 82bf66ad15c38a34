"""Milliseconds of several variants side by side, so that a disturbance of the machine meets them all."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

_LOADED = 1.25  # runnable processes a core
_STEADY = 2.0  # the third quartile over the first, beyond which times say nothing


_IN_A_ROW = 10
"""Calls that a GPU gets at once, so that its own clock sees no gap between them."""

Clock = Callable[[Callable[[], object]], float]
"""The milliseconds of a call."""


def host_ms(call: Callable[[], object]) -> float:
    """By this process's clock; the call returns when its work is done."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def cuda_ms(call: Callable[[], object]) -> float:
    """By the GPU's clock, the mean of some calls in a row; the call only has to have its work queued."""
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(_IN_A_ROW):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / _IN_A_ROW


def interleaved_ms(
    variants: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    clock: Clock = host_ms,
    progress: Callable[[str, int], object] = lambda name, number: None,
) -> dict[str, list[float]]:
    """The milliseconds of `rounds` calls of each variant, in rounds of shuffled order.

    A variant is called with the round's number and returns when its work is done. Each timed call follows an untimed
    one of the same variant: by then the idle threads that another's thread pool keeps spinning have gone to sleep.
    `progress` hears which variant comes next, in which round, before the untimed call.
    """
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in random.Random(number).sample(list(variants), len(variants)):
            progress(name, number)
            variants[name](number)
            samples[name].append(clock(partial(variants[name], number)))
    return samples


def middle_half(times_ms: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    if len(times_ms) < 2:
        return times_ms[0], times_ms[0]
    low, _, high = statistics.quantiles(times_ms, n=4, method="inclusive")
    return low, high


def digits(number: float) -> str:
    """Four significant ones, or all that stand before the point."""
    return f"{number:.4g}" if number < 1e4 else f"{number:.0f}"


def fastest(variants: Mapping[str, Sequence[float]]) -> str:
    """The variant with the least median."""
    return min(variants, key=lambda name: statistics.median(variants[name]))


def verdict(ours_ms: Sequence[float], static_ms: Mapping[str, Sequence[float]]) -> str:
    """How a network compares with the fastest static one; the keys say what runs those.

    No verdict where the times of one vary, or others use the machine, so much that they cannot say.
    """
    best = fastest(static_ms)
    halves = {"this network": middle_half(ours_ms), f"static by {best}": middle_half(static_ms[best])}
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > _LOADED * cores or any(high > _STEADY * low for low, high in halves.values()):
        spreads = "; ".join(f"{name} {digits(low)} to {digits(high)} ms" for name, (low, high) in halves.items())
        return (
            f"no verdict: the machine is busy (load {load:.1f} on {cores} cores; middle half of the calls: {spreads})"
        )
    ratio = statistics.median(ours_ms) / statistics.median(static_ms[best])
    word = "as fast as" if f"{ratio:.2f}" == "1.00" else "faster than" if ratio < 1 else "SLOWER than"
    return f"{word} static by {best}: ratio {ratio:.2f}"
