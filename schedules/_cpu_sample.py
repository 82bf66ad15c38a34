"""A sample's own weights: the columns (and rows) that its channel list names, copied side by side.

Needed where a group of channels is no whole vector, so that the list cannot be followed while multiplying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments
from laudc.schedules._cpu_plan import Plan

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr


def listed_channel(a: Arguments, sample: Expr | int, group: int, position: Expr) -> Expr:
    """The channel that a compact column stands for."""
    return a.channels[sample, 1 + T.truncdiv(position, group)] * group + T.truncmod(position, group)


def copy_weights(plan: Plan, a: Arguments, sample: Expr, kept_in: Expr | int, kept_out: Expr) -> None:
    """Fill `copied_weight` and `copied_bias` for one sample with so many channels.

    All columns of one k before the next k: neighbours in a list are mostly neighbours in memory.
    """
    spec, lanes, parts = plan.spec, plan.lanes, plan.row_parts * plan.column_parts
    weight = T.decl_buffer((plan.weight_floats,), "float32", data=a.weight.data, align=4)
    vectors = T.bind(T.ceildiv(kept_out, lanes))
    with T.parallel(parts) as part:
        source = _column_places(plan, a, sample, kept_out, vectors)
        share = T.bind(T.ceildiv(plan.taps * kept_in, parts))
        begin = T.bind(part * share)
        with T.serial(T.max(T.min(share, plan.taps * kept_in - begin), 0)) as i:
            tap, c = T.bind(T.truncdiv(begin + i, kept_in)), T.bind(T.truncmod(begin + i, kept_in))
            channel = listed_channel(a, sample, spec.channels_in, c) if spec.channels_in else c
            row = T.bind((tap * plan.depth + channel) * lanes)
            copy = T.bind(tap * plan.depth + c)
            with T.serial(vectors) as v, T.unroll(lanes) as lane:
                T.buffer_store(a.copied_weight, weight[source[v * lanes + lane] + row], [v, copy, lane])
    if spec.bias:
        with T.serial(kept_out) as j:
            channel = T.bind(listed_channel(a, sample, spec.channels_out, j))
            value = a.bias[T.truncdiv(channel, lanes), T.truncmod(channel, lanes)]
            T.buffer_store(a.copied_bias, value, [T.truncdiv(j, lanes), T.truncmod(j, lanes)])


def _column_places(plan: Plan, a: Arguments, sample: Expr, kept_out: Expr, vectors: Expr) -> Buffer:
    """Where in the weights each kept column begins; the lanes past the last one repeat it."""
    lanes = plan.lanes
    places = T.alloc_buffer((plan.vectors * lanes,), "int32")
    with T.serial(vectors * lanes) as j:
        column = T.bind(listed_channel(a, sample, plan.spec.channels_out, T.min(j, kept_out - 1)))
        vector = T.truncdiv(column, lanes) * (plan.taps * plan.depth * lanes)
        T.buffer_store(places, vector + T.truncmod(column, lanes), [j])
    return places
