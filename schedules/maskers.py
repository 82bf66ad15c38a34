"""The spatial and layer maskers: patch_masker, and patch_decision where a convolution has made the logits already.

A mean commutes with a linear map, so a patch's logit is the sum over its positions and channels of x*w, over the
number of positions, plus the bias. A row of a patch is one run of numbers, channels and all. Large patches are cut in
`bands` of rows, whose sums go through a workspace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laudc.ops.patch_decision import PatchDecisionSpec
from laudc.ops.patch_masker import PatchMaskerSpec
from laudc.schedules._decision import Finish, decide, decisions_of, given_to, refuse_type, unit_sums
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._reduce import zeros
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import lanes, share_out, spread
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.targets import Target

_BAND = 16384
"""Numbers that one team adds up at most, unless a single row has more."""
_SMALL = 2048
"""Up to so many, a team is one warp."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Patches:
    """How a map is cut: `grid` patches of `side`, each in `bands` of `rows` rows."""

    height: int
    width: int
    channels: int
    grid: tuple[int, int]
    side: tuple[int, int]
    rows: int

    @classmethod
    def of(cls, work: Work, bands: int) -> _Patches:
        assert isinstance(work.spec, PatchMaskerSpec | PatchDecisionSpec)
        _, height, width, channels = work.operands[0].stored
        side = work.spec.patch(height, width)
        _, down, across = work.results[0].shape
        rows = -(-side[0] // bands)
        return cls(height=height, width=width, channels=channels, grid=(down, across), side=side, rows=rows)

    @property
    def bands(self) -> int:
        return -(-self.side[0] // self.rows)


class MaskersSchedule(Schedule):
    ops = frozenset({"patch_masker", "patch_decision"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        return refuse_type(work)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        whole = _Patches.of(work, 1)
        rows = max(1, _BAND // (whole.side[1] * whole.channels))
        bands = -(-whole.side[0] // min(rows, whole.side[0]))
        return ({**share_out(target, work.operands[0].numel), "bands": bands},)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Keep minus drop: one column of weights and one bias, float32."""
        if not isinstance(work.spec, PatchMaskerSpec):
            return ()
        weight, bias = weights["weight"].detach().float(), weights["bias"].detach().float()
        return (weight[0] - weight[1], bias[:1] - bias[1:])

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        """The sums of the bands."""
        batch, down, across = work.results[0].shape
        bands = _Patches.of(work, choice["bands"]).bands
        return (TensorType(shape=(batch, down * across * bands), dtype="float32"),) if bands > 1 else ()

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        x, units = work.operands[0], work.results[0].numel
        vector = lanes(x.shape[1], work.dtype, target)
        turns = x.numel / vector
        bands = _Patches.of(work, choice["bands"]).bands
        sums = swept(work, target, choice, active, outer=units * bands, turns=turns, steps=2 if vector > 1 else 8)
        together = Demand(tasks=max(1, units // 256), steps=bands * min(units, 256), parallel=False)
        return (sums, together) if bands > 1 else (sums,)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        cut = _Patches.of(work, choice["bands"])
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            given = given_to(kernel, work)
            weight = bias = None
            if isinstance(work.spec, PatchMaskerSpec):
                weight = kernel.argument("weight", (cut.channels,), "float32")
                bias = kernel.argument("bias", (1,), "float32")
            parts = [kernel.operand("parts", type_) for type_ in self.workspace(work, choice)]
            decisions = decisions_of(kernel, work, given)
            rows = kernel.flat(x, kernel.batch, cut.height, cut.width * cut.channels)

            def keep(b: Any, p: Any, q: Any, total: Any) -> None:
                mean = total / _positions(cut, p, q).astype("float32")
                decide(decisions, (b, p, q), mean if bias is None else mean + bias[0])

            def finish(b: Any, unit: Any, total: Any) -> None:
                if parts:
                    parts[0][b, unit] = total
                else:
                    keep(b, unit // cut.grid[1], unit % cut.grid[1], total)

            _sum_up(kernel, work, cut, rows, weight, finish, bool(choice["parallel"]))
            if parts:
                with spread(kernel, cut.grid, vector=1, parallel=False) as (b, p, q):
                    total = zeros(kernel, "total", 1)
                    with kernel.serial("band", cut.bands) as band:
                        total[0] = total[0] + parts[0][b, (p * cut.grid[1] + q) * cut.bands + band]
                    keep(b, p, q, total[0])
        return kernel.lowered()


def _sum_up(
    kernel: Kernel, work: Work, cut: _Patches, rows: Memory, weight: Memory | None, finish: Finish, parallel: bool
) -> None:
    vector = lanes(cut.channels, work.dtype, kernel.target)
    team = 32 if cut.rows * cut.side[1] * cut.channels <= _SMALL else 128
    units = math.prod(cut.grid) * cut.bands
    steps = cut.channels // vector
    with unit_sums(kernel, units, finish, vector=vector, team=team, parallel=parallel) as (b, unit, add):
        first, count, begin, columns = _place(cut, unit)
        with kernel.serial("row", count) as row:
            if kernel.on_gpu:
                add(columns * steps, lambda at: _term(rows, b, first + row, begin + at, weight, at % cut.channels))
            else:
                with kernel.serial("column", columns) as column:
                    start = begin + column * cut.channels
                    add(steps, lambda c: _term(rows, b, first + row, start + c, weight, c))


def _place(cut: _Patches, unit: Any) -> tuple[Any, Any, Any, Any]:
    """Of a band: first row, how many; where its run begins in a row, and how many positions it has."""
    from tvm import tirx

    patch, band = unit // cut.bands, unit % cut.bands
    p, q = patch // cut.grid[1], patch % cut.grid[1]
    first = p * cut.side[0] + band * cut.rows
    end = tirx.min(tirx.min(first + cut.rows, (p + 1) * cut.side[0]), cut.height)
    columns = tirx.min(cut.side[1], cut.width - q * cut.side[1])
    return first, tirx.max(end - first, 0), q * cut.side[1] * cut.channels, columns


def _term(rows: Memory, b: Any, row: Any, at: Any, weight: Memory | None, c: Any) -> Any:
    value = rows[b, row, at].astype("float32")
    return value if weight is None else value * weight[c]


def _positions(cut: _Patches, p: Any, q: Any) -> Any:
    """How many positions a patch has inside the map."""
    from tvm import tirx

    return tirx.min(cut.side[0], cut.height - p * cut.side[0]) * tirx.min(cut.side[1], cut.width - q * cut.side[1])


SCHEDULE = MaskersSchedule()
