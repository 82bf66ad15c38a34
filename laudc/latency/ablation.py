"""What each fusion brings: the network's predicted time without it. It corresponds to the paper's table 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laudc.latency.planner import Search
    from laudc.plan import Plan
    from laudc.program import Program

FUSED, UNFUSED = "nothing", "all of them"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablated:
    """The dynamic network without some fusions; microseconds a call."""

    without: str
    dynamic_us: float
    blocks_us: Mapping[str, float]


def ablate_fusion(program: Program, plan: Plan, search: Search) -> tuple[Ablated, ...]:
    """Fused as it is compiled, then without each optional pass, then without any. Arguments as for `pair_of`."""
    from laudc import pipeline
    from laudc.latency.planner import bound, converted, typed_for

    network = converted(typed_for(program, search), plan)
    fusions = pipeline.optional_passes()
    cases = {FUSED: (), **{name: (name,) for name in fusions}, UNFUSED: fusions}
    blocks = [block.name for block in program.blocks]
    found = []
    for words, without in cases.items():
        time = bound(network, search, without=without).expected(search.calibration, search.rate)
        by_block = {name: time.blocks[name].total_us for name in blocks}
        found.append(Ablated(without=words, dynamic_us=time.total_us, blocks_us=by_block))
    return tuple(found)
