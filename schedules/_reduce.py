"""Sums over many numbers, in an order that keeps the rounding small: lanes apart, then the lanes together.

    cpu     SIMD lanes add up every 16th number, then the lanes are added
    cuda    the threads of a team add up every T-th vector, then the team adds in a tree through shared memory

No shuffles: every architecture has shared memory and barriers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from laudc.schedules._kernel import Kernel, Memory

if TYPE_CHECKING:
    from tvm.tirx import Expr

TEAMS = 256
"""Threads of most blocks, whatever the size of their teams."""

Term = Callable[[Any], Any]
"""The float32 number to be added at a place."""


def zeros(kernel: Kernel, name: str, size: int) -> Memory:
    """Sums that begin at nothing."""
    from tvm import tirx

    sums = kernel.local(name, size)
    with kernel.vectorized(size) as lane:
        sums[lane] = tirx.const(0, "float32")
    return sums


def add_run(kernel: Kernel, sums: Memory, vector: int, steps: Any, term: Term) -> None:
    """Add the terms at 0 .. steps*vector to the lanes of `sums`, one core's way."""
    with kernel.serial("step", steps) as step, kernel.vectorized(vector) as lane:
        sums[lane] = sums[lane] + term(step * vector + lane)


def add_share(kernel: Kernel, sums: Memory, vector: int, steps: Any, term: Term, *, thread: Any, team: int) -> None:
    """The same for one thread of a team: every team-th vector."""
    with kernel.serial("turn", (steps + team - 1) // team) as turn:
        step = turn * team + thread
        with kernel.when(step < steps), kernel.vectorized(vector) as lane:
            sums[lane] = sums[lane] + term(step * vector + lane)


def over_lanes(sums: Memory, vector: int) -> Expr:
    """The lanes of a vector added up."""
    parts = [sums[lane] for lane in range(vector)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [parts[i] + parts[i + half] for i in range(half)] + parts[2 * half :]
    return parts[0]


def over_team(kernel: Kernel, mine: Expr, *, thread: Any, which: Any, team: int, threads: int = TEAMS) -> Expr:
    """The sum over a team of threads (a power of two), known to all of it. Every thread of the block must come here."""
    from tvm import tirx

    sums = kernel.shared("team_sums", threads)
    at = which * team + thread
    sums[at] = mine
    kernel.barrier()
    reach = team // 2
    while reach:
        with kernel.when(thread < reach):
            sums[at] = sums[at] + sums[at + reach]
        kernel.barrier()
        reach //= 2
    return tirx.const(0, "float32") + sums[which * team]
