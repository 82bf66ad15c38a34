# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The function below is TVMScript: TVM reads its text, Python never runs it.
"""A stem on wgmma: windows are not copied out of the image, the multiply-adds read them where they lie.

    image rows of a band --cp.async--> shared, as they lie in memory, 16 bytes a pixel
    sums[channel, pixel] += weights[channel, 16] * image[16, pixel]        16 = two neighbouring pixels of 8 channels

A core matrix without swizzle is 8 runs of 16 bytes, here 8 pixels one behind the other; the next 16 bytes of depth are
the same runs one pixel further. So one descriptor a tap pair, whose core matrices overlap, is the whole gather.

A thread holds two channels at pairs of neighbouring pixels of a row of the convolution's map:

    bias, activation, float16 --> maximum with the rows before --> of each pair, and of its left neighbour (a shuffle)
    --> the row of the result in shared memory --> 16-byte stores
"""

from __future__ import annotations

from types import SimpleNamespace

from tvm import tirx
from tvm.ir import IRModule
from tvm.script import tirx as T

from laudc.schedules._cuda_stem_tile import PANEL, PIXEL, THREADS, Stem
from laudc.schedules._cuda_tir import flat, run_of
from laudc.schedules._pointwise import pointwise

_MAX = """
__device__ __forceinline__ unsigned max_of_halves(unsigned a, unsigned b) {
  unsigned r;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
"""
_LEFT = """
__device__ __forceinline__ unsigned from_lane(unsigned value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
"""
_LEAST = 0xFC00FC00
"""Minus infinity, twice."""


