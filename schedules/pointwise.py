"""What is computed number by number: activation, add, and the two dense masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from laudc.ops._geometry import patch_size
from laudc.ops._pointwise import POINTWISE
from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.base import Spec
from laudc.ops.mask_channels import MaskChannelsSpec
from laudc.ops.mask_rows import MaskRowsSpec
from laudc.schedules._pointwise import pointwise
from laudc.schedules._spread import lanes, lowered, operand, spread, stored_shape, symbolic_batch, worth_parallel
from laudc.schedules.base import Choice, Lowered, Schedule, Work

if TYPE_CHECKING:
    from tvm.tirx import Expr

    from laudc.targets import Target

Value = Callable[..., Any]
"""The result at an index, in float32."""


class PointwiseSchedule(Schedule):
    ops = frozenset({"activation", "add", "mask_rows", "mask_channels"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        if work.dtype not in ("float32", "float16"):
            return f"it computes on float32 and float16, not on {work.dtype}"
        function = _function(work.spec)
        if function not in POINTWISE:
            return f"it does not know the function {function!r}"
        return None

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from tvm import s_tir, te

        batch = symbolic_batch()
        arguments = [operand(name, type_, batch) for name, type_ in zip(work.spec.operands, work.operands, strict=True)]
        value = _value(work, arguments, target)
        shape = (batch, *stored_shape(work.results[0].shape)[1:])
        made = te.compute(shape, lambda *at: value(*at).astype(work.dtype), name="made")
        schedule = s_tir.Schedule(te.create_prim_func([*arguments, made]))
        masked = isinstance(work.spec, MaskRowsSpec | MaskChannelsSpec)
        spread(
            schedule,
            schedule.get_sblock("made"),
            target,
            vector=_vector(work, target),
            parallel=worth_parallel(work),
            flat=not masked,
        )
        return lowered(schedule.mod["main"])


def _function(spec: Spec) -> str:
    if isinstance(spec, ActivationSpec):
        return spec.function
    return spec.activation if isinstance(spec, AddSpec) else "none"


def _value(work: Work, arguments: list[Any], target: Target) -> Value:
    spec, x = work.spec, arguments[0]
    size = stored_shape(work.operands[0].shape)[1:]

    def read(tensor: Any, *at: Expr) -> Any:
        return tensor[at].astype("float32")

    if isinstance(spec, AddSpec):
        return lambda *at: pointwise(spec.activation, read(x, *at) + read(arguments[1], *at), target.kind)
    if isinstance(spec, MaskRowsSpec):
        sides = [patch_size(spec.granularity, extent) for extent in size[:2]]
        return lambda b, i, j, c: read(x, b, i, j, c) * read(arguments[1], b, i // sides[0], j // sides[1])
    if isinstance(spec, MaskChannelsSpec):
        return lambda b, i, j, c: read(x, b, i, j, c) * read(arguments[1], b, c // spec.group)
    return lambda *at: pointwise(_function(spec), read(x, *at), target.kind)


def _vector(work: Work, target: Target) -> int:
    size = stored_shape(work.results[0].shape)[1:]
    if isinstance(work.spec, MaskChannelsSpec) and work.spec.group > 1 and target.kind == "cuda":
        return lanes(work.spec.group, work.dtype, target)  # one decision for the whole vector
    if isinstance(work.spec, MaskRowsSpec | MaskChannelsSpec):
        return lanes(size[-1], work.dtype, target)
    whole = size if target.kind == "cuda" else size[-2:]
    extent = 1
    for side in whole:
        extent *= side
    return lanes(extent, work.dtype, target)


SCHEDULE = PointwiseSchedule()
