"""A sample's own weights: the columns (and rows) that its channel list names, copied side by side.

Needed where a group of channels is no whole vector, so that the list cannot be followed while multiplying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments
from laudc.schedules._cpu_vectors import on_stack

if TYPE_CHECKING:
    from tvm.tirx import Expr


def copy_weights(a: Arguments, sample: Expr | int, kept_in: Expr | int, kept_out: Expr) -> None:
    """Fill `copied_weight` and `copied_bias` for one sample with so many channels."""
    plan, spec, lanes = a.plan, a.plan.spec, a.plan.lanes
    weight = T.decl_buffer((plan.weight_floats,), "float32", data=a.weight.data, align=4)
    with T.parallel(T.ceildiv(kept_out, lanes)) as v:
        # neighbours in a list are mostly neighbours in memory: the lanes read two or three vectors, k after k
        places = on_stack(lanes, "int32")
        with T.serial(lanes) as lane:
            column = T.bind(a.listed_channel(sample, spec.channels_out, T.min(v * lanes + lane, kept_out - 1)))
            vector = T.truncdiv(column, lanes) * (plan.taps * plan.depth * lanes)
            T.buffer_store(places, vector + T.truncmod(column, lanes), [lane])
            if spec.bias:
                value = a.bias[T.truncdiv(column, lanes), T.truncmod(column, lanes)]
                T.buffer_store(a.copied_bias, value, [v, lane])
        at = [T.bind(places[lane]) for lane in range(lanes)]
        with T.serial(plan.taps) as tap, T.serial(kept_in) as c:
            channel = a.listed_channel(sample, spec.channels_in, c) if spec.channels_in else c
            row = T.bind((tap * plan.depth + channel) * lanes)
            for lane in range(lanes):
                T.buffer_store(a.copied_weight, weight[at[lane] + row], [v, tap * plan.depth + c, lane])
