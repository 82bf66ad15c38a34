# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""The channel sums that a tile leaves: of its finished rows, added to those of their samples.

    a warp      sums its 16 rows, which are of two samples at most: a line of float32 each in shared memory
    a thread    goes down a column of those lines, and adds each sample's sum to the whole, as a 64-bit integer

So the order in which blocks come does not show in the sums.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from laudc.ops._sums import UNITS
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_tiles import ROWS_A_LINE, TensorTile
from laudc.schedules._cuda_warps import WarpShare

_ADD = f"""
__device__ __forceinline__ void add_fixed(long long* sum, float value) {{
  atomicAdd((unsigned long long*)sum, (unsigned long long)__float2ll_rn(value * {UNITS}.0f));
}}
"""
FROM_LANE = """
__device__ __forceinline__ float from_lane(float value, int apart) {
  return __shfl_xor_sync(0xffffffffu, value, apart);
}
"""


def sum_lines(share: WarpShare, tile: TensorTile) -> Any:
    """The inline function that puts down the lines of a warp's 16 rows, whose first is `row`; of one sample that they
    are known to be of (`whole`), the first of its two lines."""
    reaches = [reach for reach in (16, 8, 4, 2, 1) if reach >= share.line_chunks]
    chunks, bn, parts = share.line_chunks, tile.bn, tile.sums

    @T.inline
    def put_down(mine, lines, row, column, lane, whole):
        for part in T.unroll(parts):
            if tirx.any(part == 0, whole == 0):
                for e in T.unroll(8):
                    for reach in T.unroll(len(reaches)):
                        mine[part * 8 + e] = mine[part * 8 + e] + T.cuda.func_call(
                            "from_lane",
                            mine[part * 8 + e],
                            T.shift_right(16, reach),
                            source_code=FROM_LANE,
                            return_type="float32",
                        )
                if lane < chunks:
                    at: T.let = (T.truncdiv(row, 16) * parts + part) * bn + column + lane * 8
                    for e in T.vectorized(4):
                        lines[at + e] = mine[part * 8 + e]
                    for e in T.vectorized(4):
                        lines[at + 4 + e] = mine[part * 8 + 4 + e]

    return put_down


def within_sample(p: Problem, place_shared: Any, row: Any) -> Any:
    """1 where the 16 rows from there on are known to be of one sample, and leave one line of running logits."""
    if not p.running:
        return T.int32(0)
    first, last = (T.truncdiv(place_shared[row + beside], p.pixels) for beside in (0, ROWS_A_LINE - 1))
    return T.if_then_else(first == last, 1, 0)


def add_lines(p: Problem, tile: TensorTile) -> Any:
    """The inline function that adds the lines of a block to the sums, after every warp has put down its own."""
    bn, threads, columns, pixels, split = tile.bn, tile.threads, p.columns, p.pixels, tile.split
    blocks, passes = tile.bm // ROWS_A_LINE, -(-tile.bn // tile.threads)

    @T.inline
    def flush(sums, sample, column, value):
        if sample >= 0 and column < columns:
            T.cuda.func_call("add_fixed", sums.ptr_to([sample * columns + column]), value, source_code=_ADD)

    @T.inline
    def add_of_one(lines, place_shared, sums, first_column, thread, rank, sample, value):
        """A tile within a sample."""
        for i in T.unroll(passes):
            if i * threads + thread < bn:
                value[0] = T.float32(0)
                for block in T.unroll(blocks):
                    value[0] = value[0] + lines[block * bn + i * threads + thread]
                flush(sums, T.truncdiv(place_shared[0], pixels), first_column + i * threads + thread, value[0])

    @T.inline
    def add_of_two(lines, place_shared, sums, first_column, thread, rank, last, value):
        """A tile no taller than a map: at most two samples, and so nothing to branch on."""
        for i in T.unroll(passes):
            if i * threads + thread < bn:
                last[0] = place_shared[0]
                value[0] = T.float32(0)
                value[1] = T.float32(0)
                beyond: T.let = (T.truncdiv(place_shared[0], pixels) + 1) * pixels
                for block in T.unroll(blocks):
                    ours: T.let = split == 1 or block % split == rank
                    whole: T.let = T.if_then_else(ours, lines[block * 2 * bn + i * threads + thread], T.float32(0))
                    rest: T.let = T.if_then_else(ours, lines[(block * 2 + 1) * bn + i * threads + thread], T.float32(0))
                    is_first: T.let = place_shared[block * 16] < beyond
                    value[0] = value[0] + T.Select(is_first, whole, T.float32(0))
                    value[1] = value[1] + rest + T.Select(is_first, T.float32(0), whole)
                    last[0] = T.max(last[0], T.max(place_shared[block * 16], place_shared[block * 16 + 15]))
                flush(sums, T.truncdiv(place_shared[0], pixels), first_column + i * threads + thread, value[0])
                if last[0] >= beyond:
                    flush(sums, T.truncdiv(last[0], pixels), first_column + i * threads + thread, value[1])

    @T.inline
    def add_of_many(lines, place_shared, sums, first_column, thread, rank, sample, value):
        for i in T.unroll(passes):
            if i * threads + thread < bn:
                sample[0] = -1
                value[0] = T.float32(0)
                for block in T.unroll(blocks):
                    if place_shared[block * 16] >= 0 and block % split == rank:
                        for part in T.unroll(2):
                            place: T.let = place_shared[block * 16 + part * 15]
                            if place >= 0 and (part == 0 or T.truncdiv(place, pixels) != sample[0]):
                                if T.truncdiv(place, pixels) != sample[0]:
                                    flush(sums, sample[0], first_column + i * threads + thread, value[0])
                                    sample[0] = T.truncdiv(place, pixels)
                                    value[0] = T.float32(0)
                                value[0] = value[0] + lines[(block * 2 + part) * bn + i * threads + thread]
                flush(sums, sample[0], first_column + i * threads + thread, value[0])

    if tile.sums == 1:
        return add_of_one
    return add_of_two if pixels >= tile.bm else add_of_many
