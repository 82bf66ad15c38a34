"""Microseconds of a demand on a CPU: its cores do one thing after another, so what they do adds up.

    phase = call + wake + (tasks of the busiest core) * (macs + on-chip + l2 + steps) + weights + activations

The loop over tasks is cut into as many runs of neighbours as there are cores, so the busiest has ceil(tasks / cores).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from laudc.latency._time import Time
from laudc.targets import Target

if TYPE_CHECKING:
    from laudc.schedules import Demand


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuConstants:
    """What a data sheet does not tell. Rates are of one core, unless they say otherwise; 1e3 a us is 1e9 a second."""

    kept: ClassVar[frozenset[str]] = frozenset()
    """What is not fitted: nothing."""

    macs_per_us: float
    """Multiply-adds in a register tile's inner loop."""
    on_chip_bytes_per_us: float
    """Copying into panels, putting sums away and taking them up again."""
    l2_bytes_per_us: float
    """Weights that a core reads again for another task."""
    steps_per_us: float
    """Instructions that are no multiply-adds of a tile, vectors or single numbers."""
    cold_bytes_per_us: float = 40e3
    """Weights, which the rest of the network has pushed out of the caches; all cores together."""
    warm_bytes_per_us: float = 100e3
    """Activations, which the kernel before has just written; all cores together, from the cache they share."""
    spilled_bytes_per_us: float = 35e3
    """Activations that this cache no longer holds."""
    cache_share: float = 0.2
    """Of that cache, what stays until the next kernel reads it: weights and other tenants pass through it too."""
    call_us: float = 2.5
    wake_us: float = 5.0
    """Until the other cores have begun, and until the first one knows that they are done."""

    @classmethod
    def of(cls, target: Target) -> CpuConstants:
        """What is expected of a CPU that nobody has measured: shares of its peak that were seen on another."""
        clock = target.clock_mhz
        return cls(
            macs_per_us=0.9 * target.fp32_lanes_per_sm * clock,
            on_chip_bytes_per_us=12 * clock,
            l2_bytes_per_us=64 * clock,
            steps_per_us=1.2 * clock,
        )


def cpu_time(demand: Demand, target: Target, constants: CpuConstants, *, called: bool = True) -> Time:
    """One phase, all its repeats. called: whether it begins with the call, as the first phase of a kernel does."""
    c, repeats = constants, max(1.0, demand.repeats)
    busiest = math.ceil(demand.tasks / target.sm_count) if demand.parallel else demand.tasks
    shared = demand.parallel and demand.tasks > 1
    moved = demand.read_bytes + demand.written_bytes
    warm = min(moved, c.cache_share * target.l2_kib * 1024)
    moved_us = warm / c.warm_bytes_per_us + (moved - warm) / c.spilled_bytes_per_us
    return Time(
        launch_us=c.call_us * called + repeats * c.wake_us * shared,
        compute_us=repeats * busiest * demand.macs / c.macs_per_us,
        on_chip_us=repeats * busiest * (demand.on_chip_bytes / c.on_chip_bytes_per_us + demand.steps / c.steps_per_us),
        l2_us=repeats * busiest * demand.l2_bytes / c.l2_bytes_per_us + moved_us,
        dram_us=demand.weight_bytes / c.cold_bytes_per_us,
    )
