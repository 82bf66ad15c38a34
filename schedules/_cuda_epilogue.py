"""What happens to a finished sum: bias, residual, activation, and its place in the result."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

SQRT_HALF = 0.7071067811865476


def activated(name: str, v: tirx.Expr) -> tirx.Expr:
    """A float32 through the function called `name`; NaN comes out as NaN, so that no failure is hidden."""
    zero, one, three, six = (T.float32(value) for value in (0.0, 1.0, 3.0, 6.0))
    match name:
        case "none":
            return v
        case "relu":
            return tirx.Select(v < zero, zero, v)
        case "relu6":
            return tirx.Select(v > six, six, tirx.Select(v < zero, zero, v))
        case "silu":
            return v / (one + T.exp(zero - v))
        case "sigmoid":
            return one / (one + T.exp(zero - v))
        case "gelu":
            return v * T.float32(0.5) * (one + T.erf(v * T.float32(SQRT_HALF)))
        case "hardswish":
            return v * activated("relu6", v + three) / six
        case _:
            raise AssertionError(name)
