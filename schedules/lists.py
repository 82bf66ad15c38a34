"""Row lists and the channel list, in ascending order on every machine (the formats are in laudc/ops/_lists.py).

cpu     a sample at a time: count, then write where it begins
cuda    a block a sample: thread t takes the t-th run of neighbours, and a scan over the threads' counts says
        where each begins to write. For row lists one launch more, ahead, counts every sample (if several)

A row list is of the pixels of a map, or straight of decisions; the two lists of `patch_rows` are made at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from laudc.ops.channel_list import ChannelListSpec
from laudc.ops.patch_rows import PatchRowsSpec
from laudc.ops.row_list import RowListSpec
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._pixels import On, looks, map_on, needed_on, patches_on
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import share_out
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import TensorType

if TYPE_CHECKING:
    from laudc.targets import Target

_MOST_THREADS = 512


class ListsSchedule(Schedule):
    ops = frozenset({"row_list", "patch_rows", "channel_list"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        wanted = "uint8" if isinstance(work.spec, RowListSpec) else "float32"
        return None if work.dtype == wanted else f"it lists {wanted} decisions, not {work.dtype}"

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.operands[0].shape[0] * sum(_units(work))),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        x, units, costs = work.operands[0], _units(work), _costs(work)
        batch = x.shape[0]
        if target.kind == "cpu":
            steps = 2 * sum(n * cost for n, cost in zip(units, costs, strict=True)) / sum(units)
            return (swept(work, target, choice, active, outer=batch, turns=batch * sum(units), steps=steps),)
        threads, runs = _split(units)
        each = sum(run * cost for run, cost in zip(runs, costs, strict=True)) / len(runs)
        scan = Demand(
            tasks=batch * len(units),
            steps=threads * 2 * (each + threads.bit_length()),
            threads=threads,
            read_bytes=x.nbytes,
        )
        made = replace(scan, written_bytes=sum(result.nbytes for result in work.results))
        return (made,) if isinstance(work.spec, ChannelListSpec) or batch == 1 else (scan, made)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        units = _units(work)
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            if isinstance(work.spec, ChannelListSpec):
                made = kernel.operand("made", work.results[0])
                make_channels = _channels_on_gpu if kernel.on_gpu else _channels_on_cpu
                make_channels(kernel, map_on(x), kernel.flat(made, kernel.batch * (1 + units[0])), units[0])
            else:
                counts = kernel.argument("counts", (kernel.batch, len(units)), "int32")
                made_of = [kernel.argument("made", (kernel.batch + 1 + kernel.batch * n,), "int32") for n in units]
                parts = zip(_predicates(kernel, work, x), units, made_of, strict=True)
                lists = [_Rows(on=on, units=n, made=made) for on, n, made in parts]
                if kernel.on_gpu:
                    _rows_on_gpu(kernel, lists, counts)
                else:
                    _rows_on_cpu(kernel, lists, counts, bool(choice["parallel"]))
        return kernel.lowered()

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        """How many rows each sample has, in every row list."""
        counts = TensorType(shape=(work.operands[0].shape[0], len(work.results)), dtype="int32")
        return () if isinstance(work.spec, ChannelListSpec) else (counts,)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """One row list: which of a sample's units are on, how many they are, and what is written."""

    on: On
    units: int
    made: Memory


def _units(work: Work) -> list[int]:
    """Of each list, what it chooses from in a sample."""
    if isinstance(work.spec, PatchRowsSpec):
        return [math.prod(size) for size in (work.spec.map_size, work.spec.needed_size) if any(size)]
    return [math.prod(work.operands[0].shape[1:])]


def _costs(work: Work) -> list[float]:
    """Of each list, the instructions to tell whether a unit is on, next to those of reading a map."""
    spec = work.spec
    if not isinstance(spec, PatchRowsSpec):
        return [1.0]
    regions = [None, *([spec.region] if spec.region else [])]
    return [2.0 + 2.0 * looks(spec.pixels, region) for region in regions]


def _predicates(kernel: Kernel, work: Work, x: Memory) -> list[On]:
    spec = work.spec
    if not isinstance(spec, PatchRowsSpec):
        return [map_on(kernel.flat(x, kernel.batch, math.prod(work.operands[0].shape[1:])))]
    needed = [needed_on(x, spec.pixels, spec.region)] if spec.region else []
    return [patches_on(x, spec.pixels), *needed]


def _rows_on_cpu(kernel: Kernel, lists: list[_Rows], counts: Memory, parallel: bool) -> None:
    loop = kernel.parallel if parallel else kernel.serial
    for index, rows in enumerate(lists):
        made, units = rows.made, rows.units
        with loop("sample", kernel.batch) as b:
            counts[b, index] = _count_run(kernel, rows.on, b, 0, units, units)
        made[0] = _zero()
        with kernel.serial("sample", kernel.batch) as b:
            made[b + 1] = made[b] + counts[b, index]
        with loop("sample", kernel.batch) as b:
            _write_run(kernel, rows.on, b, 0, units, units, made, kernel.batch + 1 + made[b], first=b * units)


def _channels_on_cpu(kernel: Kernel, on: On, made: Memory, units: int) -> None:
    with kernel.serial("sample", kernel.batch) as b:
        begin = b * (1 + units) + 1
        made[begin - 1] = _write_run(kernel, on, b, 0, units, units, made, begin, first=0)


