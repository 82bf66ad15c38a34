"""What one warp owns of a tensor-core tile: where its rows and columns lie, how many sums it keeps, how it stores them.

wgmma   a warpgroup: bm / warpgroups rows, blocks of 64, 16 a warp; all columns
mma     warps_m warps side by side along the rows, blocks of 16; the others along the columns
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script import tirx as T

from laudc.schedules._cuda_tiles import TensorTile
from laudc.schedules._cuda_tir import Number


@dataclass(frozen=True, kw_only=True, slots=True)
class WarpShare:
    """The share of every warp of a tile."""

    tile: TensorTile

    @property
    def tall(self) -> int:
        """Blocks of 16 rows."""
        tile = self.tile
        return tile.bm // (64 * tile.warpgroups) if tile.core == "wgmma" else tile.bm // tile.warps_m // 16

    @property
    def apart(self) -> int:
        """Rows from one of its blocks to the next."""
        return 64 if self.tile.core == "wgmma" else 16

    @property
    def wide(self) -> int:
        """Columns."""
        return self.tile.warp_columns

    @property
    def own_sums(self) -> int:
        """Sums of a block that each lane keeps, without those of the masker's columns."""
        return self.wide // 2

    @property
    def sums(self) -> int:
        """With them."""
        return self.own_sums + self.tile.extra // 2

    @property
    def line_chunks(self) -> int:
        """16-byte pieces of one finished row; a lane stores one at a time."""
        return self.wide * self.tile.size // 16

    @property
    def lines_at_once(self) -> int:
        """Rows that the warp stores at a time."""
        return 32 // self.line_chunks

    @property
    def lines(self) -> int:
        """How often it stores to get through a block."""
        return 16 // self.lines_at_once

    def first_row(self, warp: Number) -> Number:
        """Of the tile's rows, the first that is this warp's."""
        if self.tile.core == "wgmma":
            return T.truncdiv(warp, 4) * (self.tall * 64) + T.truncmod(warp, 4) * 16
        return T.truncmod(warp, self.tile.warps_m) * (self.tall * 16)

    def first_column(self, warp: Number) -> Number:
        """Of the tile's columns, the first that is this warp's."""
        return 0 if self.tile.core == "wgmma" else T.truncdiv(warp, self.tile.warps_m) * self.wide
