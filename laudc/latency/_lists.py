"""How many rows and channels a lowered program's lists hold: in the mean, in distribution, or for given masks.

A pixel of a row list is on if any of the patches it serves is on: its own, or after `needed_region` every patch that
its window touches. Along each axis that is a table of pixels x patches; a pixel serves (patches down) x (patches
across) of them. Of N units of which k are on, chosen alike, it is on with probability 1 - C(N - t, k) / C(N, k).
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from laudc.ops._geometry import patch_size
from laudc.ops._masker import Masker
from laudc.ops.conv2d import Conv2d
from laudc.ops.deciding_conv2d import DecidingConv2d
from laudc.ops.needed_region import NeededRegionSpec
from laudc.ops.patch_rows import PatchRowsSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.program import Program, type_of, types_of
from laudc.schedules import Active

Table: TypeAlias = NDArray[np.bool_]

_EXACT = 64
"""Up to so many units every count has its own term; of more, the count's quantiles do."""
_QUANTILES = 9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """The pixels that one masker switches on: its table along each axis."""

    key: str
    down: Table
    across: Table

    @property
    def units(self) -> int:
        return int(self.down.shape[1] * self.across.shape[1])

    def touched(self) -> Counter[int]:
        """How many pixels serve so many patches."""
        down, across = Counter(self.down.sum(1).tolist()), Counter(self.across.sum(1).tolist())
        counts: Counter[int] = Counter()
        for one, rows in down.items():
            for other, columns in across.items():
                counts[one * other] += rows * columns
        return counts

    def on(self, mask: Tensor) -> Table:
        """The pixels (B, H, W) that are on for decisions (B, GH, GW)."""
        grid = mask.reshape(len(mask), self.down.shape[1], self.across.shape[1]).numpy() != 0
        hits: Table = np.einsum("ip,bpq,jq->bij", self.down, grid, self.across) > 0
        return hits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lists:
    """What the lists of one operation come from. Where several maskers decide on rows, all have to agree."""

    rows: tuple[Source, ...] = ()
    channels: str = ""
    """The masker whose list it reads."""
    decisions: int = 0
    """Of that masker, for one sample."""
    batch: int = 1

    def given(self, masks: Mapping[str, Tensor]) -> tuple[tuple[float, Active], ...]:
        """The share of the samples for each number of channels they keep, with the rows that the masks switch on."""
        rows = None
        if self.rows:
            on = self.rows[0].on(masks[self.rows[0].key])
            for source in self.rows[1:]:
                on &= source.on(masks[source.key])
            rows = float(on.sum())
        if not self.channels:
            return ((1.0, Active(rows=rows)),)
        kept = Counter((masks[self.channels] != 0).sum(1).tolist())
        return tuple((n / self.batch, Active(rows=rows, channels=float(k))) for k, n in sorted(kept.items()))

    def expected(self, rates: Mapping[str, float]) -> tuple[tuple[float, Active], ...]:
        """The distribution when every unit of a masker is on with its rate, independently."""
        rows: tuple[tuple[float, float | None], ...] = ((1.0, None),)
        if self.rows:
            first, *others = self.rows
            share = math.prod(self._share(source, rates[source.key]) for source in others)
            counts = binomial(self.batch * first.units, rates[first.key])
            rows = tuple((weight, share * self._rows(first, count)) for weight, count in counts)
        channels: tuple[tuple[float, float | None], ...] = ((1.0, None),)
        if self.channels:
            channels = binomial(self.decisions, rates[self.channels])
        return tuple((p * q, Active(rows=r, channels=c)) for p, r in rows for q, c in channels)

    def _rows(self, source: Source, on: float) -> float:
        """Rows over the batch when `on` units of the whole batch are on, whichever they are."""
        every = self.batch * source.units
        pixels = sum(n * _hit(every, on, touched) for touched, n in source.touched().items())
        return self.batch * pixels

    @staticmethod
    def _share(source: Source, rate: float) -> float:
        pixels = source.down.shape[0] * source.across.shape[0]
        return float(sum(n * (1 - (1 - rate) ** touched) for touched, n in source.touched().items()) / pixels)


def lists_of(program: Program, node: fx.Node) -> Lists:
    """What the lists that this operation reads come from."""
    op = program.op(node)
    assert op is not None
    named = dict(zip(op.spec.operands, cast("tuple[fx.Node, ...]", node.args), strict=False))
    rows: tuple[Source, ...] = ()
    if isinstance(op, Conv2d) and op.spec.samples:
        key = op.key if isinstance(op, DecidingConv2d) else _masker(program, named["rows"])
        rows = (_whole(key, types_of(node)[0].shape[2:]),)
    elif "rows" in named:
        rows = _listed(program, named["rows"])
    elif "touched" in named:
        rows = (_units(program, named["touched"]),)
    batch = _batch(program)
    if "channels" not in named:
        return Lists(rows=rows, batch=batch)
    listed = named["channels"]
    mask = listed if listed.target is operator.getitem else listed.all_input_nodes[0]
    return Lists(rows=rows, channels=_masker(program, mask), decisions=type_of(listed).shape[1] - 1, batch=batch)


