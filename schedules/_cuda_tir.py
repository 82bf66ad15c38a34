"""What every kernel written in TIRx needs: its arguments, sizes with a symbolic lead, small expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from tvm import tirx
from tvm.ir import IRModule
from tvm.script import tirx as T

from laudc.ops._pointwise import after_affine
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._pointwise import pointwise

Item = TypeVar("Item")
Number: TypeAlias = tirx.Expr | int


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """The buffers of a kernel's arguments; `module_of` drops those that its problem has not."""

    batch: Number
    x: tirx.Buffer
    rows: tirx.Buffer
    channels: tirx.Buffer
    gain: tirx.Buffer
    shortcut: tirx.Buffer
    residual: tirx.Buffer
    given: tirx.Buffer
    """Decisions in place of its own; below zero where there are none."""
    weight: tirx.Buffer
    bias: tirx.Buffer
    prologue: tirx.Buffer
    """The scales of all channels of x, then their shifts."""
    worth: tirx.Buffer
    """What a number of each column is worth to each running logit."""
    decision: tirx.Buffer
    """The bias of a keep logit, and which of the running logits it is."""
    out: tirx.Buffer
    mask: tirx.Buffer
    keep: tirx.Buffer
    """The keep logits of samples."""
    listed: tirx.Buffer
    """The samples that are on."""
    deciding: tirx.Buffer
    """The running logits that are decided on."""
    logits: tirx.Buffer
    sums: tirx.Buffer
    running: tirx.Buffer


def arguments_of(p: Problem, weight_shape: tuple[int, int], bias_size: int) -> Arguments:
    """The arguments of a kernel whose weights are packed in that shape."""
    lead = tirx.Var("lead", "int32")
    # A gathered matrix leads with its capacity.
    batch = T.truncdiv(lead, p.pixels) if p.gathered else lead
    out_shape = (batch * p.pixels if p.compact else batch, *p.out_dims)
    return Arguments(
        batch=batch,
        x=T.Buffer((lead, *p.x_dims), p.dtype, align=16),
        rows=_rows_buffer(p, batch),
        channels=T.Buffer((batch, p.decisions + 1), "int32"),
        gain=T.Buffer((batch, p.out_height, p.out_width, 1), "float32"),
        shortcut=T.Buffer((batch, *p.shortcut_dims, p.shortcut), p.dtype, align=16),
        residual=T.Buffer(out_shape, p.dtype, align=16),
        given=T.Buffer((batch, 1, 1), "float32"),
        weight=T.Buffer(weight_shape, p.dtype, align=16),
        bias=T.Buffer((bias_size,), "float32"),
        prologue=T.Buffer((2, p.channels), "float32", align=16),
        worth=T.Buffer((max(1, p.running), bias_size), "float32", align=16),
        decision=T.Buffer((2,), "float32"),
        out=T.Buffer(out_shape, p.dtype, align=16),
        mask=T.Buffer((batch, 1, 1), "float32"),
        keep=T.Buffer((batch, 1, 1), "float32"),
        listed=T.Buffer((batch + 1,), "int32"),
        deciding=T.Buffer((batch, max(1, p.deciding)), "int64", align=8),
        logits=T.Buffer((batch, p.out_height, p.out_width, 1), "float32"),
        sums=T.Buffer((batch, p.columns), "int64", align=16),
        running=T.Buffer((batch, max(1, p.running)), "int64", align=16),
    )


def _rows_buffer(p: Problem, batch: Number) -> tirx.Buffer:
    """A row list, or decisions on samples, or the list of those that are on."""
    if p.samples and not p.listed:
        return T.Buffer((batch, 1, 1), "float32")
    return T.Buffer((batch + 1,) if p.listed else (batch * (p.pixels + 1) + 1,), "int32")


def flat(buffer: tirx.Buffer, size: Number | None = None) -> tirx.Buffer:
    """The same elements as one row, of that size where the shape does not tell."""
    return T.decl_buffer((math.prod(buffer.shape) if size is None else size,), buffer.dtype, data=buffer.data)


def argument_names(p: Problem) -> list[str]:
    """The kernel's arguments in order; a residual that is updated in place is `out`."""
    present = {
        "x": True,
        "rows": p.rows and not p.deciding,
        "channels": p.per_sample,
        "gain": p.gain,
        "shortcut": p.shortcut > 0,
        "residual": p.residual == "dense",
        "given": p.deciding > 0,
        "weight": True,
        "bias": p.bias,
        "prologue": p.prologue is not None,
        "worth": p.running > 0,
        "decision": p.deciding > 0,
        "out": True,
        "mask": p.deciding > 0,
        "keep": p.deciding > 0,
        "listed": p.deciding > 0,
        "deciding": p.deciding > 0,
        "logits": p.masker,
        "sums": p.sums,
        "running": p.running > 0,
    }
    return [name for name, is_there in present.items() if is_there]


def module_of(p: Problem, function: tirx.PrimFunc) -> IRModule:
    """The function as a module, without the arguments that this problem has not."""
    names = argument_names(p)
    kept = [parameter for parameter in function.params if parameter.name in names]
    assert [parameter.name for parameter in kept] == names, (function.params, names)
    entry = tirx.PrimFunc(kept, function.body, function.ret_type, function.attrs)
    return IRModule({"kernel": entry.with_attr("global_symbol", "kernel")})


def through_prologue(p: Problem, value: Number, scale: Number, shift: Number) -> tirx.Expr:
    """What the weights meet in place of a value of x; all float32."""
    assert p.prologue is not None, p
    return pointwise(after_affine(p.prologue), value * scale + shift, "cuda")


def all_of(*conditions: tirx.Expr | bool) -> tirx.Expr | bool:
    """Their conjunction; what is known to hold costs nothing."""
    unknown = [condition for condition in conditions if condition is not True]
    return True if not unknown else unknown[0] if len(unknown) == 1 else tirx.all(*unknown)


def run_of(items: Sequence[Item], start: int, count: int) -> list[Item]:
    """`count` neighbours, for instructions that take their registers one by one."""
    return [items[start + i] for i in range(count)]
