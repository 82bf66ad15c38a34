"""Predictions along one axis: the rate, the granularity, the batch. They correspond to the paper's figures 5 to 8.

Each is a list of points, which say in which panel and on which line they belong: a panel is a block (the last of its
stage) or the whole network, a line a paradigm; against the granularity it is the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from laudc.latency.prediction import Pair, pair_of

if TYPE_CHECKING:
    from laudc.latency.planner import Search
    from laudc.plan import Plan
    from laudc.program import Program

SWEEPS = ("batch", "granularity", "rate")
NETWORK = "whole network"
_RATE_STEPS = 20
_LARGEST_BATCH = 128

Tell = Callable[[int, int], None]
"""Told how much is ready, and of how much, as a sweep goes on."""


def _unheard(ready: int, total: int) -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One prediction of a sweep; microseconds a call."""

    panel: str
    line: str
    x: float
    static_us: float
    dynamic_us: float

    @property
    def ratio(self) -> float:
        return self.dynamic_us / self.static_us


def rate_sweep(program: Program, plans: Mapping[str, Plan], search: Search, tell: Tell = _unheard) -> tuple[Point, ...]:
    """Times against the rate, for each plan. The tiles are those of the search's rate, as in a compiled network."""
    points: list[Point] = []
    for ready, (line, plan) in enumerate(plans.items()):
        tell(ready, len(plans))
        pair = pair_of(program, plan, search)
        for rate in (step / _RATE_STEPS for step in range(_RATE_STEPS + 1)):
            points += _points(pair, line, rate, search, rate)
    return tuple(points)


def batch_sweep(
    program: Program, plans: Mapping[str, Plan], search: Search, tell: Tell = _unheard
) -> tuple[Point, ...]:
    """Times against the batch, powers of two, for each plan at the search's rate."""
    most = max(_LARGEST_BATCH, search.batch)
    batches = [1 << power for power in range(most.bit_length())]
    cases = [(line, batch) for line in plans for batch in batches]
    points: list[Point] = []
    for ready, (line, batch) in enumerate(cases):
        tell(ready, len(cases))
        at = replace(search, batch=batch)
        points += _points(pair_of(program, plans[line], at), line, batch, at, search.rate)
    return tuple(points)


def granularity_sweep(program: Program, search: Search, tell: Tell = _unheard) -> tuple[Point, ...]:
    """Times against S and against G, in one block of each stage of a captured network, at the search's rate."""
    from laudc.latency.planner import choose_blocks
    from laudc.paradigms import PARADIGMS

    last = {block.stage: block.name for block in program.blocks}
    points = []
    paradigms = [name for name in PARADIGMS if PARADIGMS[name].takes_granularity]
    for ready, paradigm in enumerate(paradigms):
        tell(ready, len(paradigms))
        for choice in choose_blocks(program, replace(search, paradigm=paradigm)):
            if choice.block in last.values():
                sizes = {weighed.candidate[0][1]: weighed.time.total_us for weighed in choice.weighed}
                points += [
                    Point(
                        panel=paradigm,
                        line=choice.block,
                        x=size,
                        static_us=choice.static.total_us,
                        dynamic_us=sizes[size],
                    )
                    for size in sorted(sizes)
                ]
    return tuple(points)


def _points(pair: Pair, line: str, x: float, search: Search, rate: float) -> Iterator[Point]:
    static = pair.static.expected(search.calibration, rate)
    dynamic = pair.dynamic.expected(search.calibration, rate)
    for block in pair.shown:
        yield Point(
            panel=block,
            line=line,
            x=x,
            static_us=static.blocks[block].total_us,
            dynamic_us=dynamic.blocks[block].total_us,
        )
    yield Point(panel=NETWORK, line=line, x=x, static_us=static.total_us, dynamic_us=dynamic.total_us)
