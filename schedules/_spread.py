"""How a memory-bound kernel is laid over a machine: one body, two ways to go round.

cpu     rows of the map -> cores (or one core, when the map is small)     channels -> SIMD lanes
cuda    every vector of the map -> a thread                               samples -> blockIdx.y
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laudc.schedules._kernel import Index, Kernel
from laudc.schedules.base import Work
from laudc.types import DTYPE_BYTES

if TYPE_CHECKING:
    from laudc.targets import Target

THREADS = 256
_CPU_LANES = 16
_WORTH_PARALLEL = 1 << 15
"""Elements read, below which one core is done before a second one has started (5 to 10 us)."""


def worth_parallel(work: Work, cost: int = 1) -> bool:
    """Whether a second CPU core helps, for `cost` elements read for each one that is made."""
    return work.results[0].numel * cost >= _WORTH_PARALLEL


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
    with kernel.thread("blockIdx.x", (count + THREADS - 1) // THREADS) as block, kernel.thread("threadIdx.x", THREADS) as thread:
        step = block * THREADS + thread
        with kernel.when(step < count):
            yield step * vector


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


def unravel(place: Any, size: list[int]) -> tuple[Any, ...]:
    """The index of the `place`-th element of an array of that size."""
    index: list[Any] = []
    for extent in reversed(size):
        index.insert(0, place % extent)
        place = place // extent
    return tuple(index)
