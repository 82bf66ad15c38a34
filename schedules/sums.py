"""Channel sums on a GPU: begun at nothing, taken of a map, and the layer masker on them.

channel_sums    a block takes 32 threads of two channels and adds up `LINES` positions at a time
sums_masker     a block a sample: the logit, the decision, and what stays of the sums
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laudc.ops._sums import UNITS
from laudc.ops.sums_masker import SumsMaskerSpec
from laudc.ops.zero_sums import ZeroSumsSpec
from laudc.schedules._decision import decided, given_to
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel
from laudc.schedules._reduce import over_lanes, over_team, zeros
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import lanes, spread
from laudc.schedules.base import Choice, Lowered, Schedule, Work

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.targets import Target

FIRST_ARCH = 80
_TEAM = 128
_COLUMNS = 32
_LINES = 16


class SumsSchedule(Schedule):
    ops = frozenset({"channel_sums", "zero_sums", "sums_masker"})
    kind = "cuda"

    def refuse(self, work: Work, target: Target) -> str | None:
        if work.spec.name == "channel_sums" and work.dtype != "float16":
            return f"sums of float16 are exact, those of {work.dtype} are not"
        return refuse_arch(target)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return ({},)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Keep minus drop: one column of weights and one bias, float32."""
        if not isinstance(work.spec, SumsMaskerSpec):
            return ()
        weight, bias = weights["weight"].detach().float(), weights["bias"].detach().float()
        return (weight[0] - weight[1], bias[:1] - bias[1:])

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        read = work.results[-1] if work.spec.name == "zero_sums" else work.operands[0]
        return (swept(work, target, choice, active, outer=read.shape[0], turns=read.numel / 2, steps=2),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        with Kernel(target) as kernel:
            if isinstance(work.spec, ZeroSumsSpec):
                _begin(kernel, work)
            elif isinstance(work.spec, SumsMaskerSpec):
                _decide(kernel, work, work.spec)
            else:
                _take(kernel, work)
        return kernel.lowered()


def refuse_arch(target: Target) -> str | None:
    """Why no kernel leaves sums on this chip, or None."""
    if target.capability < FIRST_ARCH:
        return f"sums are left by the tensor-core tiles of sm_{FIRST_ARCH} and later, not of {target.arch}"
    return None


def _begin(kernel: Kernel, work: Work) -> None:
    from tvm import tirx

    kernel.operand("x", work.operands[0])
    made = kernel.operand("made", work.results[0])
    with spread(kernel, (work.results[0].shape[1],), vector=1, parallel=False) as (b, c):
        made[b, c] = tirx.const(0, "int64")


def _take(kernel: Kernel, work: Work) -> None:
    from tvm import tirx

    _, height, width, channels = work.operands[0].stored
    vector = lanes(channels, work.dtype, kernel.target, most=2)
    x = kernel.operand("x", work.operands[0])
    made = kernel.operand("made", work.results[0])
    with (
        kernel.thread("blockIdx.y", kernel.batch) as b,
        kernel.thread("blockIdx.x", -(-channels // (_COLUMNS * vector))) as block,
        kernel.thread("threadIdx.y", _LINES) as line,
        kernel.thread("threadIdx.x", _COLUMNS) as column,
    ):
        c = (block * _COLUMNS + column) * vector
        mine = zeros(kernel, "mine", vector)
        with kernel.serial("turn", -(-height * width // _LINES)) as turn:
            place = turn * _LINES + line
            with kernel.when(place < height * width, c < channels), kernel.vectorized(vector) as lane:
                mine[lane] = mine[lane] + x[b, place // width, place % width, c + lane].astype("float32")
        shared = kernel.shared("parts", _LINES * _COLUMNS * vector)
        with kernel.vectorized(vector) as lane:
            shared[(line * _COLUMNS + column) * vector + lane] = mine[lane]
        kernel.barrier()
        with kernel.when(line == 0, c < channels):
            for lane in range(vector):
                parts = (shared[(other * _COLUMNS + column) * vector + lane] for other in range(_LINES))
                total: Any = sum(parts, start=tirx.const(0, "float32"))
                made[b, c + lane] = tirx.round(total * tirx.const(UNITS, "float32")).astype("int64")


def _decide(kernel: Kernel, work: Work, spec: SumsMaskerSpec) -> None:
    from tvm import tirx

    given = given_to(kernel, work)
    weight = kernel.argument("weight", (spec.channels,), "float32")
    bias = kernel.argument("bias", (1,), "float32")
    mask, logits, sums = (
        kernel.operand(name, type_) for name, type_ in zip(("mask", "logits", "sums"), work.results, strict=True)
    )
    steps = -(-spec.channels // _TEAM)
    with kernel.thread("blockIdx.x", kernel.batch) as b, kernel.thread("threadIdx.x", _TEAM) as t:
        mine, made, own = zeros(kernel, "mine", 1), kernel.local("made", 3), kernel.local("own", steps)
        kernel.let_next_begin()
        with _turns(kernel, spec.channels, t) as (turn, c):
            own[turn] = weight[c]
        made[0] = bias[0]
        kernel.wait_for_ahead()
        made[1] = given[b, 0, 0]
        with _turns(kernel, spec.channels, t) as (turn, c):
            mine[0] = mine[0] + sums[b, c].astype("float32") * own[turn]
        total = over_team(kernel, over_lanes(mine, 1), thread=t, which=0, team=_TEAM)
        made[0] = total * tirx.const(1 / (UNITS * spec.positions), "float32") + made[0]
        made[2] = decided(made[1], made[0])
        with kernel.when(t == 0):
            logits[b, 0, 0], mask[b, 0, 0] = made[0], made[2]
        on = made[2] != tirx.const(0, "float32")
        with kernel.when(on), _turns(kernel, spec.channels, t) as (_, c):
            sums[b, c] = tirx.const(0, "int64")


@contextmanager
def _turns(kernel: Kernel, count: int, thread: Any) -> Iterator[tuple[Any, Any]]:
    """Each turn of a team over so many numbers, and the number that is a thread's."""
    with kernel.unroll("turn", -(-count // _TEAM)) as turn, kernel.when(turn * _TEAM + thread < count):
        yield turn, turn * _TEAM + thread


SCHEDULE = SumsSchedule()
