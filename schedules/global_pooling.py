"""The mean over the whole map, channels side by side.

cpu     a few channels at a time, row by row
cuda    a block takes up to 32 times 16 bytes of channels and up to 256 positions, as many at a time as it has
        threads; where the map is larger, `splits` blocks leave their sums in a workspace and a second launch adds those
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._reduce import zeros
from laudc.schedules._small_demand import one_turn_each, swept
from laudc.schedules._spread import THREADS, lanes, share_out, spread
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import DTYPE_BYTES, FLOATS, TensorType

if TYPE_CHECKING:
    from laudc.targets import Target

_POSITIONS = 256
_ABREAST = 32
"""Threads side by side along the channels, at most."""
_MOST_LINES = 64
"""Sums of a block for one channel."""


class GlobalPoolingSchedule(Schedule):
    ops = frozenset({"global_pool"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        if work.dtype not in FLOATS:
            return f"it pools {', '.join(FLOATS)}, not {work.dtype}"
        return None

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        _, height, width, _ = work.operands[0].stored
        splits = -(-height * width // _POSITIONS) if target.kind == "cuda" else 1
        return ({**share_out(target, work.operands[0].numel), "splits": splits},)

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        """The sums of the parts of the map."""
        batch, channels = work.operands[0].shape[:2]
        return (TensorType(shape=(batch, choice["splits"], channels), dtype="float32"),) if choice["splits"] > 1 else ()

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        x = work.operands[0]
        outer = x.shape[0] * x.shape[1] / math.gcd(x.shape[1], 64)
        turns = x.numel / lanes(x.shape[1], work.dtype, target)
        first = swept(work, target, choice, active, outer=outer, turns=turns, steps=1)
        if choice["splits"] == 1:
            return (first,)
        made = x.shape[0] * x.shape[1]
        parts = sum(space.nbytes for space in self.workspace(work, choice))
        again = one_turn_each(target, made, steps=choice["splits"])
        return (replace(first, written_bytes=parts), replace(again, read_bytes=parts, written_bytes=2 * made))

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        channels = work.operands[0].shape[1]
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            parts = [kernel.operand("parts", type_) for type_ in self.workspace(work, choice)]
            made = kernel.operand("made", work.results[0])
            means = kernel.flat(made, kernel.batch, channels)
            if not kernel.on_gpu:
                _on_cpu(kernel, work, x, means, parallel=bool(choice["parallel"]))
            elif parts:
                _on_gpu(kernel, work, x, parts[0], choice["splits"])
                _add_parts(kernel, work, parts[0], means, choice["splits"])
            else:
                _on_gpu(kernel, work, x, means, 1)
        return kernel.lowered()


def _on_cpu(kernel: Kernel, work: Work, x: Memory, means: Memory, *, parallel: bool) -> None:
    _, height, width, channels = work.operands[0].stored
    vector = math.gcd(channels, 64)
    with spread(kernel, (channels // vector, 1), vector=1, parallel=parallel) as (b, part, _):
        c = part * vector
        total = zeros(kernel, "total", vector)
        with kernel.serial("i", height) as i:
            row = zeros(kernel, "row", vector)
            with kernel.serial("j", width) as j, kernel.vectorized(vector) as lane:
                row[lane] = row[lane] + x[b, i, j, c + lane].astype("float32")
            with kernel.vectorized(vector) as lane:
                total[lane] = total[lane] + row[lane]
        with kernel.vectorized(vector) as lane:
            means[b, c + lane] = _mean(work, total[lane])


def _on_gpu(kernel: Kernel, work: Work, x: Memory, sums: Memory, splits: int) -> None:
    """The sums of the parts, or the means if there is one part. The last sample comes first: of a map that was just
    written, it is what caches still hold; and whoever reads it next begins with the first."""
    from tvm.script.ir_builder import tirx as T

    _, height, width, channels = work.operands[0].stored
    vector = math.gcd(channels, 16 // DTYPE_BYTES[work.dtype])
    columns = min(_ABREAST, channels // vector)
    lines, wide = min(THREADS // columns, _MOST_LINES), columns * vector
    blocks, turns = -(-channels // wide), -(-height * width // (splits * lines))
    flat = kernel.flat(x, kernel.batch * height * width * channels)
    with (
        kernel.thread("blockIdx.y", kernel.batch) as turned,
        kernel.thread("blockIdx.x", blocks * splits) as block,
        kernel.thread("threadIdx.y", lines) as line,
        kernel.thread("threadIdx.x", columns) as column,
    ):
        b = kernel.batch - 1 - turned
        part, first = block // blocks, block % blocks * columns + column
        start = kernel.local("start", 1, "int32")
        start[0] = b * height * width
        mine, read = kernel.local("mine", vector), kernel.local("read", vector, work.dtype)
        with kernel.unroll("e", vector) as e:
            mine[e] = T.float32(0)
        with kernel.serial("turn", turns) as turn:
            place = (part * turns + turn) * lines + line
            with kernel.when(place < height * width, first < channels // vector):
                with kernel.vectorized(vector) as lane:
                    read[lane] = flat[((start[0] + place) * (channels // vector) + first) * vector + lane]
                with kernel.unroll("e", vector) as e:
                    mine[e] = mine[e] + read[e].astype("float32")
        shared = kernel.shared("sums", lines * wide)
        with kernel.unroll("e", vector) as e:
            shared[line * wide + column * vector + e] = mine[e]
        kernel.barrier()
        with kernel.serial("round", -(-wide // (lines * columns))) as turn:
            at = (turn * lines + line) * columns + column
            channel = block % blocks * wide + at
            with kernel.when(at < wide, channel < channels):
                total: Any = sum((shared[other * wide + at] for other in range(1, lines)), start=shared[at])
                if splits > 1:
                    sums[b, part, channel] = total
                else:
                    sums[b, channel] = _mean(work, total)


def _add_parts(kernel: Kernel, work: Work, parts: Memory, means: Memory, splits: int) -> None:
    channels = work.operands[0].shape[1]
    with spread(kernel, (channels,), vector=1, parallel=False) as (b, c):
        total = zeros(kernel, "total", 1)
        with kernel.serial("part", splits) as part:
            total[0] = total[0] + parts[b, part, c]
        means[b, c] = _mean(work, total[0])


def _mean(work: Work, total: Any) -> Any:
    from tvm import tirx

    _, _, height, width = work.operands[0].shape
    return (total / tirx.const(height * width, "float32")).astype(work.dtype)


SCHEDULE = GlobalPoolingSchedule()
