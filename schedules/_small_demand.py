"""What the kernels ask that only go once over their data: so many turns of a loop, so many instructions in each.

On a CPU the `outer` turns are dealt out over the cores; on a GPU every turn is a thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from laudc.schedules._demand import Active, Demand
from laudc.schedules.base import Choice, Work
from laudc.types import TensorType

if TYPE_CHECKING:
    from laudc.targets import Target

_THREADS = 256


def swept(
    work: Work,
    target: Target,
    choice: Choice,
    active: Active,
    *,
    outer: float,
    turns: float,
    steps: float,
    weight_bytes: float = 0,
) -> Demand:
    """One sweep. `outer`: the turns that CPU cores share; `turns`: of the innermost loop; `steps`: of each turn."""
    share = listed_share(work, active)
    turns, outer = turns * share, max(1.0, outer * share)
    moved = Demand(
        read_bytes=share * _bytes(work.operands), written_bytes=share * _bytes(work.results), weight_bytes=weight_bytes
    )
    if target.kind == "cuda":
        each = one_turn_each(target, turns, steps=steps)
        return replace(moved, tasks=each.tasks, steps=each.steps, threads=each.threads)
    parallel = bool(choice.get("parallel", 1))
    cores = min(target.sm_count, math.ceil(outer)) if parallel else 1
    busiest = math.ceil(math.ceil(outer) / cores) / math.ceil(outer)
    return replace(moved, tasks=cores, steps=turns * steps * busiest, parallel=parallel)


def one_turn_each(target: Target, turns: float, *, steps: float) -> Demand:
    """A second phase on a GPU: a thread for each turn."""
    assert target.kind == "cuda", target
    return Demand(tasks=math.ceil(turns / _THREADS), steps=_THREADS * steps, threads=_THREADS)


def listed_share(work: Work, active: Active) -> float:
    """The share of the rows that a list names; 1 without one."""
    if active.rows is None or "rows" not in work.spec.operands:
        return 1.0
    listed = work.operands[work.spec.operands.index("rows")]
    batch = work.operands[0].shape[0] if len(work.operands[0].shape) == 4 else work.results[0].shape[0]
    every = listed.numel - batch - 1
    return active.rows / max(1, every)


def _bytes(types: Iterable[TensorType]) -> float:
    return float(sum(type_.nbytes for type_ in types))
