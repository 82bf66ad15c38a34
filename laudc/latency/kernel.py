"""The time of one kernel: what its schedule says it asks, in the microseconds of its target."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from laudc.errors import BuildError
from laudc.latency._cpu import CpuConstants, cpu_time
from laudc.latency._cuda import cuda_time
from laudc.latency._lists import binomial
from laudc.latency._time import Time, added
from laudc.latency.constants import Calibration, Constants, calibration_for
from laudc.ops.base import Spec
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Active, Choice, Demand, Work
from laudc.targets import Target
from laudc.types import TensorType

if TYPE_CHECKING:
    from laudc.kernels.kernel import Kernel

Weighted = Iterable[tuple[float, Active]]
"""What is on, with the probability of each case."""
EVERYTHING = ((1.0, Active()),)
"""No lists."""


def some_rows(rows: float) -> Weighted:
    """So many rows, or patches that are touched, for certain."""
    return ((1.0, Active(rows=rows)),)


def latency(
    spec: Spec,
    types: tuple[TensorType, ...],
    target: Target,
    rates: tuple[float, float] = (1.0, 1.0),
    choice: Choice | None = None,
    *,
    units: int | None = None,
    calibration: Calibration | None = None,
) -> Time:
    """The expected time of one operation on a target, lists of a uniform random choice.

    types: of its operands. rates: the share of its rows and of its channel groups that are on. units: how many
    decisions switch its rows (over the whole batch; each row its own by default). choice: the schedule's tile, its
    default if None.
    BuildError if no schedule takes it, TargetError if the tile does not fit the device.
    """
    from laudc.kernels.kernel import choose

    work = Work(spec=spec, operands=types, results=spec.results(types))
    kernel = choose(work, target, batch=1)
    offered = kernel.choice if choice is None else choice
    if offered not in kernel.plan.choices(work, kernel.target):
        raise BuildError(f"{kernel.schedule} has no tile {dict(offered)} for {spec}", "choose one of its choices")
    spread = _spread(work, rates, units)
    known = calibration or calibration_for(kernel.target)
    return expected_time(kernel.schedule, work, offered, kernel.target, known.constants, spread)


def _spread(work: Work, rates: tuple[float, float], units: int | None) -> list[tuple[float, Active]]:
    spec, named = work.spec, dict(zip(work.spec.operands, work.operands, strict=True))
    rows: list[tuple[float, float | None]] = [(1.0, None)]
    if "rows" in named:
        batch, height, width = spec.out_map(work.operands) if isinstance(spec, Conv2dSpec) else _map(work)
        every = batch * height * width
        deciding = units or every
        rows = [(weight, every * on / deciding) for weight, on in binomial(deciding, rates[0])]
    channels: list[tuple[float, float | None]] = [(1.0, None)]
    if "channels" in named:
        channels = list(binomial(named["channels"].shape[1] - 1, rates[1]))
    return [(p * q, Active(rows=r, channels=c)) for p, r in rows for q, c in channels]


def _map(work: Work) -> tuple[int, int, int]:
    four = next(type_ for type_ in (*work.results, *work.operands) if len(type_.shape) == 4)
    return (four.shape[0], four.shape[2], four.shape[3])


def expected_time(
    schedule: str, work: Work, choice: Choice, target: Target, constants: Constants, cases: Weighted
) -> Time:
    """The mean over the cases, whose weights add up to one. What all cases have in common is exact."""
    tile = tuple(sorted(choice.items()))
    times = [(weight, _time(schedule, work, tile, target, constants, active)) for weight, active in cases]
    first = times[0][1]
    return added((first, *(time.beyond(first).scaled(weight) for weight, time in times[1:])))


@lru_cache(maxsize=1 << 17)
def _time(
    schedule: str,
    work: Work,
    tile: tuple[tuple[str, int], ...],
    target: Target,
    constants: Constants,
    active: Active,
) -> Time:
    phases = SCHEDULES[schedule].demand(work, target, dict(tile), active)
    return added(phase_time(phase, target, constants, first=index == 0) for index, phase in enumerate(phases))


def demands_of(kernel: Kernel, active: Active) -> tuple[Demand, ...]:
    """What a kernel asks, phase by phase, with so much on."""
    return SCHEDULES[kernel.schedule].demand(kernel.work, kernel.target, kernel.choice, active)


def priced(cases: Iterable[tuple[float, tuple[Demand, ...]]], target: Target, constants: Constants) -> Time:
    """The mean over cases of what is asked, whose weights add up to one."""
    return added(
        phase_time(phase, target, constants, first=index == 0).scaled(weight)
        for weight, phases in cases
        for index, phase in enumerate(phases)
    )


def phase_time(demand: Demand, target: Target, constants: Constants, *, first: bool) -> Time:
    """One phase on the target. On a CPU only the first of a kernel is called; on a GPU each is launched."""
    if isinstance(constants, CpuConstants):
        return cpu_time(demand, target, constants, called=first)
    return cuda_time(demand, target, constants)
