"""How a memory-bound kernel is laid over a machine: one body, two ways to go round.

cpu     rows of the map -> cores (or one core, when the map is small)     channels -> SIMD lanes
cuda    every vector of the map -> a thread                               samples -> blockIdx.y

So a batch is at most 65535, and an operand holds fewer than 2^31 numbers: indices are int32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laudc.schedules._kernel import Index, Kernel
from laudc.schedules.base import Choice
from laudc.types import DTYPE_BYTES

if TYPE_CHECKING:
    from laudc.targets import Target

THREADS = 256
_BLOCKS_PER_SM = 8
_CPU_LANES = 16
_WORTH_PARALLEL = 1 << 15
"""Numbers read, below which one core is done before a second one has started (5 to 10 us)."""


def share_out(target: Target, numbers: int) -> Choice:
    """The choice of every kernel here: whether the cores of a CPU share the work, for so many numbers read."""
    return {"parallel": int(target.kind == "cpu" and numbers >= _WORTH_PARALLEL)}


def lanes(extent: int, dtype: str, target: Target, *, most: int = 4) -> int:
    """How many neighbours along an axis are handled at once. A GPU loads 16 bytes at most, and computes on 4."""
    widest = _CPU_LANES if target.kind == "cpu" else min(most, 16 // DTYPE_BYTES[dtype])
    return math.gcd(extent, widest)


@contextmanager
def spread(kernel: Kernel, size: tuple[int, ...], *, vector: int, parallel: bool) -> Iterator[tuple[Any, ...]]:
    """One turn for each vector of (batch, *size): its index, the last at the vector's first element."""
    *outer, last = size
    around = (
        _on_cpu(kernel, outer, last // vector, parallel)
        if not kernel.on_gpu
        else _on_gpu(kernel, outer, last // vector)
    )
    with around as (*index, step):
        yield (*index, step * vector)


@contextmanager
def spread_flat(kernel: Kernel, count: Index, *, vector: int, parallel: bool) -> Iterator[Any]:
    """One turn for each of `count` vectors: where it begins. For what reads and writes at one and the same place."""
    if not kernel.on_gpu:
        with kernel.parallel("step", count) if parallel else kernel.serial("step", count) as step:
            yield step * vector
        return
    with (
        kernel.thread("blockIdx.x", (count + THREADS - 1) // THREADS) as block,
        kernel.thread("threadIdx.x", THREADS) as thread,
    ):
        step = block * THREADS + thread
        with kernel.when(step < count):
            yield step * vector


@contextmanager
def spread_short(kernel: Kernel, count: Any, *, most: Index) -> Iterator[Any]:
    """One turn of a GPU's thread for each number below `count`, which the host does not know but to be <= `most`.

    No more threads than the device holds at once: blocks that find nothing to do would cost more than the work.
    """
    from tvm import tirx

    resident = kernel.target.sm_count * _BLOCKS_PER_SM
    blocks = tirx.min((most + THREADS - 1) // THREADS, resident)
    with (
        kernel.thread("blockIdx.x", blocks) as block,
        kernel.thread("threadIdx.x", THREADS) as thread,
        kernel.serial("turn", tirx.truncdiv(count + blocks * THREADS - 1, blocks * THREADS)) as turn,
    ):
        at = (turn * blocks + block) * THREADS + thread
        with kernel.when(at < count):
            yield at


@contextmanager
def _on_cpu(kernel: Kernel, outer: list[int], steps: int, parallel: bool) -> Iterator[tuple[Any, ...]]:
    rows = math.prod(outer[:1])
    with kernel.parallel("row", kernel.batch * rows) if parallel else kernel.serial("row", kernel.batch * rows) as row:
        index = (row // rows, row % rows) if outer else (row,)
        with kernel.serial("place", math.prod(outer[1:])) as place, kernel.serial("step", steps) as step:
            yield (*index, *unravel(place, outer[1:]), step)


@contextmanager
def _on_gpu(kernel: Kernel, outer: list[int], steps: int) -> Iterator[tuple[Any, ...]]:
    size = [*outer, steps]
    count = math.prod(size)
    threads = min(THREADS, -(-count // 32) * 32)
    with (
        kernel.thread("blockIdx.y", kernel.batch) as sample,
        kernel.thread("blockIdx.x", -(-count // threads)) as block,
        kernel.thread("threadIdx.x", threads) as thread,
        kernel.when(block * threads + thread < count),
    ):
        yield (sample, *unravel(block * threads + thread, size))


def unravel(place: Any, size: Sequence[int]) -> tuple[Any, ...]:
    """The index of the `place`-th element of an array of that size."""
    index: list[Any] = []
    for extent in reversed(size):
        index.insert(0, place % extent)
        place = place // extent
    return tuple(index)


def divided(number: Any, by: int) -> tuple[Any, Any]:
    """Quotient and remainder of what is never negative, where the compiler cannot know that."""
    from tvm import tirx

    return tirx.truncdiv(number, by), tirx.truncmod(number, by)