def _whole(key: str, size: tuple[int, ...]) -> Source:
    """All pixels of a map of that size, by one decision."""
    down, across = (_patches(extent, extent) for extent in size)
    return Source(key=key, down=down, across=across)


def _units(program: Program, mask: fx.Node) -> Source:
    """The decisions themselves, as if each were one pixel."""
    down, across = (_patches(extent, 1) for extent in type_of(mask).shape[1:])
    return Source(key=_masker(program, mask), down=down, across=across)


def _batch(program: Program) -> int:
    return type_of(next(node for node in program.nodes if node.op == "placeholder")).shape[0]


def _listed(program: Program, rows: fx.Node) -> tuple[Source, ...]:
    """The pixels of a row list."""
    index = rows.args[1] if rows.target is operator.getitem else 0
    node = rows.all_input_nodes[0] if rows.target is operator.getitem else rows
    spec, before = getattr(program.op(node), "spec", None), node.all_input_nodes[0]
    if not isinstance(spec, PatchRowsSpec):
        return _pixels(program, before)
    own = _switched_on(program, spec.pixels, before)
    return (_of_region(spec.region, own) if index and spec.region else own,)


def _pixels(program: Program, node: fx.Node) -> tuple[Source, ...]:
    spec = getattr(program.op(node), "spec", None)
    before = node.all_input_nodes
    if isinstance(spec, NeededRegionSpec):
        return tuple(_of_region(spec, source) for source in _pixels(program, before[0]))
    assert isinstance(spec, PixelMaskSpec), node
    own = _switched_on(program, spec, before[0])
    return (own, *(_pixels(program, before[1]) if spec.within else ()))


def _switched_on(program: Program, spec: PixelMaskSpec, mask: fx.Node) -> Source:
    down, across = (_patches(extent, patch_size(spec.granularity, extent)) for extent in spec.map_size)
    return Source(key=_masker(program, mask), down=down, across=across)


def _of_region(spec: NeededRegionSpec, wanted: Source) -> Source:
    """The inputs that a convolution reads for the wanted outputs."""
    down, across = (_needed(spec, axis, len(table)) for axis, table in enumerate((wanted.down, wanted.across)))
    return Source(key=wanted.key, down=down @ wanted.down, across=across @ wanted.across)


def _masker(program: Program, mask: fx.Node) -> str:
    op = program.op(mask.all_input_nodes[0])
    assert isinstance(op, Masker), mask
    return op.key


def _patches(extent: int, side: int) -> Table:
    table: Table = np.arange(extent)[:, None] // side == np.arange(-(-extent // side))
    return table


def _needed(spec: NeededRegionSpec, axis: int, extent: int) -> Table:
    """Which of `extent` outputs read an input: i = stride * o - padding + dilation * t."""
    inputs, outputs = np.arange(spec.map_size[axis])[:, None], np.arange(extent)
    offset = inputs - spec.stride[axis] * outputs + spec.padding[2 * axis]
    taps = spec.dilation[axis] * np.arange(spec.kernel[axis])
    return np.isin(offset, taps)


def _hit(every: int, on: float, touched: int) -> float:
    """The probability that of `touched` units at least one is among the `on` of `every`."""
    missed = math.prod(max(0.0, every - on - i) / (every - i) for i in range(min(touched, every)))
    return 1 - missed


@cache
def binomial(units: int, rate: float) -> tuple[tuple[float, float], ...]:
    """Counts with their weights: how many of `units` are on, each with probability `rate`.

    Of many units, equally weighted quantiles of the normal curve. For each of them the count never falls as the rate
    grows (where it would, it is cut off at none or at all), so neither does the mean of what grows with the count.
    """
    if rate <= 0 or rate >= 1:
        return ((1.0, float(units if rate >= 1 else 0)),)
    if units <= _EXACT:
        weights = [math.comb(units, on) * rate**on * (1 - rate) ** (units - on) for on in range(units + 1)]
        return tuple((weight, float(on)) for on, weight in enumerate(weights) if weight > 0)
    spread = math.sqrt(units * rate * (1 - rate))
    scores = (NormalDist().inv_cdf((i + 0.5) / _QUANTILES) for i in range(_QUANTILES))
    return tuple((1 / _QUANTILES, min(max(units * rate + score * spread, 0.0), float(units))) for score in scores)
