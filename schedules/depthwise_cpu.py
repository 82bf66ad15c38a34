"""Depthwise convolutions on the CPU: every channel for itself, so lanes are channels and nothing is gathered.

out[row, c] (+)= act( sum_t pro(x[row_in(row, t), c]) * w[t, c] + bias[c] )
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from laudc.ops._pointwise import POINTWISE
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules._cpu_demand import depthwise_demand
from laudc.schedules._demand import Active, Demand
from laudc.schedules._prologue import pack_prologue, refuse_prologue
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.schedules.conv_cpu import lanes_of
from laudc.types import TensorType

if TYPE_CHECKING:
    from laudc.targets import Target


class DepthwiseCpu(Schedule):
    ops = frozenset({"conv2d"})
    kind = "cpu"
    rank = 40

    def refuse(self, work: Work, target: Target) -> str | None:
        spec = work.spec
        assert isinstance(spec, Conv2dSpec), spec
        if not spec.in_channels == spec.out_channels == spec.groups or spec.groups == 1:
            return "it wants each channel to be a group of its own"
        if work.dtype != "float32":
            return f"it computes in float32, not in {work.dtype}"
        if spec.activation not in POINTWISE:
            return f"it does not know the function {spec.activation!r}"
        if spec.gathered or spec.compact or spec.masker or spec.sums or spec.running or spec.samples or spec.shortcut:
            return "it reads and writes maps by lists of rows, and nothing beside them"
        if (spec.rows and spec.residual == "dense") or (not spec.rows and spec.residual == "in_place"):
            return "it updates listed rows in place, and adds a residual only to a whole map"
        if spec.channels_in != spec.channels_out:
            return "it skips a channel on both sides or on none"
        if spec.gain:
            return "it multiplies no row by a number"
        return refuse_prologue(spec)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        base = {"lanes": lanes_of(target), "parts": max(1, target.sm_count)}
        # measured: 4 pixels a tile are as fast as 8 on whole maps, and fit patches
        return ({**base, "run": 4}, {**base, "run": 8}, {**base, "run": 2})

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        return depthwise_demand(work, choice, active)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cpu_depthwise import build_module

        return Lowered(module=build_module(work, choice), pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        weight = weights["weight"].detach().float().flatten(1).T.contiguous()
        bias = (weights["bias"].detach().float().contiguous(),) if "bias" in weights else ()
        return (weight, *bias, *pack_prologue(weights))

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        spec = work.spec
        assert isinstance(spec, Conv2dSpec), spec
        if not spec.channels_in:
            return ()
        return (TensorType(shape=(spec.taps + spec.bias, spec.out_channels), dtype="float32"),)


SCHEDULE = DepthwiseCpu()
