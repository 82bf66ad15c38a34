"""The numbers of one CPU kernel: what is asked, cut to the sizes of registers and caches.

out[rows, columns] = act( panel[rows, K] @ weight[K, columns] )

rows      in tasks of at most `panel_rows`, in register tiles of `tile_rows`, the last one lower
columns   in vectors of `lanes`, `tile_vectors` to a register tile
K         = taps x depth, in chunks of `chunk_taps` x `chunk_depth`; between chunks the sums wait in `out`
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.schedules.base import Choice, Work


@dataclass(frozen=True, kw_only=True)
class Plan:
    spec: Conv2dSpec
    """A linear layer is a 1x1 convolution over its rows."""
    x_tail: tuple[int, ...]
    """The shape of x in memory after its first axis; its last size is the row that is read."""
    out_tail: tuple[int, ...]
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    merge: int
    """How many groups are computed as one, with zeros between them, to fill the lanes."""
    lanes: int
    tile_rows: int
    tile_vectors: int
    chunk: int
    """K of one chunk, about."""
    panel_tiles: int
    """How many register tiles high a panel is."""
    row_parts: int
    """Into how many tasks the rows are cut, at least, where there are enough."""
    column_parts: int

    @property
    def pixels(self) -> int:
        """Output positions of a sample."""
        return self.out_size[0] * self.out_size[1]

    @property
    def groups(self) -> int:
        return self.spec.groups // self.merge

    @property
    def splits_rows(self) -> bool:
        """Whether each group reads its own channels of every tap of a gathered row: it is taken for an image of
        1 x taps pixels."""
        return self.spec.gathered and self.spec.groups > 1

    @property
    def taps(self) -> int:
        return 1 if self.spec.gathered and not self.splits_rows else self.spec.taps

    @property
    def depth(self) -> int:
        """Input channels of a group; the whole row where x is gathered already."""
        if self.spec.gathered and not self.splits_rows:
            return self.spec.taps * self.spec.in_channels
        return self.spec.in_channels // self.groups

    @property
    def columns(self) -> int:
        """Output channels of a group."""
        return self.spec.out_channels // self.groups

    @property
    def vectors(self) -> int:
        return -(-self.columns // self.lanes)

    @property
    def column_tiles(self) -> int:
        return -(-self.vectors // self.tile_vectors)

    @property
    def last_lanes(self) -> int:
        """How many lanes of a group's last vector are columns."""
        return self.columns - (self.vectors - 1) * self.lanes

    @property
    def panel_rows(self) -> int:
        return self.panel_tiles * self.tile_rows

    @property
    def row_unit(self) -> int:
        """Tasks have a multiple of so many rows, so that few tiles are lower ones, and no task outgrows its panel."""
        return self.tile_rows if self.tile_rows % 2 else self.tile_rows // 2

    @property
    def tile_heights(self) -> tuple[int, ...]:
        """The register tiles that are there, for the rows that are left at the end; the highest first."""
        quarter = -(-self.tile_rows // 4)
        if self.exact_tiles:
            return (self.tile_rows, quarter, 1)
        return (self.tile_rows, -(-3 * self.tile_rows // 4), -(-self.tile_rows // 2), quarter)

    @property
    def per_sample(self) -> bool:
        """Whether each sample has its own weights, so samples are done one after the other."""
        return self.spec.channels_in > 0 or self.spec.channels_out > 0

    @property
    def copies_weights(self) -> bool:
        """Whether a sample's columns are first copied together: a group of channels is no whole vector."""
        return self.spec.channels_out > 0 and self.groups == 1 and self.spec.channels_out % self.lanes != 0

    @property
    def reads_x_in_place(self) -> bool:
        """Whether row m of the product is row m of x, so no panel is made."""
        spec = self.spec
        if spec.gathered:
            return not self.splits_rows
        plain = spec.kernel == (1, 1) and spec.stride == (1, 1) and not any(spec.padding)
        return plain and not spec.rows and spec.prologue is None

    @property
    def exact_tiles(self) -> bool:
        """Whether a map can have fewer rows than a tile, so that a tile must not read past the end of x."""
        return self.reads_x_in_place and self.pixels < self.tile_rows

    @property
    def runs(self) -> bool:
        """Whether the taps of a kernel row lie side by side in x, so that they are copied as one run; what goes through
        a prologue is copied tap by tap, each channel beside its scale."""
        spec = self.spec
        plain = not spec.channels_in and spec.prologue is None
        return spec.dilation[1] == 1 and self.groups == 1 and plain and spec.kernel[1] > 1

    @cached_property
    def _chunk(self) -> tuple[int, int]:
        if self.taps * self.depth <= self.chunk:
            return self.taps, self.depth
        if self.spec.kernel[1] * self.depth <= self.chunk:
            return self.spec.kernel[1], self.depth
        unit = self.spec.channels_in or (self.lanes if self.depth % self.lanes == 0 else 1)
        pieces = -(-self.depth // self.chunk)
        return 1, min(self.depth, -(-self.depth // (pieces * unit)) * unit)

    @property
    def chunk_taps(self) -> int:
        return self._chunk[0]

    @property
    def chunk_depth(self) -> int:
        return self._chunk[1]

    @property
    def panel_stride(self) -> int:
        """Floats from one panel row to the next: off the powers of two, which fall on the same lines of a cache."""
        return -(-self.chunk_taps * self.chunk_depth // 16) * 16 + 16

    @property
    def weight_floats(self) -> int:
        """Size of a sample's copied weights."""
        return self.vectors * self.taps * self.depth * self.lanes


def plan_of(work: Work, choice: Choice) -> Plan:
    """The plan for a work at a choice."""
    numbers = {name: int(number) for name, number in choice.items()}
    x, out = work.operands[0], work.results[0]
    spec = work.spec
    if isinstance(spec, LinearSpec):
        as_conv = Conv2dSpec(
            in_channels=spec.in_features,
            out_channels=spec.out_features,
            bias=spec.bias,
            activation=spec.activation,
        )
        rows = (math.prod(x.shape[1:-1]), 1)
        return Plan(
            spec=as_conv, x_tail=x.shape[1:], out_tail=out.shape[1:], in_size=rows, out_size=rows, merge=1, **numbers
        )
    assert isinstance(spec, Conv2dSpec), spec
    _, height, width = spec.out_map(work.operands)
    if spec.gathered and spec.groups > 1:
        spec = replace(spec, kernel=(1, spec.taps), stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1))
    in_size = (1, spec.taps) if spec.gathered else (x.shape[2], x.shape[3])
    x_tail = x.shape[1:] if spec.gathered else (*x.shape[2:], x.shape[1])
    out_tail = out.shape[1:] if spec.compact else (*out.shape[2:], out.shape[1])
    return Plan(
        spec=spec,
        x_tail=x_tail,
        out_tail=out_tail,
        in_size=in_size,
        out_size=(height, width),
        merge=_merged_groups(spec, numbers["lanes"]),
        **numbers,
    )


def _merged_groups(spec: Conv2dSpec, lanes: int) -> int:
    """How many neighbouring groups together fill a vector."""
    columns = spec.out_channels // spec.groups
    most = min(spec.groups, lanes // columns)
    fits = (f for f in range(1, most + 1) if spec.groups % f == 0 and spec.channels_out % (f * columns) == 0)
    return max(fits, default=1)
