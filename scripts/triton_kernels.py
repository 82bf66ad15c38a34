"""A gathered convolution in Triton, to time laudc's against: implicit GEMM over a row list, NHWC, float16.

The row list is laudc's own (`laudc/ops/_lists.py`): after the offsets of B samples stands the count, then the pixels
that are on. The result is written at those pixels; with a residual it is that buffer, added to in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@triton.jit
def _tile(
    x, rows, w, bias, y, count, row_tile, column_tile,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    RESIDUAL: tl.constexpr, K_INNER: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One tile: BM listed pixels, BN columns."""
    m = row_tile * BM + tl.arange(0, BM)
    n = column_tile * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    on = m < count
    pixel = tl.load(rows + m, mask=on, other=0)
    h = pixel // W % H
    v = pixel % W
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(R * R * C // BK):
        tap = step // (C // BK)
        dh = tap // R - R // 2
        dv = tap % R - R // 2
        c = step % (C // BK) * BK + k
        inside = on & (h + dh >= 0) & (h + dh < H) & (v + dv >= 0) & (v + dv < W)
        a = tl.load(x + (pixel + dh * W + dv)[:, None] * C + c[None, :], mask=inside[:, None], other=0.0)
        if K_INNER:
            b = tl.load(w + n[None, :] * (R * R * C) + (tap * C + c)[:, None])
        else:
            b = tl.load(w + (tap * C + c)[:, None] * N + n[None, :])
        total = tl.dot(a, b, total)
    total += tl.load(bias + n)[None, :]
    there = y + pixel[:, None] * N + n[None, :]
    if RESIDUAL:
        total += tl.load(there, mask=on[:, None], other=0.0).to(tl.float32)
    tl.store(there, tl.maximum(total, 0.0).to(tl.float16), mask=on[:, None])


@triton.jit
def _gathered_conv(
    x, row_list, w, bias, y, batch,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    RESIDUAL: tl.constexpr, K_INNER: tl.constexpr, PERSISTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    count = tl.load(row_list + batch)
    rows = row_list + batch + 1
    columns: tl.constexpr = N // BN
    if PERSISTENT:
        tiles = tl.cdiv(count, BM) * columns
        for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
            _tile(x, rows, w, bias, y, count, tile // columns, tile % columns,
                  H, W, C, N, R, RESIDUAL, K_INNER, BM, BN, BK)  # fmt: skip
    else:
        tile = tl.program_id(0)
        if tile // columns * BM < count:
            _tile(x, rows, w, bias, y, count, tile // columns, tile % columns,
                  H, W, C, N, R, RESIDUAL, K_INNER, BM, BN, BK)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """A tile, and how the weights lie: [N, K] or [K, N]. `programs` a multiprocessor walk the tiles; 0: one a tile."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    k_inner: bool = True
    programs: int = 0


_TILES = (
    (128, 64, 64, 4, 3), (128, 64, 64, 8, 3), (128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (128, 128, 32, 4, 4),
    (128, 256, 64, 8, 3), (256, 64, 64, 8, 3), (64, 64, 64, 4, 4), (64, 128, 64, 4, 3), (64, 256, 64, 8, 3),
)  # fmt: skip


def configs(columns: int, channels: int) -> list[Config]:
    """Those worth trying: every tile in both layouts, the usual ones walking too."""
    fit = [tile for tile in _TILES if columns % tile[1] == 0 and channels % tile[2] == 0]
    once = [Config(*tile, k_inner=k_inner) for tile in fit for k_inner in (True, False)]
    return once + [Config(*tile, programs=2) for tile in fit if tile[0] == 128 and tile[2] == 64]


def gathered_conv(
    config: Config,
    x: torch.Tensor,
    row_list: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor],
    bias: torch.Tensor,
    y: torch.Tensor,
    *,
    taps: int,
    residual: bool,
    processors: int,
) -> None:
    """x (B, H, W, C), y (B, H, W, N) written at the listed pixels; weights [N, K] and [K, N], K by tap and channel."""
    batch, height, width, channels = x.shape
    columns = y.shape[-1]
    tiles = -(-batch * height * width // config.bm) * (columns // config.bn)
    grid = min(tiles, config.programs * processors) if config.programs else tiles
    _gathered_conv[(grid,)](
        x, row_list, weights[0 if config.k_inner else 1], bias, y, batch,
        height, width, channels, columns, taps, residual, config.k_inner, bool(config.programs),
        config.bm, config.bn, config.bk, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
