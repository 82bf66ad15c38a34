"""The channel masker: two small linear layers, a row of weights for each CPU core's turn or each warp of a GPU.

    hidden = relu(x @ w1.T + b1)        logits = hidden @ (keep - drop).T + (b_keep - b_drop)

Two launches on a GPU with the hidden layer in a workspace, so that one sample, too, is worked on by many blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from laudc.ops.channel_masker import ChannelMaskerSpec
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._pointwise import pointwise
from laudc.schedules._reduce import TEAMS, add_run, add_share, over_lanes, over_team, zeros
from laudc.schedules._spread import lanes, share_out, spread
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.targets import Target

_WARP = 32


class ChannelMaskersSchedule(Schedule):
    ops = frozenset({"channel_masker"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        if work.dtype not in ("float32", "float16"):
            return f"it decides on float32 and float16, not on {work.dtype}"
        return None

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.spec.macs(work.operands)),)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Both layers in float32, the second one as keep minus drop."""
        first, first_bias, second, second_bias = (
            weights[name].detach().float() for name in ("weight1", "bias1", "weight2", "bias2")
        )
        keep, drop = second.chunk(2)
        keep_bias, drop_bias = second_bias.chunk(2)
        return (first.contiguous(), first_bias, keep - drop, keep_bias - drop_bias)

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        """The hidden layer."""
        assert isinstance(work.spec, ChannelMaskerSpec)
        return (TensorType(shape=(work.operands[0].shape[0], work.spec.hidden), dtype="float32"),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from tvm import tirx

        spec = work.spec
        assert isinstance(spec, ChannelMaskerSpec)
        parallel = bool(choice["parallel"])
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            weight1 = kernel.argument("weight1", (spec.hidden, spec.channels), "float32")
            bias1 = kernel.argument("bias1", (spec.hidden,), "float32")
            weight2 = kernel.argument("weight2", (spec.decisions, spec.hidden), "float32")
            bias2 = kernel.argument("bias2", (spec.decisions,), "float32")
            hidden = kernel.operand("hidden", self.workspace(work, choice)[0])
            mask, logits = (
                kernel.operand(name, type_) for name, type_ in zip(("mask", "logits"), work.results, strict=True)
            )
            pooled = kernel.flat(x, kernel.batch, spec.channels)

            def keep_hidden(b: Any, unit: Any, value: Any) -> None:
                hidden[b, unit] = pointwise("relu", value, target.kind)

            def keep_logit(b: Any, unit: Any, value: Any) -> None:
                zero, one = tirx.const(0, "float32"), tirx.const(1, "float32")
                logits[b, unit] = value
                mask[b, unit] = tirx.Select(value >= zero, one, zero)

            linear = _linear_on_gpu if kernel.on_gpu else _linear_on_cpu
            linear(kernel, pooled, weight1, bias1, keep_hidden, parallel)
            linear(kernel, hidden, weight2, bias2, keep_logit, parallel)
        return kernel.lowered()


def _linear_on_cpu(kernel: Kernel, x: Memory, weight: Memory, bias: Memory, keep: Any, parallel: bool) -> None:
    units, length = (int(extent) for extent in weight.buffer.shape)
    vector = lanes(length, "float32", kernel.target)
    with spread(kernel, (units, 1), vector=1, parallel=parallel) as (b, unit, _):
        sums = zeros(kernel, "sums", vector)
        add_run(kernel, sums, vector, length // vector, lambda k: x[b, k].astype("float32") * weight[unit, k])
        keep(b, unit, over_lanes(sums, vector) + bias[unit])


def _linear_on_gpu(kernel: Kernel, x: Memory, weight: Memory, bias: Memory, keep: Any, parallel: bool) -> None:
    units, length = (int(extent) for extent in weight.buffer.shape)
    vector = lanes(length, "float32", kernel.target)
    abreast = TEAMS // _WARP
    with (
        kernel.thread("blockIdx.y", kernel.batch) as b,
        kernel.thread("blockIdx.x", -(-units // abreast)) as block,
        kernel.thread("threadIdx.y", abreast) as which,
        kernel.thread("threadIdx.x", _WARP) as thread,
    ):
        unit = block * abreast + which
        sums = zeros(kernel, "sums", vector)
        with kernel.when(unit < units):
            add_share(
                kernel,
                sums,
                vector,
                length // vector,
                lambda k: x[b, k].astype("float32") * weight[unit, k],
                thread=thread,
                team=_WARP,
            )
        total = over_team(kernel, over_lanes(sums, vector), thread=thread, which=which, team=_WARP)
        with kernel.when(thread == 0, unit < units):
            keep(b, unit, total + bias[unit])


SCHEDULE = ChannelMaskersSchedule()
