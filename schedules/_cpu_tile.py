"""A register tile: some rows x some vectors of sums that stay in registers while K goes by.

for m, v:  sum[m, v] = bias[v] (+ residual), or what an earlier chunk of K left in out
for k:     sum[m, v] += x[m, k] * weight[k, v]          one load a row, one a vector, rows x vectors multiply-adds
for m, v:  out[m, v] = act(sum[m, v])                   only rows from `skip` up to `valid`

With gains the sums of a chunk begin at the bias, or at zero; they are multiplied before the rest is added to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

from laudc.schedules._cpu_panel import Chunk
from laudc.schedules._cpu_vectors import branch, on_stack, pieces, ramp, vector, zeros
from laudc.schedules._pointwise import pointwise

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr

CHEAP = ("none", "relu", "relu6")
"""Functions that are applied to every sum where it stands; the others would make the code explode."""

Step = Callable[["Expr", "Expr"], None]
"""What is done for one k: its column in the panel, its row in the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Where one register tile reads and writes. Rows and vectors are counted within the tile."""

    rows: int
    vectors: int
    lanes: int
    last_lanes: int
    """How many lanes of the last vector exist in `out`."""
    x: Callable[[int, Expr], Expr]
    weight: Callable[[int, Expr], Expr]
    each_k: Callable[[Step], None]
    bias: Callable[[int], Expr] | None
    gain: Callable[[Expr | int], Expr] | None
    out: Buffer
    residual: Buffer | None
    out_row: Callable[[Expr | int], Expr]
    out_column: Callable[[int], Expr]
    activation: str
    chunk: Chunk
    skip: Expr | int
    valid: Expr

    def row(self, m: int) -> Expr | int:
        """Row m, or the last one that is there."""
        return T.min(m, self.valid - 1) if m else 0

    def width(self, v: int) -> int:
        return self.last_lanes if v == self.vectors - 1 else self.lanes


def emit_tile(tile: Tile) -> None:
    """The code of the whole tile."""
    sums = [[on_stack(tile.lanes) for _ in range(tile.vectors)] for _ in range(tile.rows)]
    rows = [T.bind(tile.out_row(tile.row(m))) for m in range(tile.rows)]
    if tile.gain is None:
        branch(tile.chunk.first, lambda: _begin(tile, sums, rows, tile.residual), lambda: _resume(tile, sums, rows))
    else:
        branch(tile.chunk.first, lambda: _begin(tile, sums, rows, None), lambda: _clear(tile, sums))
    tile.each_k(lambda column, weight_row: _step(tile, sums, column, weight_row))
    if tile.gain is not None:
        _multiply(tile, sums, tile.gain)
        branch(
            tile.chunk.first,
            lambda: _add_all(tile, sums, rows, tile.residual),
            lambda: _add_all(tile, sums, rows, tile.out),
        )
    if tile.activation in CHEAP:
        branch(tile.chunk.last, lambda: _activate(tile, sums))
    for m in range(tile.rows):
        with T.If(tirx.all(m >= tile.skip, m < tile.valid)), T.Then():
            for v in range(tile.vectors):
                _put(tile, sums[m][v], rows[m], v)


def _each(tile: Tile) -> list[tuple[int, int]]:
    return [(m, v) for m in range(tile.rows) for v in range(tile.vectors)]


def _begin(tile: Tile, sums: list[list[Buffer]], rows: list[Expr], residual: Buffer | None) -> None:
    bias = [tile.bias(v) if tile.bias else zeros(tile.lanes) for v in range(tile.vectors)]
    for m, v in _each(tile):
        T.buffer_store(sums[m][v], bias[v], [ramp(0, tile.lanes)])
        _add(tile, sums[m][v], rows[m], v, residual)


def _add(tile: Tile, total: Buffer, row: Expr, v: int, source: Buffer | None) -> None:
    if source is not None:
        for offset, width in pieces(tile.width(v), tile.lanes):
            value = source.vload([row, tile.out_column(v) + offset], vector(width))
            T.buffer_store(total, value + total.vload([offset], vector(width)), [ramp(offset, width)])


def _add_all(tile: Tile, sums: list[list[Buffer]], rows: list[Expr], source: Buffer | None) -> None:
    for m, v in _each(tile):
        _add(tile, sums[m][v], rows[m], v, source)


def _clear(tile: Tile, sums: list[list[Buffer]]) -> None:
    for m, v in _each(tile):
        T.buffer_store(sums[m][v], zeros(tile.lanes), [ramp(0, tile.lanes)])


def _resume(tile: Tile, sums: list[list[Buffer]], rows: list[Expr]) -> None:
    for m, v in _each(tile):
        for offset, width in pieces(tile.width(v), tile.lanes):
            value = tile.out.vload([rows[m], tile.out_column(v) + offset], vector(width))
            T.buffer_store(sums[m][v], value, [ramp(offset, width)])


def _step(tile: Tile, sums: list[list[Buffer]], column: Expr, weight_row: Expr) -> None:
    whole = vector(tile.lanes)
    weights = [T.bind(tile.weight(v, weight_row)) for v in range(tile.vectors)]
    for m in range(tile.rows):
        x = T.bind(tirx.Broadcast(tile.x(m, column), tile.lanes))
        for v in range(tile.vectors):
            total = T.fma(x, weights[v], sums[m][v].vload([0], whole))
            T.buffer_store(sums[m][v], total, [ramp(0, tile.lanes)])


def _multiply(tile: Tile, sums: list[list[Buffer]], gain: Callable[[Expr | int], Expr]) -> None:
    gains = [T.bind(tirx.Broadcast(gain(tile.row(m)), tile.lanes)) for m in range(tile.rows)]
    for m, v in _each(tile):
        T.buffer_store(sums[m][v], gains[m] * sums[m][v].vload([0], vector(tile.lanes)), [ramp(0, tile.lanes)])


def _activate(tile: Tile, sums: list[list[Buffer]]) -> None:
    if tile.activation == "none":
        return
    for m, v in _each(tile):
        with T.vectorized(tile.lanes) as lane:
            T.buffer_store(sums[m][v], pointwise(tile.activation, sums[m][v][lane], "cpu"), [lane])


def _put(tile: Tile, total: Buffer, row: Expr, v: int) -> None:
    for offset, width in pieces(tile.width(v), tile.lanes):
        T.buffer_store(tile.out, total.vload([offset], vector(width)), [row, ramp(tile.out_column(v) + offset, width)])
