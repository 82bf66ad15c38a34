"""The arguments of a CPU kernel as TensorIR buffers, in the order all kernels share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.schedules._cpu_plan import Plan

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr

ALIGN = 4
"""Bytes. Where nothing is said TVM takes 64 for granted, and a slice of a tensor would crash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Buffers, each None where the spec has no such thing. A map is seen as the matrix [pixels, channels]."""

    plan: Plan
    batch: Expr
    x_rows: Expr
    x: Buffer
    rows: Buffer
    channels: Buffer
    gain: Buffer
    """[pixel of the result, 0]"""
    residual: Buffer
    weight: Buffer
    """[vector, tap and channel, lane]"""
    bias: Buffer
    """[vector, lane]"""
    prologue: Buffer
    """The scales of all channels of x, then their shifts."""
    masker: Buffer
    """A weight for every k, and the bias after them."""
    copied_weight: Buffer
    copied_bias: Buffer
    out: Buffer
    logits: Buffer

    def position(self, row: Expr) -> Expr:
        """The output pixel that a row of the product stands for."""
        return self.rows[self.batch + 1 + row] if self.plan.spec.rows else row

    def out_row(self, row: Expr) -> Expr:
        """Where a row of the product goes."""
        return row if self.plan.spec.compact else self.position(row)

    def listed_channel(self, sample: Expr | int, group: int, column: Expr) -> Expr:
        """The channel that a compact column stands for."""
        return self.channels[sample, 1 + T.truncdiv(column, group)] * group + T.truncmod(column, group)


def declare_arguments(plan: Plan) -> Arguments:
    """Declare them to the function under construction."""
    spec = plan.spec
    x_lead, out_lead, list_size = T.int32(), T.int32(), T.int32()
    if not spec.gathered and not spec.compact:
        out_lead = x_lead

    def argument(name: str, wanted: bool, shape: tuple[Expr | int, ...], dtype: str = "float32") -> Buffer:
        return T.match_buffer(T.arg(name, T.handle()), shape, dtype, align=ALIGN) if wanted else None

    k = plan.taps * plan.depth
    vectors = plan.groups * plan.vectors
    x = argument("x", True, (x_lead, *plan.x_tail))
    rows = argument("rows", spec.rows, (list_size,), "int32")
    channels = argument("channels", plan.per_sample, (x_lead, 1 + _decisions(plan)), "int32")
    gain = argument("gain", spec.gain, (T.int32(), *plan.out_size, 1))
    residual = argument("residual", spec.residual == "dense", (out_lead, *plan.out_tail))
    weight = argument("weight", True, (vectors, k, plan.lanes))
    bias = argument("bias", spec.bias, (vectors, plan.lanes))
    prologue = argument("prologue", spec.prologue is not None, (2, spec.in_channels))
    masker = argument("masker", spec.masker, (k + 1,))
    copied_weight = argument("copied_weight", plan.copies_weights, (vectors, k, plan.lanes))
    copied_bias = argument("copied_bias", plan.copies_weights and spec.bias, (vectors, plan.lanes))
    out = argument("out", True, (out_lead, *plan.out_tail))
    logits = argument("logits", spec.masker, (out_lead, *plan.out_size, 1))
    return Arguments(
        plan=plan,
        batch=T.bind(T.truncdiv(list_size - 1, plan.pixels + 1) if spec.gathered else x_lead),
        x_rows=_rows(x),
        x=_matrix(x, plan.spec.in_channels if plan.splits_rows else 0),
        rows=rows,
        channels=channels,
        gain=_matrix(gain),
        residual=_matrix(residual),
        weight=weight,
        bias=bias,
        prologue=prologue,
        masker=masker,
        copied_weight=copied_weight,
        copied_bias=copied_bias,
        out=_matrix(out),
        logits=_matrix(logits),
    )


def _decisions(plan: Plan) -> int:
    spec = plan.spec
    if spec.channels_out:
        return spec.out_channels // spec.channels_out
    return spec.in_channels // spec.channels_in if spec.channels_in else 0


def _rows(buffer: Buffer) -> Expr:
    rows, *others = list(buffer.shape)[:-1]
    for size in others:
        rows = rows * size
    return rows


def _matrix(buffer: Buffer, width: int = 0) -> Buffer:
    """The same bytes with every axis but the last one as one, or as rows of `width`."""
    if buffer is None:
        return None
    rows, columns = _rows(buffer), int(buffer.shape[-1])
    if width:
        rows, columns = rows * (columns // width), width
    return T.decl_buffer((rows, columns), buffer.dtype, data=buffer.data, align=ALIGN)
