"""Every convolution and linear layer on every CUDA chip from sm_53 on, in fp32 arithmetic: the list's end.

float32 and float16 data, any kernel, stride, padding, dilation, groups and channel count, row and channel lists,
the masker's column. Tensor-core schedules are asked before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laudc.schedules._cuda_problem import Problem, matrix_of, meaningless, problem_of
from laudc.schedules.base import Choice, Lowered, Schedule, Work

if TYPE_CHECKING:
    from laudc.targets import Target

TILES: tuple[Choice, ...] = (
    {"bm": 128, "bn": 64, "tm": 8, "tn": 4, "bk": 16},
    {"bm": 64, "bn": 64, "tm": 8, "tn": 4, "bk": 16},
    {"bm": 64, "bn": 64, "tm": 4, "tn": 4, "bk": 32},
    {"bm": 64, "bn": 32, "tm": 4, "tn": 4, "bk": 32},
    {"bm": 64, "bn": 16, "tm": 4, "tn": 4, "bk": 32},
    {"bm": 32, "bn": 32, "tm": 4, "tn": 4, "bk": 32},
    {"bm": 16, "bn": 64, "tm": 4, "tn": 4, "bk": 32},
)
"""Rows x columns of a block, of a thread, and the depth of a step; the larger tiles first."""

STRIPS: tuple[Choice, ...] = ({"tall": 4}, {"tall": 2}, {"tall": 1})
"""Rows a thread sums where the groups are too thin for a tile."""

THINNEST_TILE = 16
"""Columns or channels of a group from which on a tile is worth its waste."""

FIRST_ARCH = 53


class ConvSimt(Schedule):
    ops = frozenset({"conv2d", "linear"})
    kind = "cuda"
    rank = 90

    def refuse(self, work: Work, target: Target) -> str | None:
        if arch_number(target) < FIRST_ARCH:
            return f"float16 data needs sm_{FIRST_ARCH} or later, not {target.arch}"
        return meaningless(work)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        p = problem_of(work)
        if _is_thin(p):
            return STRIPS
        columns = p.group_columns + p.masker
        fitting = [tile for tile in TILES if tile["bn"] < 2 * columns or tile["bn"] == THINNEST_TILE]
        enough = [tile for tile in fitting if _blocks(p, tile) >= target.sm_count]
        default = enough[0] if enough else max(fitting, key=lambda tile: _blocks(p, tile))
        return (default, *(tile for tile in fitting if tile is not default))

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cuda_simt_direct import Strip, direct_module
        from laudc.schedules._cuda_simt_tile import Tile, tile_module

        p = problem_of(work)
        module = direct_module(p, Strip(**choice)) if _is_thin(p) else tile_module(p, Tile(**choice))
        return Lowered(module=module, pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        matrix = matrix_of(work.spec, weights["weight"])
        matrix = matrix.T if _is_thin(problem_of(work)) else matrix
        packed = matrix.to(getattr(torch, work.dtype)).contiguous()
        return (packed, weights["bias"].float().contiguous()) if "bias" in weights else (packed,)


def arch_number(target: Target) -> int:
    """62 of "sm_62", 90 of "sm_90a"."""
    return int(target.arch.removeprefix("sm_").rstrip("af"))


def _is_thin(p: Problem) -> bool:
    return p.groups > 1 and min(p.group_columns, p.group_channels) < THINNEST_TILE


def _blocks(p: Problem, tile: Choice) -> int:
    rows = p.batch * -(-p.pixels // tile["bm"]) if p.per_sample else -(-p.capacity // tile["bm"])
    return rows * p.groups * -(-(p.group_columns + p.masker) // tile["bn"])


SCHEDULE = ConvSimt()
