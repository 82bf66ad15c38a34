"""Operands of every kind and size for the small operations, at two batch sizes and four rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laudc.ops._lists import make_row_list
from laudc.ops._pointwise import POINTWISE
from laudc.ops._sums import UNITS

RATES = (0.0, 0.1, 0.5, 1.0)
BATCHES = (1, 3)
TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
}


class Draw:
    """Random operands, on the CPU."""

    def __init__(self, *, batch: int, rate: float, dtype: str) -> None:
        self.batch, self.rate, self.dtype = batch, rate, TORCH[dtype]
        self.rated = False
        """Whether the rate mattered."""
        self._generator = torch.Generator().manual_seed(batch * 100 + int(rate * 10))

    def data(self, *shape: int) -> Tensor:
        return self.floats(*shape).to(self.dtype)

    def floats(self, *shape: int) -> Tensor:
        return 2 * torch.randn(self.batch, *shape, generator=self._generator) + 0.5

    def decisions(self, *shape: int) -> Tensor:
        self.rated = True
        return (torch.rand(self.batch, *shape, generator=self._generator) < self.rate).float()

    def pixels(self, height: int, width: int) -> Tensor:
        return self.decisions(height, width).to(torch.uint8)

    def rows(self, height: int, width: int) -> Tensor:
        return make_row_list(self.pixels(height, width))

    def sums(self, channels: int) -> Tensor:
        return (self.floats(channels) * 1000 * UNITS).to(torch.int64)

    def matrix(self, rows: int, columns: int) -> Tensor:
        return self.data(rows, columns).flatten(0, 1)


class Blank(Draw):
    """Operands without content: enough to tell their shapes, and quick, since every name of a test asks."""

    def floats(self, *shape: int) -> Tensor:
        return torch.empty(self.batch, *shape)

    def decisions(self, *shape: int) -> Tensor:
        return torch.zeros(self.batch, *shape)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An operation with operands of one size."""

    op: str
    fields: dict[str, object]
    operands: Callable[[Draw], tuple[Tensor, ...]]
    halves: bool = True
    """Whether there is a half precision form."""
    everywhere: bool = True
    """Whether CPUs and single precision have it too."""
    since: int = 0
    """The oldest GPU that has it: 80 is sm_80."""

    def __str__(self) -> str:
        x = self.operands(Blank(batch=1, rate=1.0, dtype="float32"))[0]
        fields = [str(value).replace(" ", "") for key, value in self.fields.items() if key != "key"]
        return "-".join([self.op, "x".join(map(str, x.shape[1:] or x.shape)), *fields])


