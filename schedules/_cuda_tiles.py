"""Which tile to try first: the one whose blocks, dealt out over the multiprocessors, are done soonest.

    time ~ deals * bm * bn / speed        deals = ceil(blocks / multiprocessors)

Small tiles waste less at the edges and in the last deal; large ones read each input fewer times, which is `speed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from laudc.schedules._cuda_problem import Problem
from laudc.schedules.base import Choice

if TYPE_CHECKING:
    from laudc.targets import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A tile and its speed where there is work enough, in percent of the fastest of its table."""

    choice: Choice
    speed: int


def ranked(p: Problem, candidates: Iterable[Candidate], sm_count: int) -> tuple[Choice, ...]:
    """The tiles, the most promising first."""
    return tuple(c.choice for c in sorted(candidates, key=lambda c: _time(p, c, sm_count)))


def _time(p: Problem, candidate: Candidate, sm_count: int) -> float:
    bm, bn = candidate.choice["bm"], candidate.choice["bn"]
    row_tiles = p.batch * -(-p.pixels // bm) if p.per_sample else -(-p.capacity // bm)
    column_tiles = p.groups * -(-(p.group_columns + p.masker) // bn)
    deals = -(-row_tiles * column_tiles // sm_count)
    return deals * bm * bn / candidate.speed


def arch_number(target: Target) -> int:
    """62 of "sm_62", 90 of "sm_90a"."""
    return int(target.arch.removeprefix("sm_").rstrip("af"))
