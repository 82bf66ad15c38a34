"""Which tile a kernel gets: of those its schedule offers, the one predicted to be fastest at the rate that matters.

The schedule's own default stays unless another one is predicted to be clearly faster. What was found is kept in the
user's cache, under a key with everything it depends on: the work, the target's facts, the constants, the rate, and
the source of all that lowers and prices.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from laudc.errors import TargetError
from laudc.kernels import cache as disk
from laudc.latency.constants import Calibration, device_identity
from laudc.latency.kernel import Weighted, expected_time
from laudc.latency.remembered import source_hash
from laudc.schedules import Choice, Work
from laudc.targets import Target

MARGIN = 0.05
"""How much faster another tile has to be before it replaces the default; predictions are not better than that."""


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
