"""The pointwise functions as TensorIR expressions, float32 in and out; NaN stays NaN, as in torch.

erf, and on a CPU exp, are polynomials good to a few units in the last place: a library call for every lane would keep
the vectors from being vectors, and cost more than the memory does.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from laudc.errors import BuildError

if TYPE_CHECKING:
    from tvm.tirx import Expr

# exp(r) for |r| <= ln(2)/2, highest power first (S. L. Moshier, Cephes, expf)
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LN2 = (0.693359375, -2.12194440e-4)
# erf(x) = x * P(x*x) / Q(x*x) for |x| <= 4, highest power first (Eigen, generic_erf_float)
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def pointwise(name: str, x: Expr, kind: str) -> Expr:
    """x through the function called `name` in `laudc.ops._pointwise`, for a kind of target."""
    match name:
        case "none":
            return x
        case "relu":
            return _at_least(x, 0.0)
        case "relu6":
            return _at_most(_at_least(x, 0.0), 6.0)
        case "sigmoid":
            return _f32(1) / (_f32(1) + _exp(-x, kind))
        case "silu":
            return x / (_f32(1) + _exp(-x, kind))
        case "gelu":
            return _f32(0.5) * x * (_f32(1) + _erf(x * _f32(0.5**0.5)))
        case "hardswish":
            return x * _at_most(_at_least(x + _f32(3), 0.0), 6.0) / _f32(6)
    raise BuildError(f"no kernel knows the pointwise function {name!r}", "add it to schedules/_pointwise.py")


def _f32(value: float) -> Any:
    from tvm import tirx

    return tirx.const(struct.unpack("f", struct.pack("f", value))[0], "float32")  # rounded here, or compilers warn


def _at_least(x: Expr, low: float) -> Expr:
    from tvm import tirx

    return tirx.Select(x < _f32(low), _f32(low), x)  # a maximum would lose a NaN


def _at_most(x: Expr, high: float) -> Expr:
    from tvm import tirx

    return tirx.Select(x > _f32(high), _f32(high), x)


def _polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    value = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + _f32(coefficient)
    return value


def _exp(x: Expr, kind: str) -> Expr:
    from tvm import tirx

    if kind == "cuda":
        return tirx.exp(x)
    x = _at_most(_at_least(x, -87.0), 88.0)  # where 2**n is a normal number
    n = tirx.floor(x * _f32(1.4426950408889634) + _f32(0.5))
    r = x - n * _f32(_LN2[0]) - n * _f32(_LN2[1])
    power = tirx.reinterpret("float32", (n.astype("int32") + 127) << 23)
    return (_polynomial(r, _EXP) * r * r + r + _f32(1)) * power


def _erf(x: Expr) -> Expr:
    x = _at_most(_at_least(x, -4.0), 4.0)
    return x * _polynomial(x * x, _ERF_P) / _polynomial(x * x, _ERF_Q)
