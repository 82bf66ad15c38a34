"""How the product is cut for the cores.

share   the rows that have their weights in common: one sample's, where it has a channel list, else all
task    some rows of a share x some columns, for one core; every task of a share has as much to do as the others
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments
from laudc.schedules._cpu_plan import Plan
from laudc.schedules._cpu_vectors import opaque

if TYPE_CHECKING:
    from tvm.tirx import Expr


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    begin: Expr | int
    count: Expr
    sample: Expr | int
    kept_in: Expr | None
    """Channels of x that are there, where that varies."""
    kept_out: Expr | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    share: Share
    row: Expr
    """The first one."""
    rows: Expr
    unit: Expr
    """The first of its column tiles; of its groups, where there is more than one."""
    units: Expr


def each_share(a: Arguments, body: Callable[[Share], None]) -> None:
    """The code for every share, one after the other."""
    plan, spec = a.plan, a.plan.spec
    if not plan.per_sample:
        count = a.rows[a.batch] if spec.rows else a.x_rows if plan.reads_x_in_place else a.batch * plan.pixels
        body(Share(begin=0, count=opaque(count), sample=0, kept_in=None, kept_out=None))
        return
    with T.serial(a.batch) as sample:
        kept = T.bind(a.channels[sample, 0])
        begin = opaque(a.rows[sample] if spec.rows else sample * plan.pixels)
        end = a.rows[sample + 1] if spec.rows else begin + plan.pixels
        body(
            Share(
                begin=begin,
                count=opaque(end - begin),
                sample=sample,
                kept_in=T.bind(kept * spec.channels_in) if spec.channels_in else None,
                kept_out=T.bind(kept * spec.channels_out) if spec.channels_out else None,
            )
        )


def each_task(plan: Plan, share: Share, body: Callable[[Task], None]) -> None:
    """The code for every task, on all cores at once."""
    rounds = T.max(T.ceildiv(share.count, plan.panel_rows * plan.row_parts), 1)
    parts = T.bind(rounds * plan.row_parts)
    rows = opaque(T.max(T.ceildiv(T.ceildiv(share.count, parts), plan.row_unit), 1) * plan.row_unit)
    row_tasks = opaque(T.ceildiv(share.count, rows))
    all_units = T.bind(_units(plan, share))
    units = opaque(T.max(T.ceildiv(all_units, plan.column_parts), 1))
    with T.parallel(row_tasks * T.ceildiv(all_units, units)) as number:
        row = opaque(T.truncmod(number, row_tasks) * rows)
        unit = opaque(T.truncdiv(number, row_tasks) * units)
        body(
            Task(
                share=share,
                row=opaque(share.begin + row),
                rows=opaque(T.min(rows, share.count - row)),
                unit=unit,
                units=opaque(T.min(units, all_units - unit)),
            )
        )


def _units(plan: Plan, share: Share) -> Expr | int:
    if share.kept_out is None:
        return plan.groups if plan.groups > 1 else plan.column_tiles
    return T.ceildiv(share.kept_out, plan.columns if plan.groups > 1 else plan.tile_vectors * plan.lanes)
