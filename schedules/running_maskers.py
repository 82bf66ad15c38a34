"""The layer masker on running logits, on a GPU: a warp a sample reads its row, decides, and hands the others on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from torch import Tensor

from laudc.ops._running import UNITS
from laudc.ops.running_masker import RunningMaskerSpec
from laudc.schedules._decision import decided, given_to
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel
from laudc.schedules._small_demand import swept
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.schedules.sums import refuse_arch

if TYPE_CHECKING:
    from laudc.targets import Target

_WARP = 32
_ABREAST = 4
"""Samples of a block."""


class RunningMaskerSchedule(Schedule):
    ops = frozenset({"running_masker"})
    kind = "cuda"

    def refuse(self, work: Work, target: Target) -> str | None:
        return refuse_arch(target)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return ({},)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Keep minus drop, float32."""
        bias = weights["bias"].detach().float()
        return (bias[:1] - bias[1:],)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        read = work.operands[0]
        return (swept(work, target, choice, active, outer=read.shape[0], turns=_WARP, steps=2),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        with Kernel(target) as kernel:
            _decide(kernel, work)
        return kernel.lowered()


def _decide(kernel: Kernel, work: Work) -> None:
    from tvm import tirx

    maskers = cast(RunningMaskerSpec, work.spec).maskers
    given = given_to(kernel, work)
    bias = kernel.argument("bias", (1,), "float32")
    mask, logits, running = (
        kernel.operand(name, type_) for name, type_ in zip(("mask", "logits", "running"), work.results, strict=True)
    )
    turns = -(-maskers // _WARP)
    with (
        kernel.thread("blockIdx.x", (kernel.batch + _ABREAST - 1) // _ABREAST) as block,
        kernel.thread("threadIdx.y", _ABREAST) as which,
        kernel.thread("threadIdx.x", _WARP) as lane,
    ):
        b = block * _ABREAST + which
        there = b < kernel.batch
        made, first = kernel.local("made", 3), kernel.local("first", 1, "int64")
        behind = kernel.local("behind", turns, "int64")
        kernel.let_next_begin()
        made[0] = bias[0]
        kernel.wait_for_ahead()
        with kernel.when(there):
            made[1] = given[b, 0, 0]
            first[0] = running[b, 0]
            for turn in range(turns):
                behind[turn] = tirx.const(0, "int64")
                with kernel.when(turn * _WARP + lane + 1 < maskers):
                    behind[turn] = running[b, turn * _WARP + lane + 1]
        kernel.barrier()
        with kernel.when(there):
            made[0] = first[0].astype("float32") * tirx.const(1 / UNITS, "float32") + made[0]
            made[2] = decided(made[1], made[0])
            on = made[2] != tirx.const(0, "float32")
            for turn in range(turns):
                with kernel.when(turn * _WARP + lane < maskers):
                    running[b, turn * _WARP + lane] = tirx.Select(on, tirx.const(0, "int64"), behind[turn])
            with kernel.when(lane == 0):
                logits[b, 0, 0], mask[b, 0, 0] = made[0], made[2]


SCHEDULE = RunningMaskerSchedule()