def _rows_on_gpu(kernel: Kernel, lists: list[_Rows], counts: Memory) -> None:
    threads, runs = _split([rows.units for rows in lists])

    def counted(b: Any, which: Any, t: Any) -> Any:
        """Of a thread's own run."""
        mine = _counter(kernel, "own_run")
        for index, (rows, run) in enumerate(zip(lists, runs, strict=True)):
            with kernel.when(which == index):
                mine[0] = _count_run(kernel, rows.on, b, t * run, run, rows.units)
        return mine[0]

    with (
        kernel.when(kernel.batch > 1),
        kernel.thread("blockIdx.x", kernel.batch) as b,
        kernel.thread("blockIdx.y", len(lists)) as which,
        kernel.thread("threadIdx.x", threads) as t,
    ):
        _, total = _scan(kernel, counted(b, which, t), t, threads)
        with kernel.when(t == 0):
            counts[b, which] = total
    with (
        kernel.thread("blockIdx.x", kernel.batch) as b,
        kernel.thread("blockIdx.y", len(lists)) as which,
        kernel.thread("threadIdx.x", threads) as t,
    ):
        begin = _counted_before(kernel, lambda sample: counts[sample, which], b, t, threads)
        behind, total = _scan(kernel, counted(b, which, t), t, threads)
        start = kernel.batch + 1 + begin + behind
        for index, (rows, run) in enumerate(zip(lists, runs, strict=True)):
            with kernel.when(which == index):
                with kernel.when(t == 0):
                    rows.made[b] = begin
                with kernel.when(t == 0, b == kernel.batch - 1):
                    rows.made[b + 1] = begin + total
                _write_run(kernel, rows.on, b, t * run, run, rows.units, rows.made, start, first=b * rows.units)


def _channels_on_gpu(kernel: Kernel, on: On, made: Memory, units: int) -> None:
    threads, (run,) = _split([units])
    with kernel.thread("blockIdx.x", kernel.batch) as b, kernel.thread("threadIdx.x", threads) as t:
        behind, total = _scan(kernel, _count_run(kernel, on, b, t * run, run, units), t, threads)
        with kernel.when(t == 0):
            made[b * (1 + units)] = total
        _write_run(kernel, on, b, t * run, run, units, made, b * (1 + units) + 1 + behind, first=0)


def _counted_before(kernel: Kernel, count: Callable[[Any], Any], b: Any, t: Any, threads: int) -> Any:
    """The sum of the counts of the samples before b, which the threads share out."""
    begin = _counter(kernel, "begin")
    with kernel.when(b > 0):
        mine = _counter(kernel, "before")
        with (
            kernel.serial("step", (b + threads - 1) // threads) as step,
            kernel.when(step * threads + t < b),
        ):
            mine[0] = mine[0] + count(step * threads + t)
        _, begin[0] = _scan(kernel, mine[0], t, threads)
    return begin[0]


def _split(units: list[int]) -> tuple[int, list[int]]:
    """Threads of a block, a power of two, and for each list how many neighbours each of them takes."""
    threads = min(_MOST_THREADS, max(32, 1 << (max(units) - 1).bit_length()))
    return threads, [-(-n // threads) for n in units]


def _count_run(kernel: Kernel, on: On, b: Any, start: Any, run: int, units: int) -> Any:
    """How many of the units start .. start + run are on."""
    mine = _counter(kernel, "mine")
    with kernel.serial("unit", run) as step, kernel.when(start + step < units):
        mine[0] = mine[0] + on(b, start + step)
    return mine[0]


def _write_run(
    kernel: Kernel, on: On, b: Any, start: Any, run: int, units: int, made: Memory, place: Any, *, first: Any
) -> Any:
    """Write `first` + the number of each unit of the run that is on, from `place` on; comes back: how many."""
    from tvm import tirx

    written = _counter(kernel, "written")
    with (
        kernel.serial("unit", run) as step,
        kernel.when(start + step < units),
        kernel.when(on(b, start + step) > 0),
    ):
        made[place + written[0]] = tirx.const(0, "int32") + first + start + step
        written[0] = written[0] + 1
    return written[0]


def _scan(kernel: Kernel, mine: Any, t: Any, threads: int) -> tuple[Any, Any]:
    """The sum of `mine` over the threads before t, and over all threads (Hillis and Steele's scan)."""
    from tvm import tirx

    sums = kernel.shared("sums", 2 * threads, "int32")
    own = kernel.local("own", 1, "int32")
    own[0] = mine
    sums[t] = own[0]
    kernel.barrier()
    source = 0
    for reach in (1 << power for power in range(threads.bit_length() - 1)):
        other = tirx.if_then_else(t >= reach, sums[source + t - reach], _zero())
        sums[threads - source + t] = sums[source + t] + other
        kernel.barrier()
        source = threads - source
    result = kernel.local("scanned", 2, "int32")
    result[0] = sums[source + t] - own[0]
    result[1] = sums[source + threads - 1]
    return result[0], result[1]


def _counter(kernel: Kernel, name: str) -> Memory:
    counter = kernel.local(name, 1, "int32")
    counter[0] = _zero()
    return counter


def _zero() -> Any:
    from tvm import tirx

    return tirx.const(0, "int32")


SCHEDULE = ListsSchedule()
