# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""What a tile's finished rows are worth to the layer maskers that may read the map next, sample by sample.

    a warp      sums its 16 rows, which are of two samples at most: a line of float32 each in shared memory
    a thread    adds up a column of those lines: the column's sum in each sample of the tile
    some lanes  share out the columns for one masker: products with its weights, added up by shuffles, and then to the
                whole, as a 64-bit integer

So neither the order in which blocks come nor that of threads shows in the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from laudc.ops._running import UNITS
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_sums import FROM_LANE
from laudc.schedules._cuda_tiles import ROWS_A_LINE, TensorTile

_ADD = f"""
__device__ __forceinline__ void add_logit(long long* logit, float value) {{
  atomicAdd((unsigned long long*)logit, (unsigned long long)__float2ll_rn(value * {UNITS}.0f));
}}
"""
_READ = """
__device__ __forceinline__ void read_here(float* to, const float* from) {
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3]) : "l"(from) : "memory");
}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitShare:
    """How the threads of a block share out maskers and columns."""

    p: Problem
    tile: TensorTile

    @property
    def lanes(self) -> int:
        """Neighbouring lanes for one masker; a power of two."""
        most = min(32, self.tile.bn // 4, self.tile.threads // max(1, self.p.running))
        return 1 << most.bit_length() - 1

    @property
    def own(self) -> int:
        """Columns of one lane, four neighbours at a time."""
        return self.tile.bn // self.lanes

    @property
    def samples(self) -> int:
        """Of how many the rows of a tile are at most."""
        return (self.tile.bm - 2) // self.p.pixels + 2


def worth_of_columns(share: LogitShare) -> Any:
    """The inline function that reads what a lane's columns are worth to its masker: here and no earlier, where
    registers are scarce, and no later, since it takes as long as the rows take to be stored."""
    bn, lanes, last = share.tile.bn, share.lanes, max(0, share.p.running - 1)
    quads = share.own // 4

    @T.inline
    def read(worth, own_worth, column_tile, thread):
        for i in T.unroll(quads):
            at: T.let = column_tile * bn + (i * lanes + T.truncmod(thread, lanes)) * 4
            T.cuda.func_call(
                "read_here",
                own_worth.ptr_to([i * 4]),
                worth.ptr_to([T.min(T.truncdiv(thread, lanes), last), at]),
                source_code=_READ,
            )

    return read


def add_running(share: LogitShare) -> Any:
    """The inline function that adds what a block's rows are worth, after every warp has put down its lines."""
    p, tile, lanes, samples = share.p, share.tile, share.lanes, share.samples
    bm, bn, threads, pixels, split = tile.bm, tile.bn, tile.threads, p.pixels, tile.split
    blocks, passes, quads, maskers = bm // ROWS_A_LINE, -(-bn // threads), share.own // 4, p.running
    reaches = [reach for reach in (16, 8, 4, 2, 1) if reach < lanes]
    div, mod = T.truncdiv, T.truncmod

    @T.inline
    def add(lines, out_shared, place_shared, own_worth, running, row_tile, rank, thread):
        column_sums = out_shared.view("float32")
        of_sample = T.alloc_local((1,), "float32")
        total = T.alloc_local((4,), "float32")
        # The tile's row that the first of its samples begins at; later ones follow, a map apart.
        begin: T.let = div(row_tile * bm, pixels) * pixels - row_tile * bm
        for i in T.unroll(passes):
            column: T.let = i * threads + thread
            if column < bn:
                for nth in T.unroll(samples):
                    row: T.let = begin + nth * pixels
                    of_sample[0] = T.float32(0)
                    for block in T.unroll(blocks):
                        ours: T.let = tirx.all(block * ROWS_A_LINE >= row, block * ROWS_A_LINE < row + pixels)
                        mine: T.let = ours if split == 1 else tirx.all(ours, block % split == rank)
                        of_sample[0] = of_sample[0] + T.Select(mine, lines[block * 2 * bn + column], T.float32(0))
                    shared: T.let = div(T.max(row, 0), ROWS_A_LINE)
                    if nth > 0 and row < bm and mod(row, ROWS_A_LINE) != 0 and (split == 1 or shared % split == rank):
                        of_sample[0] = of_sample[0] + lines[(shared * 2 + 1) * bn + column]
                    column_sums[nth * bn + column] = of_sample[0]
        T.cuda.cta_sync()
        for nth in T.unroll(samples):
            first: T.let = T.max(begin + nth * pixels, 0)
            if first < bm:
                for e in T.unroll(4):
                    total[e] = T.float32(0)
                for i in T.unroll(quads):
                    for e in T.unroll(4):
                        total[e] = (
                            total[e]
                            + own_worth[i * 4 + e] * column_sums[nth * bn + (i * lanes + mod(thread, lanes)) * 4 + e]
                        )
                total[0] = (total[0] + total[1]) + (total[2] + total[3])
                for reach in T.unroll(len(reaches)):
                    total[0] = total[0] + T.cuda.func_call(
                        "from_lane",
                        total[0],
                        T.shift_right(lanes // 2, reach),
                        source_code=FROM_LANE,
                        return_type="float32",
                    )
                place: T.let = place_shared[first]
                if mod(thread, lanes) == 0 and div(thread, lanes) < maskers and place >= 0 and total[0] != T.float32(0):
                    T.cuda.func_call(
                        "add_logit",
                        running.ptr_to([div(place, pixels), div(thread, lanes)]),
                        total[0],
                        source_code=_ADD,
                    )

    return add
