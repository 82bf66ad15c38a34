"""The channel masker: two small linear layers, a row of weights for each CPU core's turn or each warp of a GPU.

    hidden = relu(x @ w1.T + b1)        logits = hidden @ (keep - drop).T + (b_keep - b_drop)

Two launches on a GPU with the hidden layer in a workspace, so that one sample, too, is worked on by many blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from laudc.ops.channel_masker import ChannelMaskerSpec
from laudc.schedules._decision import Finish, decide, decisions_of, given_to, refuse_type, unit_sums
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._pointwise import pointwise
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import lanes, share_out
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
        return refuse_type(work)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.spec.macs(work.operands)),)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return pack_layers(weights)

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        """The hidden layer."""
        assert isinstance(work.spec, ChannelMaskerSpec)
        return (TensorType(shape=(work.operands[0].shape[0], work.spec.hidden), dtype="float32"),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        spec = work.spec
        assert isinstance(spec, ChannelMaskerSpec)
        return tuple(
            swept(
                work,
                target,
                choice,
                active,
                outer=work.operands[0].shape[0] * units,
                turns=work.operands[0].shape[0] * units * length / lanes(length, "float32", target),
                steps=2,
                weight_bytes=4 * units * length,
            )
            for units, length in ((spec.hidden, spec.channels), (spec.decisions, spec.hidden))
        )

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        spec = work.spec
        assert isinstance(spec, ChannelMaskerSpec)
        parallel = bool(choice["parallel"])
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            given = given_to(kernel, work)
            weight1 = kernel.argument("weight1", (spec.hidden, spec.channels), "float32")
            bias1 = kernel.argument("bias1", (spec.hidden,), "float32")
            weight2 = kernel.argument("weight2", (spec.decisions, spec.hidden), "float32")
            bias2 = kernel.argument("bias2", (spec.decisions,), "float32")
            hidden = kernel.operand("hidden", self.workspace(work, choice)[0])
            decisions = decisions_of(kernel, work, given)
            pooled = kernel.flat(x, kernel.batch, spec.channels)

            def keep_hidden(b: Any, unit: Any, value: Any) -> None:
                hidden[b, unit] = pointwise("relu", value, target.kind)

            def keep_logit(b: Any, unit: Any, value: Any) -> None:
                decide(decisions, (b, unit), value)

            _linear(kernel, pooled, weight1, bias1, keep_hidden, parallel)
            _linear(kernel, hidden, weight2, bias2, keep_logit, parallel)
        return kernel.lowered()


def pack_layers(weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Both layers in float32, the second one as keep minus drop."""
    first, first_bias, second, second_bias = (
        weights[name].detach().float() for name in ("weight1", "bias1", "weight2", "bias2")
    )
    keep, drop = second.chunk(2)
    keep_bias, drop_bias = second_bias.chunk(2)
    return (first.contiguous(), first_bias, keep - drop, keep_bias - drop_bias)


def _linear(kernel: Kernel, x: Memory, weight: Memory, bias: Memory, keep: Finish, parallel: bool) -> None:
    units, length = (int(extent) for extent in weight.buffer.shape)
    vector = lanes(length, "float32", kernel.target)

    def finish(b: Any, unit: Any, total: Any) -> None:
        keep(b, unit, total + bias[unit])

    with unit_sums(kernel, units, finish, vector=vector, team=_WARP, parallel=parallel) as (b, unit, add):
        add(length // vector, lambda k: x[b, k].astype("float32") * weight[unit, k])


SCHEDULE = ChannelMaskersSchedule()
