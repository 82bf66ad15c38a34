"""The arguments of a CPU kernel as TensorIR buffers, in the order all kernels share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.schedules._cpu_plan import Plan

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Buffers, and sizes that are known at the call. A map is seen as the matrix [pixels, channels]."""

    batch: Expr
    x_rows: Expr
    x: Buffer
    out: Buffer
    weight: Buffer
    """[vector, tap and channel, lane]"""
    rows: Buffer | None
    channels: Buffer | None
    residual: Buffer | None
    bias: Buffer | None
    """[vector, lane]"""
    masker: Buffer | None
    """A weight for every k, and the bias after them."""
    logits: Buffer | None
    copied_weight: Buffer | None
    copied_bias: Buffer | None


def declare_arguments(plan: Plan) -> Arguments:
    """Declare them to the function under construction."""
    spec = plan.spec
    x_lead, out_lead, list_size = T.int32(), T.int32(), T.int32()
    if not spec.gathered and not spec.compact:
        out_lead = x_lead

    def argument(name: str, wanted: bool, shape: tuple[Expr | int, ...], dtype: str = "float32") -> Buffer | None:
        # TVM takes 64 bytes for granted where nothing is said, and loads by that
        align = 4
        return T.match_buffer(T.arg(name, T.handle()), shape, dtype, align=align) if wanted else None

    k = plan.taps * plan.depth
    vectors = (plan.groups * plan.vectors, k, plan.lanes)
    x = argument("x", True, (x_lead, *plan.x_tail))
    rows = argument("rows", spec.rows, (list_size,), "int32")
    batch = T.truncdiv(list_size - 1, plan.pixels + 1) if spec.gathered else x_lead
    decisions = _decisions(plan)
    channels = argument("channels", plan.per_sample, (x_lead, 1 + decisions), "int32")
    residual = argument("residual", spec.residual == "dense", (out_lead, *plan.out_tail))
    weight = argument("weight", True, vectors)
    bias = argument("bias", spec.bias, (vectors[0], plan.lanes))
    masker = argument("masker", spec.masker, (k + 1,))
    copied_weight = argument("copied_weight", plan.copies_weights, vectors)
    copied_bias = argument("copied_bias", plan.copies_weights and spec.bias, (vectors[0], plan.lanes))
    out = argument("out", True, (out_lead, *plan.out_tail))
    logits = argument("logits", spec.masker, (out_lead, *plan.out_size, 1))
    return Arguments(
        batch=T.bind(batch),
        x_rows=_lead(x, x_lead),
        x=_matrix(x, x_lead),
        out=_matrix(out, out_lead),
        weight=weight,
        rows=rows,
        channels=channels,
        residual=_matrix(residual, out_lead) if residual is not None else None,
        bias=bias,
        masker=masker,
        logits=_matrix(logits, out_lead) if logits is not None else None,
        copied_weight=copied_weight,
        copied_bias=copied_bias,
    )


def _decisions(plan: Plan) -> int:
    spec = plan.spec
    if spec.channels_out:
        return spec.out_channels // spec.channels_out
    return spec.in_channels // spec.channels_in if spec.channels_in else 0


def _lead(buffer: Buffer, lead: Expr) -> Expr:
    rows = lead
    for size in list(buffer.shape)[1:-1]:
        rows = rows * size
    return rows


def _matrix(buffer: Buffer, lead: Expr) -> Buffer:
    """The same bytes with every axis but the last one as one."""
    shape = (_lead(buffer, lead), buffer.shape[-1])
    return T.decl_buffer(shape, buffer.dtype, data=buffer.data, align=4)
