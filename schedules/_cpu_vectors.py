"""Small words of CPU code: vectors of a width, counts cut into vectors, numbers kept on the stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr

_UNROLLED = 8
"""Vectors, up to which a loop is written out."""


def vector(width: int) -> str:
    """The type of so many floats."""
    return f"float32x{width}" if width > 1 else "float32"


def ramp(start: Expr | int, width: int) -> Expr | int:
    """The index of so many neighbours."""
    return tirx.Ramp(start, 1, width) if width > 1 else start


def zeros(width: int) -> Expr:
    zero = tirx.const(0.0, "float32")
    return tirx.Broadcast(zero, width) if width > 1 else zero


def pieces(count: int, widest: int) -> list[tuple[int, int]]:
    """Offsets and power-of-two widths that make up `count`."""
    made, offset, width = [], 0, widest
    while offset < count:
        while width > count - offset:
            width //= 2
        made.append((offset, width))
        offset += width
    return made


def each_piece(
    lanes: int, count: Expr | int, handle: Callable[[Expr | int, int], None], *, twice: bool = False
) -> None:
    """`handle(offset, width)` for all of `count`; `twice`: some of it may be handled a second time."""
    if not isinstance(count, int):
        with T.serial(T.truncdiv(count, lanes)) as v:
            handle(v * lanes, lanes)
        with T.serial(T.truncmod(count, lanes)) as one:
            handle(T.truncdiv(count, lanes) * lanes + one, 1)
        return
    whole = count // lanes
    if whole <= _UNROLLED:
        for v in range(whole):
            handle(v * lanes, lanes)
    else:
        with T.serial(whole) as v:
            handle(v * lanes, lanes)
    if twice and whole and count % lanes:
        handle(count - lanes, lanes)
        return
    for offset, width in pieces(count % lanes, lanes):
        handle(whole * lanes + offset, width)


def on_stack(count: int, dtype: str = "float32") -> Buffer:
    """A buffer that LLVM can keep in registers: TVM by itself would take it from the heap."""
    return T.alloc_buffer((count,), dtype, scope="local", annotations={"disable_lower_builtin": True})


def opaque(value: Expr | int) -> Expr:
    """The value as a variable that TVM knows nothing of; LLVM sees through it.

    TVM's simplifier tries to prove things of every index from all it knows of each variable in it, which for the sizes
    of a task takes seconds and finds nothing.
    """
    cell = on_stack(1, "int32")
    T.buffer_store(cell, value, [0])
    return T.bind(cell[0])


def all_of(*conditions: Expr | bool) -> Expr | bool:
    """Their conjunction; what is known to hold costs nothing."""
    unknown = [condition for condition in conditions if condition is not True]
    if not unknown:
        return True
    return tirx.all(*unknown) if len(unknown) > 1 else unknown[0]


def branch(condition: Expr | bool, then: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
    """An if, where the condition is not known to hold."""
    if condition is True:
        then()
        return
    with T.If(condition):
        with T.Then():
            then()
        if otherwise is not None:
            with T.Else():
                otherwise()
