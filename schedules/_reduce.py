"""Sums over many numbers, in an order that keeps the rounding small: lanes apart, then the lanes together.

cpu     SIMD lanes add up every 16th number, then the lanes are added
cuda    the threads of a team add up every T-th vector, then each warp adds by shuffles, and the warps are added
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from laudc.schedules._kernel import Kernel, Memory

if TYPE_CHECKING:
    from tvm.tirx import Expr

TEAMS = 256
"""Threads of most blocks, whatever the size of their teams."""

_WARP = 32

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


def over_lanes(sums: Memory | Sequence[Expr], vector: int) -> Expr:
    """The lanes of a vector added up."""
    parts = [sums[lane] for lane in range(vector)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [parts[i] + parts[i + half] for i in range(half)] + parts[2 * half :]
    return parts[0]


def over_team(kernel: Kernel, mine: Expr, *, thread: Any, which: Any, team: int) -> Expr:
    """The sum over a team of threads (a power of two, at least 32), known to all of it. Every thread of the block must
    come here; teams of more than a warp only once."""
    total = kernel.local("total", 1)
    total[0] = mine
    for apart in (16, 8, 4, 2, 1):
        total[0] = total[0] + _from_lane(total[0], apart)
    warps = team // _WARP
    if warps == 1:
        return total[0]
    sums = kernel.shared("team_sums", TEAMS // _WARP)
    with kernel.when(thread % _WARP == 0):
        sums[which * warps + thread // _WARP] = total[0]
    kernel.barrier()
    total[0] = over_lanes([sums[which * warps + warp] for warp in range(warps)], warps)
    return total[0]


def _from_lane(value: Expr, apart: int) -> Expr:
    """The value of the thread of the warp whose number differs in that bit."""
    from tvm import tirx

    every = tirx.const(0xFFFFFFFF, "uint32")
    return tirx.call_pure_extern("float32", "__shfl_xor_sync", every, value, tirx.const(apart, "int32"))
