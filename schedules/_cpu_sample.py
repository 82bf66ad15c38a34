"""A sample's own weights: the columns (and rows) that its channel list names, copied side by side.

Needed where a group of channels is no whole vector, so that the list cannot be followed while multiplying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments
from laudc.schedules._cpu_plan import Plan

if TYPE_CHECKING:
    from tvm.tirx import Expr


def listed_channel(a: Arguments, sample: Expr | int, group: int, position: Expr) -> Expr:
    """The channel that a compact column stands for."""
    return a.channels[sample, 1 + T.truncdiv(position, group)] * group + T.truncmod(position, group)


def copy_weights(plan: Plan, a: Arguments, sample: Expr, kept_in: Expr, kept_out: Expr) -> None:
    """Fill `copied_weight` and `copied_bias` for one sample with so many channels."""
    spec, lanes = plan.spec, plan.lanes
    with T.parallel(T.ceildiv(kept_out, lanes)) as v:
        from_vector = T.alloc_buffer((lanes,), "int32", scope="local")
        from_lane = T.alloc_buffer((lanes,), "int32", scope="local")
        with T.serial(lanes) as lane:
            column = T.bind(listed_channel(a, sample, spec.channels_out, T.min(v * lanes + lane, kept_out - 1)))
            T.buffer_store(from_vector, T.truncdiv(column, lanes), [lane])
            T.buffer_store(from_lane, T.truncmod(column, lanes), [lane])
            if spec.bias:
                T.buffer_store(a.copied_bias, a.bias[from_vector[lane], from_lane[lane]], [v, lane])
        with T.serial(plan.taps) as tap, T.serial(kept_in) as c:
            channel = listed_channel(a, sample, spec.channels_in, c) if spec.channels_in else c
            row = T.bind(tap * plan.depth + channel)
            with T.serial(lanes) as lane:
                value = a.weight[from_vector[lane], row, from_lane[lane]]
                T.buffer_store(a.copied_weight, value, [v, tap * plan.depth + c, lane])
