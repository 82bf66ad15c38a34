# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""One tile by a cluster of blocks: each takes a run of the steps, then they add up through each other's shared memory.

    every warp         leaves its sums in its own block's shared memory
    cluster barrier
    warp w of block r  where w % split == r: adds up what the warps w of all blocks left, in the order of the blocks
    cluster barrier    before the memory is given up

So the rows of a tile are finished by different blocks, a warp each, and sums do not depend on who comes first.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from laudc.schedules._cuda_tiles import TensorTile
from laudc.schedules._cuda_warps import WarpShare

_MEET = """
__device__ __forceinline__ void cluster_meet() {
  asm volatile("barrier.cluster.arrive.release.aligned;\\n  barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
"""
_ADD = """
__device__ __forceinline__ void add_from_block(float* sums, const float* mine, unsigned block) {
  unsigned here = (unsigned)__cvta_generic_to_shared(mine), there;
  float a, b, c, d;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(block));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(a), "=f"(b), "=f"(c), "=f"(d) : "r"(there) : "memory");
  sums[0] += a; sums[1] += b; sums[2] += c; sums[3] += d;
}
"""


def meet() -> Any:
    """All threads of all blocks of a cluster arrive before any goes on, and see what the others wrote."""
    return T.cuda.func_call("cluster_meet", source_code=_MEET)


def add_up(tile: TensorTile) -> Any:
    """The inline function after which the sums of a warp that finishes rows are those of the whole cluster."""
    share, split = WarpShare(tile=tile), tile.split
    quads = share.own_sums // 4
    assert split == 1 or (share.tall == 1 and tile.core == "wgmma" and not tile.extra), tile

    @T.inline
    def add(acc, left, rank, warp, lane):
        for i in T.unroll(quads):
            for e in T.vectorized(4):
                left[((warp * quads + i) * 32 + lane) * 4 + e] = acc[i * 4 + e]
        meet()
        if T.truncmod(warp, split) == rank:
            for i in T.unroll(quads * 4):
                acc[i] = T.float32(0)
            for block in T.unroll(split):
                for i in T.unroll(quads):
                    T.cuda.func_call(
                        "add_from_block",
                        acc.ptr_to([i * 4]),
                        left.ptr_to([((warp * quads + i) * 32 + lane) * 4]),
                        block,
                        source_code=_ADD,
                    )

    return add
