"""The row list and the channel list, in ascending order on every machine (the formats are in laudc/ops/_lists.py).

cpu     a sample at a time: count, then write where it begins
cuda    a block a sample: thread t takes the t-th run of neighbours, and a scan over the threads' counts says
        where each begins to write. For the row list one launch more, ahead, counts every sample (if several)
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from laudc.ops.row_list import RowListSpec
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import share_out
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import TensorType

if TYPE_CHECKING:
    from laudc.targets import Target

_MOST_THREADS = 512


class ListsSchedule(Schedule):
    ops = frozenset({"row_list", "channel_list"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        wanted = "uint8" if isinstance(work.spec, RowListSpec) else "float32"
        return None if work.dtype == wanted else f"it lists {wanted} decisions, not {work.dtype}"

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.operands[0].numel),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        x = work.operands[0]
        batch, rows = x.shape[0], isinstance(work.spec, RowListSpec)
        if target.kind == "cpu":
            return (swept(work, target, choice, active, outer=batch, turns=x.numel, steps=2),)
        threads, run = _split(math.prod(x.shape[1:]))
        scan = Demand(
            tasks=batch, steps=threads * 2 * (run + threads.bit_length()), threads=threads, read_bytes=x.nbytes
        )
        made = replace(scan, written_bytes=work.results[0].nbytes)
        return (scan, made) if rows and batch > 1 else (made,)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        units = math.prod(work.operands[0].shape[1:])
        lists_rows = isinstance(work.spec, RowListSpec)
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            if lists_rows:
                counts = kernel.argument("counts", (kernel.batch,), "int32")
                made = kernel.argument("made", (kernel.batch + 1 + kernel.batch * units,), "int32")
                make_rows = _rows_on_gpu if kernel.on_gpu else _rows_on_cpu
                make_rows(kernel, kernel.flat(x, kernel.batch, units), counts, made, units, bool(choice["parallel"]))
            else:
                made = kernel.operand("made", work.results[0])
                make_channels = _channels_on_gpu if kernel.on_gpu else _channels_on_cpu
                make_channels(kernel, x, kernel.flat(made, kernel.batch * (1 + units)), units)
        return kernel.lowered()

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        """How many rows each sample has."""
        counts = TensorType(shape=work.operands[0].shape[:1], dtype="int32")
        return (counts,) if isinstance(work.spec, RowListSpec) else ()


def _rows_on_cpu(kernel: Kernel, on: Memory, counts: Memory, made: Memory, units: int, parallel: bool) -> None:
    loop = kernel.parallel if parallel else kernel.serial
    with loop("sample", kernel.batch) as b:
        found = _counter(kernel, "found")
        with kernel.serial("unit", units) as unit:
            found[0] = found[0] + _is_on(on, b, unit)
        counts[b] = found[0]
    made[0] = _zero()
    with kernel.serial("sample", kernel.batch) as b:
        made[b + 1] = made[b] + counts[b]
    with loop("sample", kernel.batch) as b:
        _write_run(kernel, on, b, 0, units, units, made, kernel.batch + 1 + made[b], first=b * units)


def _channels_on_cpu(kernel: Kernel, on: Memory, made: Memory, units: int) -> None:
    with kernel.serial("sample", kernel.batch) as b:
        begin = b * (1 + units) + 1
        made[begin - 1] = _write_run(kernel, on, b, 0, units, units, made, begin, first=0)


def _rows_on_gpu(kernel: Kernel, on: Memory, counts: Memory, made: Memory, units: int, parallel: bool) -> None:
    threads, run = _split(units)
    with (
        kernel.when(kernel.batch > 1),
        kernel.thread("blockIdx.x", kernel.batch) as b,
        kernel.thread("threadIdx.x", threads) as t,
    ):
        _, total = _scan(kernel, _count_run(kernel, on, b, t * run, run, units), t, threads)
        with kernel.when(t == 0):
            counts[b] = total
    with kernel.thread("blockIdx.x", kernel.batch) as b, kernel.thread("threadIdx.x", threads) as t:
        begin = _counted_before(kernel, counts, b, t, threads)
        behind, total = _scan(kernel, _count_run(kernel, on, b, t * run, run, units), t, threads)
        with kernel.when(t == 0):
            made[b] = begin
        with kernel.when(t == 0, b == kernel.batch - 1):
            made[b + 1] = begin + total
        start = kernel.batch + 1 + begin + behind
        _write_run(kernel, on, b, t * run, run, units, made, start, first=b * units)


def _channels_on_gpu(kernel: Kernel, on: Memory, made: Memory, units: int) -> None:
    threads, run = _split(units)
    with kernel.thread("blockIdx.x", kernel.batch) as b, kernel.thread("threadIdx.x", threads) as t:
        behind, total = _scan(kernel, _count_run(kernel, on, b, t * run, run, units), t, threads)
        with kernel.when(t == 0):
            made[b * (1 + units)] = total
        _write_run(kernel, on, b, t * run, run, units, made, b * (1 + units) + 1 + behind, first=0)


def _counted_before(kernel: Kernel, counts: Memory, b: Any, t: Any, threads: int) -> Any:
    """The sum of the counts of the samples before b, which the threads share out."""
    begin = _counter(kernel, "begin")
    with kernel.when(b > 0):
        mine = _counter(kernel, "before")
        with (
            kernel.serial("step", (b + threads - 1) // threads) as step,
            kernel.when(step * threads + t < b),
        ):
            mine[0] = mine[0] + counts[step * threads + t]
        _, begin[0] = _scan(kernel, mine[0], t, threads)
    return begin[0]


def _split(units: int) -> tuple[int, int]:
    """Threads of a block, a power of two, and how many neighbours each of them takes."""
    threads = min(_MOST_THREADS, max(32, 1 << (units - 1).bit_length()))
    return threads, -(-units // threads)


def _count_run(kernel: Kernel, on: Memory, b: Any, start: Any, run: int, units: int) -> Any:
    """How many of the units start .. start + run are on."""
    mine = _counter(kernel, "mine")
    with kernel.serial("unit", run) as step, kernel.when(start + step < units):
        mine[0] = mine[0] + _is_on(on, b, start + step)
    return mine[0]


def _write_run(
    kernel: Kernel, on: Memory, b: Any, start: Any, run: int, units: int, made: Memory, place: Any, *, first: Any
) -> Any:
    """Write `first` + the number of each unit of the run that is on, from `place` on; comes back: how many."""
    from tvm import tirx

    written = _counter(kernel, "written")
    with kernel.serial("unit", run) as step, kernel.when(start + step < units, _is_on(on, b, start + step) > 0):
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


def _is_on(on: Memory, b: Any, unit: Any) -> Any:
    from tvm import tirx

    return tirx.Select(on[b, unit] != tirx.const(0, on.buffer.dtype), tirx.const(1, "int32"), _zero())


def _counter(kernel: Kernel, name: str) -> Memory:
    counter = kernel.local(name, 1, "int32")
    counter[0] = _zero()
    return counter


def _zero() -> Any:
    from tvm import tirx

    return tirx.const(0, "int32")


SCHEDULE = ListsSchedule()