def _cases() -> Iterator[Case]:
    for function in POINTWISE:
        yield Case(op="activation", fields={"function": function}, operands=lambda d: (d.data(24, 13, 9),))
    yield Case(op="activation", fields={"function": "relu"}, operands=lambda d: (d.data(64, 56, 56),))
    yield Case(op="add", fields={"activation": "relu"}, operands=lambda d: (d.data(5, 13, 9), d.data(5, 13, 9)))
    yield Case(op="add", fields={"activation": "silu"}, operands=lambda d: (d.data(50), d.data(50)))
    yield Case(op="mask_rows", fields={"granularity": 4}, operands=lambda d: (d.data(8, 13, 9), d.decisions(4, 3)))
    yield Case(op="mask_rows", fields={"granularity": 0}, operands=lambda d: (d.data(5, 56, 56), d.decisions(1, 1)))
    for group in (1, 2, 8):
        yield Case(
            op="mask_channels",
            fields={"group": group},
            operands=lambda d, group=group: (d.data(24, 13, 9), d.decisions(24 // group)),
        )
    for window in (
        {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        {"kernel": (2, 2), "stride": (2, 2), "ceil_mode": True},
        {"kernel": (3, 2), "stride": (3, 1), "padding": (1, 1), "ceil_mode": True},
    ):
        yield Case(op="max_pool", fields=window | {"dilation": (2, 1)}, operands=lambda d: (d.data(5, 13, 9),))
        for counted in (True, False):
            fields = window | {"count_include_pad": counted}
            yield Case(op="avg_pool", fields=fields, operands=lambda d: (d.data(24, 13, 10),))
    stem = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    yield Case(op="max_pool", fields=stem, operands=lambda d: (d.data(16, 56, 56),))
    for keep_map in (True, False):
        yield Case(op="global_pool", fields={"keep_map": keep_map}, operands=lambda d: (d.data(24, 13, 9),))
    yield Case(op="global_pool", fields={}, operands=lambda d: (d.data(72, 56, 56),))
    yield Case(op="global_pool", fields={}, operands=lambda d: (d.data(5, 3, 2),))
    for size in ((24, 13, 9), (40, 1, 1), (6, 7)):
        yield Case(op="flatten", fields={}, operands=lambda d, size=size: (d.data(*size),))
    for size, fields in (
        ((3, 13, 9), {"padding": (3, 2, 3, 4), "columns": 2, "channels": 4}),
        ((1, 14, 16), {"padding": (0, 0, 0, 0), "columns": 2, "channels": 4}),
        ((5, 6, 7), {"padding": (1, 0, 2, 0), "columns": 1, "channels": 8}),
    ):
        yield Case(op="fold_columns", fields=fields, operands=lambda d, size=size: (d.data(*size),))
    for reach in (
        {},
        {"kernel": (3, 3), "padding": (1, 1, 1, 1)},
        {"kernel": (3, 3), "stride": (2, 2), "padding": (0, 1, 0, 1)},
        {"kernel": (2, 3), "stride": (2, 1), "padding": (1, 0, 2, 0), "dilation": (2, 1)},
    ):
        for size, channels in (((13, 9), 5), ((28, 28), 24)):
            big = _input_size(size, reach)
            yield Case(
                op="gather",
                fields=reach | {"map_size": size},
                operands=lambda d, size=size, big=big, channels=channels: (d.data(channels, *big), d.rows(*size)),
            )
        need = {"kernel": (1, 1)} | reach
        for granularity, grid in ((4, (4, 3)), (0, (1, 1)), (1, (13, 9))):
            size = (13, 9)
            yield Case(
                op="patch_rows",
                fields=need | {"granularity": granularity, "map_size": size, "needed_size": _input_size(size, reach)},
                operands=lambda d, grid=grid: (d.decisions(*grid),),
                halves=False,
            )
        for size in ((13, 9), (56, 56)):
            yield Case(
                op="needed_region",
                fields=need | {"map_size": _input_size(size, reach)},
                operands=lambda d, size=size: (d.pixels(*size),),
                halves=False,
            )
    for size, channels in (((13, 9), 5), ((13, 9), 24), ((56, 56), 16)):
        yield Case(
            op="scatter",
            fields={"map_size": size},
            operands=lambda d, size=size, channels=channels: (d.matrix(size[0] * size[1], channels), d.rows(*size)),
        )
    yield Case(
        op="scatter",
        fields={"map_size": (13, 9), "zero": False},
        operands=lambda d: (d.matrix(13 * 9, 24), d.rows(13, 9)),
    )
    yield Case(
        op="pixel_mask",
        fields={"granularity": 4, "map_size": (13, 9), "within": True},
        operands=lambda d: (d.decisions(4, 3), d.pixels(13, 9)),
        halves=False,
    )
    for granularity, grid in ((4, (4, 3)), (0, (1, 1)), (1, (13, 9))):
        yield Case(
            op="pixel_mask",
            fields={"granularity": granularity, "map_size": (13, 9)},
            operands=lambda d, grid=grid: (d.decisions(*grid),),
            halves=False,
        )
    for size in ((13, 9), (56, 56), (1, 1)):
        yield Case(op="row_list", fields={}, operands=lambda d, size=size: (d.pixels(*size),), halves=False)
    for granularity, size, grid in ((8, (56, 56), (7, 7)), (4, (13, 9), (4, 3)), (1, (1, 1), (1, 1))):
        yield Case(
            op="patch_rows",
            fields={"granularity": granularity, "map_size": size},
            operands=lambda d, grid=grid: (d.decisions(*grid),),
            halves=False,
        )
    strided = {"kernel": (1, 1), "stride": (2, 2), "needed_size": (56, 56)}
    yield Case(
        op="patch_rows",
        fields=strided | {"granularity": 4, "map_size": (28, 28)},
        operands=lambda d: (d.decisions(7, 7),),
        halves=False,
    )
    for decisions in (1, 7, 64, 700):
        yield Case(op="channel_list", fields={}, operands=lambda d, n=decisions: (d.decisions(n),), halves=False)
    for granularity, stride in ((4, 1), (2, 2), (0, 1), (100, 1)):
        fields = {"key": "m", "granularity": granularity, "stride": stride}
        for channels, size in ((5, (13, 9)), (96, (56, 56))):
            yield Case(
                op="patch_masker",
                fields=fields | {"channels": channels},
                operands=lambda d, channels=channels, size=size: (d.data(channels, *size),),
            )
        yield Case(op="patch_decision", fields=fields, operands=lambda d: (d.floats(1, 13, 9),), halves=False)
    for granularity, stride, channels, size in (
        (4, 1, 260, (13, 9)),
        (2, 2, 518, (6, 5)),
        (0, 1, 5, (56, 56)),
        (100, 1, 260, (13, 9)),
    ):
        kept = {"key": "m", "granularity": granularity, "stride": stride, "channels": channels}
        grid = _grid(granularity * stride, size)
        yield Case(
            op="kept_masker",
            fields=kept,
            operands=lambda d, channels=channels, size=size, grid=grid: (
                d.data(channels, *size),
                d.decisions(*grid),
                d.floats(grid[0] * grid[1], channels),
            ),
            everywhere=False,
        )
        yield Case(
            op="kept_masker",
            fields=kept | {"first": True},
            operands=lambda d, channels=channels, size=size: (d.data(channels, *size),),
            everywhere=False,
        )
    for channels, size in ((5, (13, 9)), (64, (56, 56)), (72, (4, 4))):
        yield Case(
            op="channel_sums",
            fields={},
            operands=lambda d, channels=channels, size=size: (d.data(channels, *size),),
            everywhere=False,
            since=80,
        )
    for channels in (5, 64, 1030):
        masker = {"key": "m", "channels": channels, "positions": 49}
        on_sums = {"everywhere": False, "since": 80}
        yield Case(op="zero_sums", fields={"channels": channels}, operands=lambda d: (d.data(3, 4, 4),), **on_sums)
        yield Case(op="sums_masker", fields=masker, operands=lambda d, c=channels: (d.sums(c),), **on_sums)
    for channels, hidden, decisions in ((5, 3, 7), (96, 16, 24), (512, 40, 256)):
        fields = {"key": "m", "channels": channels, "hidden": hidden, "decisions": decisions}
        yield Case(op="channel_masker", fields=fields, operands=lambda d, c=channels: (d.data(c, 1, 1),))
        yield Case(
            op="sums_channel_masker",
            fields=fields | {"positions": 1000},
            operands=lambda d, c=channels: (d.sums(c),),
            everywhere=False,
            since=80,
        )


def _grid(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """How many patches of that side cover a map."""
    down, across = (-(-extent // min(side or extent, extent)) for extent in size)
    return (down, across)


def _input_size(size: tuple[int, int], reach: dict[str, Any]) -> tuple[int, int]:
    """A map from which a convolution of that reach makes one of that size."""
    kernel, stride = reach.get("kernel", (1, 1)), reach.get("stride", (1, 1))
    top, bottom, left, right = reach.get("padding", (0, 0, 0, 0))
    dilation = reach.get("dilation", (1, 1))
    sums = (top + bottom, left + right)
    down, across = (stride[a] * (size[a] - 1) + dilation[a] * (kernel[a] - 1) + 1 - sums[a] for a in (0, 1))
    return (down, across)


def draws(case: Case, dtype: str) -> Iterator[tuple[Tensor, ...]]:
    """Operands of every batch size, at every rate if that makes a difference."""
    for batch in BATCHES:
        for rate in RATES:
            draw = Draw(batch=batch, rate=rate, dtype=dtype)
            yield case.operands(draw)
            if not draw.rated:
                break


CASES = tuple(_cases())
SHOWN = tuple({case.op: case for case in CASES}.values())
"""One case an operation."""