def stem_module(s: Stem) -> IRModule:
    """The kernel. Its weights come as the core matrices of each 64 channels, pair of taps by pair of taps."""
    threads, pairs, across = THREADS, s.pairs, s.kernel[1] // 2
    bands, panels = -(-s.out_height // s.rows), s.channels // PANEL
    sums, blocks = s.map_width // 2, s.map_width // 8
    image_chunks, weight_chunks = s.image_rows * s.width, s.weight_elements // 8
    out_chunks = s.out_width * 8
    wgmma = f"wgmma.mma_async.sync.aligned.m64n{s.map_width}k16.f32.f16.f16"
    copy, copy_w = "cp.async.cg.shared.global", "cp.async.cg.shared.global.L2::128B"
    div, mod = T.truncdiv, T.truncmod
    batch = tirx.Var("batch", "int32")
    args = SimpleNamespace(
        x=T.Buffer((batch, s.height, s.width, PIXEL), "float16", align=16),
        weight=T.Buffer((panels, s.weight_elements), "float16", align=16),
        bias=T.Buffer((s.channels,), "float32"),
        out=T.Buffer((batch, s.out_height, s.out_width, s.channels), "float16", align=16),
    )

    @T.prim_func
    def kernel(x: args.x, weight: args.weight, bias: args.bias, out: args.out) -> None:
        T.device_entry()
        block = T.cta_id([batch * bands * panels])
        thread = T.thread_id([threads])
        x_flat = flat(x, batch * s.height * s.width * PIXEL)
        weight_flat = flat(weight)
        out_flat = flat(out, batch * s.out_height * s.out_width * s.channels)
        pool = T.SMEMPool()
        weight_shared = pool.alloc((s.weight_elements,), "float16", align=128)
        image_shared = pool.alloc((s.image_elements,), "float16", align=128)
        row_shared = pool.alloc((s.out_width * s.out_pitch,), "float16", align=16)
        pool.commit()
        acc = T.alloc_local((sums,), "float32")
        top = T.alloc_local((sums,), "uint32")
        made = T.alloc_local((2,), "float32")
        mine = T.alloc_local((1,), "uint32")
        left = T.alloc_local((2,), "uint32")
        biases = T.alloc_local((2,), "float32")
        T.ptx.griddepcontrol.launch_dependents()
        panel: T.let = mod(block, panels)
        band: T.let = mod(div(block, panels), bands)
        sample: T.let = div(block, panels * bands)
        for i in T.serial(-(-weight_chunks // threads)):
            if i * threads + thread < weight_chunks:
                T.ptx[copy_w](
                    weight_shared.ptr_to([(i * threads + thread) * 8]),
                    weight_flat.ptr_to([panel * s.weight_elements + (i * threads + thread) * 8]),
                    16,
                )
        lane: T.let = mod(thread, 32)
        channel: T.let = div(thread, 32) * 16 + div(lane, 4)
        for h in T.unroll(2):
            biases[h] = bias[panel * PANEL + channel + h * 8]
        T.ptx.griddepcontrol.wait()
        # The first row of the map that a block needs lies above those of its own results.
        first_row: T.let = (band * (2 * s.rows) - 1) * s.down
        for i in T.serial(-(-image_chunks // threads)):
            at: T.let = first_row * s.width + i * threads + thread
            if i * threads + thread < image_chunks and at >= 0 and at < s.height * s.width:
                T.ptx[copy](
                    image_shared.ptr_to([(i * threads + thread) * PIXEL]),
                    x_flat.ptr_to([(sample * (s.height * s.width) + at) * PIXEL]),
                    16,
                )
        T.ptx.cp.async_.commit_group()
        T.ptx.cp.async_.wait_group(0)
        T.ptx.fence.proxy.async_.shared__cta()
        T.cuda.cta_sync()
        w_tile: T.uint64 = 0
        x_tile: T.uint64 = 0
        T.cuda.wgmma.encode_matrix_descriptor(T.address_of(w_tile), weight_shared.ptr_to([0]), 64, 8, 0)
        T.cuda.wgmma.encode_matrix_descriptor(T.address_of(x_tile), image_shared.ptr_to([0]), 1, 8, 0)
        for i in T.unroll(sums):
            top[i] = T.uint32(_LEAST)
        for r in T.serial(2 * s.rows + 1):
            own_row: T.let = band * (2 * s.rows) - 1 + r
            if own_row >= 0 and own_row < s.map_height:
                T.ptx.wgmma.fence.sync.aligned()
                for k in T.unroll(pairs):
                    T.ptx[wgmma](
                        *run_of(acc, 0, sums),
                        w_tile + T.Cast("uint64", k * 128),
                        x_tile + T.Cast("uint64", (r * s.down + k // across) * s.width + k % across * 2),
                        k > 0,
                        1,
                        1,
                        0,
                        0,
                    )
                T.ptx.wgmma.commit_group.sync.aligned()
                T.ptx.wgmma.wait_group.sync.aligned(0)
                for j in T.unroll(blocks):
                    for h in T.unroll(2):
                        for e in T.unroll(2):
                            made[e] = pointwise(s.activation, acc[j * 4 + h * 2 + e] + biases[h], "cuda")
                        T.ptx.cvt.rn.f16x2.f32(mine[0], made[1], made[0])
                        top[j * 2 + h] = T.cuda.func_call(
                            "max_of_halves", top[j * 2 + h], mine[0], source_code=_MAX, return_type="uint32"
                        )
                        if mod(r, 2) == 0:
                            acc[j * 4 + h * 2] = T.reinterpret("float32", mine[0])
            if mod(r, 2) == 0 and r > 0:
                out_row: T.let = band * s.rows + div(r, 2) - 1
                for h in T.unroll(2):
                    left[h] = T.uint32(_LEAST)
                for j in T.unroll(blocks):
                    for h in T.unroll(2):
                        # Lane 3 of each four sends what it held a block before: its neighbour to the right is there.
                        sent: T.let = T.if_then_else(mod(lane, 4) == 3, left[h], top[j * 2 + h])
                        got: T.let = T.cuda.func_call(
                            "from_lane",
                            sent,
                            T.bitwise_or(T.bitwise_and(lane, 28), mod(lane + 3, 4)),
                            source_code=_LEFT,
                            return_type="uint32",
                        )
                        pair: T.let = T.cuda.func_call(
                            "max_of_halves",
                            top[j * 2 + h],
                            T.shift_right(top[j * 2 + h], T.uint32(16)),
                            source_code=_MAX,
                            return_type="uint32",
                        )
                        mine[0] = T.cuda.func_call(
                            "max_of_halves",
                            pair,
                            T.shift_right(got, T.uint32(16)),
                            source_code=_MAX,
                            return_type="uint32",
                        )
                        left[h] = top[j * 2 + h]
                        row_shared[(j * 4 + mod(lane, 4)) * s.out_pitch + channel + h * 8] = T.reinterpret(
                            "float16", T.Cast("uint16", T.bitwise_and(mine[0], T.uint32(65535)))
                        )
                T.cuda.cta_sync()
                for i in T.serial(-(-out_chunks // threads)):
                    chunk: T.let = i * threads + thread
                    if chunk < out_chunks and out_row < s.out_height:
                        for e in T.vectorized(8):
                            out_flat[
                                (((sample * s.out_height + out_row) * s.out_width + div(chunk, 8)) * (s.channels // 8))
                                * 8
                                + panel * PANEL
                                + mod(chunk, 8) * 8
                                + e
                            ] = row_shared[div(chunk, 8) * s.out_pitch + mod(chunk, 8) * 8 + e]
                T.cuda.cta_sync()
                # The last row of these results is the first of the next.
                for j in T.unroll(blocks):
                    for h in T.unroll(2):
                        top[j * 2 + h] = T.reinterpret("uint32", acc[j * 4 + h * 2])

    return IRModule({"kernel": kernel.with_attr("global_symbol", "kernel")})
