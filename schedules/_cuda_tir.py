"""What every kernel written in TIRx needs: its argument list, sizes with a symbolic lead, small expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from tvm import tirx
from tvm.ir import IRModule
from tvm.script import tirx as T

from laudc.schedules._cuda_problem import Problem

Item = TypeVar("Item")
Number: TypeAlias = tirx.Expr | int


def argument_names(p: Problem) -> list[str]:
    """The kernel's arguments in order; a residual that is updated in place is `out`."""
    present = {
        "x": True,
        "rows": p.rows,
        "channels": p.per_sample,
        "residual": p.residual == "dense",
        "weight": True,
        "bias": p.bias,
        "out": True,
        "logits": p.masker,
    }
    return [name for name, is_there in present.items() if is_there]


def module_of(p: Problem, function: tirx.PrimFunc) -> IRModule:
    """The function as a module, without the arguments that this problem has not."""
    names = argument_names(p)
    kept = [parameter for parameter in function.params if parameter.name in names]
    assert [parameter.name for parameter in kept] == names, (function.params, names)
    entry = tirx.PrimFunc(kept, function.body, function.ret_type, function.attrs)
    return IRModule({"kernel": entry.with_attr("global_symbol", "kernel")})


def batch_of(p: Problem, lead: tirx.Var) -> Number:
    """The batch, from the leading size of x: a gathered matrix leads with its capacity."""
    return T.truncdiv(lead, p.pixels) if p.gathered else lead


def sized(lead: Number, dims: Sequence[int]) -> tuple[Number, ...]:
    """A shape whose first size is symbolic."""
    return (lead, *dims)


def out_shape(p: Problem, batch: Number) -> tuple[Number, ...]:
    return sized(batch * p.pixels if p.compact else batch, p.out_dims)


def all_of(*conditions: tirx.Expr | bool) -> tirx.Expr | bool:
    """Their conjunction; what is known to hold costs nothing."""
    unknown = [condition for condition in conditions if condition is not True]
    return True if not unknown else unknown[0] if len(unknown) == 1 else tirx.all(*unknown)


def run_of(items: Sequence[Item], start: int, count: int) -> list[Item]:
    """`count` neighbours, for instructions that take their registers one by one."""
    return [items[start + i] for i in range(count)]
