"""How long each block takes by how much of it is executed: tables that a loss reads, for one device and batch.

A device's time is a staircase in the number of active rows: nothing changes until the last core or multiprocessor is
full, then all of them take one more turn (a wave). The slope of a stair is zero or infinite, of no use to a gradient.
So the points of a curve lie at least one wave apart, and between them the curve is the secant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from laudc.errors import InputError
from laudc.latency.constants import Calibration
from laudc.latency.network import NetworkModel, Priced
from laudc.schedules import SCHEDULES, Active

_FINEST = {1: 16, 2: 8}
"""Intervals of an axis at most, by the number of axes."""
_MATTERS = 0.1
"""Of the block's time: the waves of shorter kernels are too low to be seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyCurve:
    """One block's expected time over the rates of its maskers. It never falls along any axis."""

    maskers: tuple[str, ...]
    """One an axis."""
    rates: tuple[tuple[float, ...], ...]
    """The points of each axis, from 0 to 1."""
    us: tuple[float, ...]
    """Microseconds a call at every point of the grid, the last axis fastest."""

    def at(self, *rates: Tensor) -> Tensor:
        """Microseconds at the executed rates, one tensor an axis, of shapes that broadcast together.

        Linear between the table's points, so the gradient is the slope of the secant; at a point it is that of the
        interval above. InputError for another number of rates.
        """
        if len(rates) != len(self.rates):
            raise InputError(f"the curve has {len(self.rates)} axes, not {len(rates)}", f"give {_some(self.maskers)}")
        table = rates[0].new_tensor(self.us)
        places = [_place(points, rate) for points, rate in zip(self.rates, rates, strict=True)]
        us = torch.zeros_like(rates[0])
        for corner in product((0, 1), repeat=len(places)):
            weight, index = torch.ones_like(rates[0]), torch.zeros_like(rates[0], dtype=torch.long)
            for side, points, (low, share) in zip(corner, self.rates, places, strict=True):
                weight = weight * (share if side else 1 - share)
                index = index * len(points) + low + side
            us = us + weight * table[index]
        return us

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {"maskers": list(self.maskers), "rates": [list(axis) for axis in self.rates], "us": list(self.us)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LatencyCurve:
        """The inverse of `to_json`. InputError for anything else."""
        match values:
            case {"maskers": [str(), *_] as maskers, "rates": [[_, _, *_], *_] as axes, "us": [_, *_] as us} if len(
                maskers
            ) == len(axes) and math.prod(map(len, axes)) == len(us):
                return cls(maskers=tuple(maskers), rates=tuple(map(tuple, axes)), us=tuple(us))
            case _:
                raise InputError("this is no latency curve", "make it again")


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """A whole network: the sum of its curves and of what no rate changes."""

    blocks: Mapping[str, LatencyCurve]
    fixed_us: float
    """Stem, head, blocks that stay static."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {"blocks": {name: curve.to_json() for name, curve in self.blocks.items()}, "fixed_us": self.fixed_us}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Curves:
        """The inverse of `to_json`. InputError for anything else."""
        match values:
            case {"blocks": dict(blocks), "fixed_us": float(fixed)}:
                return cls(blocks={k: LatencyCurve.from_json(v) for k, v in blocks.items()}, fixed_us=fixed)
            case _:
                raise InputError("these are no latency curves", "make them again")


def curves(network: NetworkModel, calibration: Calibration) -> Curves:
    """The curve of every block that decides something, at the batch the network was bound for."""
    decided = {block: _maskers(network.only(block)) for block in dict.fromkeys(call.block for call in network.calls)}
    known: dict[tuple[object, ...], LatencyCurve] = {}
    found = {}
    for block, maskers in decided.items():
        if maskers:
            part = network.only(block)
            alike = _signature(part, maskers)
            if alike not in known:
                known[alike] = _curve(part, maskers, calibration)
            first = known[alike]
            found[block] = LatencyCurve(maskers=maskers, rates=first.rates, us=first.us)
    at_one = network.expected(calibration, 1.0).blocks
    return Curves(blocks=found, fixed_us=sum(time.total_us for block, time in at_one.items() if block not in found))


def _curve(part: NetworkModel, maskers: tuple[str, ...], calibration: Calibration) -> LatencyCurve:
    times = {name: time.total_us for name, time in part.expected(calibration, 1.0).steps.items()}
    seen = [call for call in part.calls if times[call.name] >= _MATTERS * sum(times.values())]
    finest = _FINEST.get(len(maskers), 4)
    axes = []
    for masker in maskers:
        full = min((waves for call in seen for waves in _full_waves(call, masker)), default=finest)
        intervals = min(finest, full)
        axes.append(tuple(step / intervals for step in range(intervals + 1)))
    us = tuple(
        sum(
            time.total_us for time in part.expected(calibration, dict(zip(maskers, rates, strict=True))).blocks.values()
        )
        for rates in product(*axes)
    )
    return LatencyCurve(maskers=maskers, rates=tuple(axes), us=us)


def _full_waves(call: Priced, masker: str) -> Sequence[int]:
    """Of each phase that a masker makes longer than one wave: how many full waves lie between its rates 0 and 1."""
    if call.lists is None or masker not in _keys(call):
        return ()
    kernel, rows = call.kernel, [source.key for source in call.lists.rows]
    schedule, cores = SCHEDULES[kernel.schedule], kernel.target.sm_count
    (_, every) = call.lists.expected(dict.fromkeys(_keys(call), 1.0))[0]
    none = Active(rows=0.0, channels=every.channels) if masker in rows else Active(rows=every.rows, channels=0.0)
    work, tile = kernel.work, dict(kernel.choice)
    phases = zip(
        schedule.demand(work, kernel.target, tile, none),
        schedule.demand(work, kernel.target, tile, every),
        strict=True,
    )
    return [
        max(1, math.floor((after.tasks - before.tasks) / cores))
        for before, after in phases
        if after.parallel and after.tasks > before.tasks and after.tasks > cores
    ]


def _keys(call: Priced) -> tuple[str, ...]:
    """The maskers that decide how much of a call runs."""
    if call.lists is None:
        return ()
    return (*(source.key for source in call.lists.rows), *([call.lists.channels] if call.lists.channels else []))


def _maskers(part: NetworkModel) -> tuple[str, ...]:
    used = {key for call in part.calls for key in _keys(call)}
    return tuple(masker for masker in part.maskers if masker in used)


def _signature(part: NetworkModel, maskers: tuple[str, ...]) -> tuple[object, ...]:
    """What the part's time depends on, whatever its maskers are called."""
    return tuple(
        (
            call.kernel.schedule,
            call.kernel.work,
            tuple(sorted(call.kernel.choice.items())),
            tuple(maskers.index(key) for key in _keys(call)),
            None if call.lists is None else tuple((s.down.tobytes(), s.across.tobytes()) for s in call.lists.rows),
        )
        for call in part.calls
    )


def _place(points: Sequence[float], rate: Tensor) -> tuple[Tensor, Tensor]:
    """The point below a rate, as an index, and how much of the way to the next one it is."""
    axis = rate.new_tensor(points)
    low = (torch.searchsorted(axis, rate.detach().contiguous(), right=True) - 1).clamp(0, len(points) - 2)
    return low, (rate - axis[low]) / (axis[low + 1] - axis[low])


def _some(maskers: Sequence[str]) -> str:
    return f"the rates of {' and '.join(maskers)}"
