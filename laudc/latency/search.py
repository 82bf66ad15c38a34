"""Which tile a kernel gets: of those its schedule offers, the one predicted to be fastest at the rate that matters.

The schedule's own default stays unless another one is predicted to be clearly faster. What was found is kept in the
user's cache, under a key with everything it depends on: the work, the target's facts, the constants, the rate, and
the source of all that lowers and prices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache

from laudc.errors import BuildError, TargetError
from laudc.kernels import cache as disk
from laudc.kernels.kernel import Kernel, Tile, choose, offers
from laudc.latency._time import Time
from laudc.latency.constants import Calibration, calibration_for, device_identity
from laudc.latency.kernel import EVERYTHING, Weighted, expected_time
from laudc.latency.remembered import source_hash
from laudc.ops.base import Spec
from laudc.schedules import Choice, Work
from laudc.targets import Target
from laudc.types import TensorType

CalibrationOf = Callable[[Target], Calibration]

MARGIN = 0.05
"""How much faster another tile has to be before it replaces the default; predictions are not better than that."""


def calibrations(given: Calibration | None) -> CalibrationOf:
    """The given one, or what each device has, read once."""
    return cache(calibration_for) if given is None else lambda device: given


def fastest_kernel(
    work: Work,
    target: Target,
    *,
    batch: int,
    cases: Weighted,
    calibration: CalibrationOf,
    preferred: Sequence[Tile] = (),
) -> Kernel:
    """The first of the preferred tiles that is offered, else the fastest one of the first schedule that takes the work.

    BuildError if no schedule takes it, TargetError if no tile fits.
    """

    def search(schedule: str, work: Work, offered: Sequence[Choice], device: Target) -> Choice:
        return best_choice(schedule, work, offered, device, calibration(device), cases)

    return choose(work, target, batch=batch, preferred=preferred, search=search)


def fastest_time(
    spec: Spec,
    types: tuple[TensorType, ...],
    target: Target,
    *,
    batch: int,
    calibration: CalibrationOf,
    cases: Weighted = EVERYTHING,
) -> Time:
    """The expected time of that kernel, for an operation on operands of these types."""
    work = Work(spec=spec, operands=types, results=spec.results(types))
    kernel = fastest_kernel(work, target, batch=batch, cases=cases, calibration=calibration)
    constants = calibration(kernel.target).constants
    return expected_time(kernel.schedule, work, kernel.choice, kernel.target, constants, cases)


def has_kernel(spec: Spec, types: tuple[TensorType, ...], target: Target) -> bool:
    """Whether a schedule takes an operation on operands of these types."""
    work = Work(spec=spec, operands=types, results=spec.results(types))
    try:
        choose(work, target, batch=types[0].shape[0])
    except BuildError:
        return False
    return True


def best_choice(
    schedule: str, work: Work, offered: Sequence[Choice], target: Target, calibration: Calibration, cases: Weighted
) -> Choice:
    """One of `offered`, the default first. TargetError where none of them fits the target."""
    if len(offered) == 1:
        return offered[0]
    known = tuple(cases)
    key = _key(schedule, work, offered, target, calibration, known)
    kept = disk.get(key)
    if kept is not None:
        return offered[int(kept)]
    times = [_microseconds(schedule, work, choice, target, calibration, known) for choice in offered]
    best = min(range(len(offered)), key=lambda index: times[index])
    if times[best] == float("inf"):
        raise TargetError(f"no tile of {schedule} fits {target.name} for {work.spec}", "check the target's facts")
    found = best if times[best] < (1 - MARGIN) * times[0] else 0
    disk.put(key, str(found).encode())
    return offered[found]


def candidates(work: Work, target: Target, calibration: Calibration, cases: Weighted, *, most: int) -> list[Tile]:
    """The default, then those that are predicted to be fastest, of whatever schedule takes the work: `most` in all.

    A tile that does not fit the target is left out.
    """
    known = tuple(cases)
    priced = [
        (_microseconds(schedule, work, choice, target, calibration, known), schedule, choice)
        for schedule, choice in offers(work, target)
    ]
    fitting = [one for one in priced if one[0] < float("inf")]
    ordered = fitting[:1] + sorted(fitting[1:], key=lambda one: one[0])
    return [Tile(schedule=schedule, choice=choice, origin="tuned") for _, schedule, choice in ordered[:most]]


def _microseconds(
    schedule: str, work: Work, choice: Choice, target: Target, calibration: Calibration, cases: Weighted
) -> float:
    try:
        return expected_time(schedule, work, choice, target, calibration.constants, cases).total_us
    except TargetError:  # the tile does not fit this device
        return float("inf")


def _key(
    schedule: str, work: Work, offered: Sequence[Choice], target: Target, calibration: Calibration, cases: Weighted
) -> str:
    content = {
        "schedule": schedule,
        "op": work.spec.name,
        "spec": work.spec.to_json(),
        "types": [str(type_) for type_ in (*work.operands, *work.results)],
        "offered": [dict(sorted(choice.items())) for choice in offered],
        "target": device_identity(target),
        "constants": asdict(calibration.constants),
        "cases": [[weight, active.rows, active.channels] for weight, active in cases],
        "source": source_hash(),
    }
    return disk.key_of("choice 1", json.dumps(content, sort_keys=True))
