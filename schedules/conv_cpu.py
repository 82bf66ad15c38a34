"""Convolutions and linear layers on the CPU: a gathered product in float32, static or sparse.

rows of x, prologue -> panel -> register tiles (rows x vectors of channels) -> bias, gain, residual, activation -> out
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from laudc.ops._pointwise import POINTWISE
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.schedules._cpu_demand import product_demand
from laudc.schedules._cpu_plan import plan_of
from laudc.schedules._cpu_weights import pack_weights
from laudc.schedules._demand import Active, Demand
from laudc.schedules._prologue import refuse_prologue
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import TensorType

if TYPE_CHECKING:
    from laudc.targets import Target

_TILES = {16: (14, 2), 8: (6, 2), 4: (8, 3)}
"""Rows and vectors of sums, by lanes: all registers but those for a row of weights and one x."""


class ConvCpu(Schedule):
    ops = frozenset({"conv2d", "linear"})
    kind = "cpu"

    def refuse(self, work: Work, target: Target) -> str | None:
        if work.dtype != "float32":
            return f"it computes in float32, not in {work.dtype}"
        spec = work.spec
        if isinstance(spec, LinearSpec):
            return None if spec.activation in POINTWISE else f"it does not know the function {spec.activation!r}"
        assert isinstance(spec, Conv2dSpec), spec
        return _refuse_conv(spec)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        lanes = lanes_of(target)
        rows, vectors = _TILES[lanes]
        base = {"lanes": lanes, "tile_rows": rows, "tile_vectors": vectors, "chunk": 640, "panel_tiles": 4}
        by_rows, by_columns = _parts(work, {**base, "row_parts": 1, "column_parts": 1}, max(1, target.sm_count))
        wide = {"tile_rows": rows // 2 - 1, "tile_vectors": 2 * vectors, "panel_tiles": 8}
        return (
            {**base, **by_rows},
            {**base, **by_columns},
            {**base, **by_rows, **wide},
            {**base, **by_rows, "chunk": 320, "panel_tiles": 8},
        )

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        return product_demand(plan_of(work, choice), _batch(work), active)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cpu_gemm import build_module

        return Lowered(module=build_module(plan_of(work, choice)), pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return pack_weights(plan_of(work, choice), weights)

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        plan = plan_of(work, choice)
        if not plan.copies_weights:
            return ()
        weight = TensorType(shape=(plan.vectors, plan.taps * plan.depth, plan.lanes), dtype="float32")
        bias = TensorType(shape=(plan.vectors, plan.lanes), dtype="float32")
        return (weight, bias) if plan.spec.bias else (weight,)


def _parts(work: Work, base: Choice, cores: int) -> tuple[Choice, Choice]:
    """How the work is cut for the cores: as it is best, then in the other way.

    By rows, each core reads all weights; by columns, each gathers all rows. So what is larger is cut, and the columns
    of a small map, which are divided evenly whatever rows are on.
    """
    plan = plan_of(work, base)
    columns = min(cores, plan.column_tiles) if plan.groups == 1 else 1
    by_rows = {"row_parts": cores, "column_parts": 1}
    by_columns = {"row_parts": -(-cores // columns), "column_parts": columns}
    return (by_columns, by_rows) if plan.pixels < plan.columns else (by_rows, by_columns)


def _batch(work: Work) -> int:
    """Samples; a linear layer's rows beyond its first axis are a map."""
    return work.spec.out_map(work.operands)[0] if isinstance(work.spec, Conv2dSpec) else work.operands[0].shape[0]


def lanes_of(target: Target) -> int:
    """float32 values in a vector register; the target counts those of its two multiply-add units."""
    return next(lanes for lanes in (16, 8, 4) if lanes == 4 or target.fp32_lanes_per_sm >= 2 * lanes)


def _refuse_conv(spec: Conv2dSpec) -> str | None:
    lists = spec.channels_in > 0 or spec.channels_out > 0
    if spec.activation not in POINTWISE:
        return f"it does not know the function {spec.activation!r}"
    if spec.samples or spec.sums or spec.running:
        return "it reads lists of rows, not decisions on samples, and leaves no sums"
    if spec.shortcut:
        return "it reads one map"
    if spec.rows and spec.residual == "dense":
        return "it adds a residual to listed rows in place only"
    if spec.residual == "in_place" and not spec.rows:
        return "it updates in place only listed rows"
    if (spec.gathered or spec.compact) and not spec.rows:
        return "it knows of no matrix of rows without a row list"
    if spec.gathered and lists:
        return "it reads gathered rows whole, not by lists of channels"
    if spec.compact and spec.residual != "none":
        return "it adds no residual to a compact result"
    if spec.masker and (lists or spec.rows or spec.residual != "none" or spec.groups > 1 or spec.gain):
        return "it computes a masker's logits only beside a plain dense convolution"
    return refuse_prologue(spec) or (_refuse_lists(spec) if lists and spec.groups > 1 else None)


def _refuse_lists(spec: Conv2dSpec) -> str | None:
    """Grouped: the list must name whole groups, the same ones on both sides."""
    group_in, group_out = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    whole = spec.channels_in % group_in == 0 and spec.channels_out % group_out == 0
    same = spec.channels_in * spec.out_channels == spec.channels_out * spec.in_channels
    if not (spec.channels_in and spec.channels_out and whole and same):
        return "it skips channels of a grouped convolution only by whole groups, on both sides"
    return None


SCHEDULE = ConvCpu()
