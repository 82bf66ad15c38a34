"""Microseconds, by what they are spent on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Time:
    """Parts that add up to the whole: on a device that does several things at once, the longest of them counts."""

    launch_us: float = 0.0
    """Starting kernels, waking cores, blocks that find nothing to do."""
    compute_us: float = 0.0
    on_chip_us: float = 0.0
    """Panels, sums that wait, lists and masks: what a core does beside its multiply-adds."""
    l2_us: float = 0.0
    dram_us: float = 0.0

    @property
    def total_us(self) -> float:
        return self.launch_us + self.compute_us + self.on_chip_us + self.l2_us + self.dram_us

    @property
    def bound(self) -> str:
        """What most of it is spent on: "launch", "compute", "on-chip", "l2" or "dram"."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return max(parts, key=lambda part: parts[part]).removesuffix("_us").replace("_", "-")

    def beyond(self, other: Time) -> Time:
        """What it takes more, or less, part by part."""
        return Time(**{field.name: getattr(self, field.name) - getattr(other, field.name) for field in fields(self)})

    def scaled(self, factor: float) -> Time:
        return Time(**{field.name: factor * getattr(self, field.name) for field in fields(self)})


def added(times: Iterable[Time]) -> Time:
    """One after another."""
    every = list(times)
    return Time(**{field.name: sum(getattr(time, field.name) for time in every) for field in fields(Time)})
