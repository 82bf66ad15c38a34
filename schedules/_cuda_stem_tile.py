"""A stem and its tile, in the numbers that a kernel bakes."""

from __future__ import annotations

from dataclasses import dataclass

PIXEL = 8
"""Channels of the image: 16 bytes."""

THREADS = 128
"""A warpgroup makes a row of the map at a time."""

PANEL = 64
"""Channels of the result that a block makes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stem:
    """The numbers of a problem and its tile."""

    height: int
    width: int
    map_height: int
    map_width: int
    out_height: int
    channels: int
    kernel: tuple[int, int]
    down: int
    """Rows of the image from one row of the map to the next."""
    activation: str
    rows: int
    """Of the result, that a block makes."""

    @property
    def out_width(self) -> int:
        return self.map_width // 2

    @property
    def image_rows(self) -> int:
        """That a block reads: for each row of the map that its results pool."""
        return 2 * self.rows * self.down + self.kernel[0]

    @property
    def pairs(self) -> int:
        """Of taps: the steps of a sum, 16 numbers each."""
        return self.kernel[0] * self.kernel[1] // 2

    @property
    def weight_elements(self) -> int:
        return PANEL * 16 * self.pairs

    @property
    def image_elements(self) -> int:
        return self.image_rows * self.width * PIXEL

    @property
    def out_pitch(self) -> int:
        """Elements between pixels of the finished row: 16 bytes more, against bank conflicts."""
        return PANEL + 8

    @property
    def shared_bytes(self) -> int:
        return 2 * (self.weight_elements + self.image_elements + self.out_width * self.out_pitch)
