"""Every convolution and linear layer on every CUDA chip from sm_53 on, in fp32 arithmetic: the list's end.

float32 and 16-bit data, any kernel, stride, padding, dilation, groups and channel count, row and channel lists,
the masker's column. Tensor-core schedules are asked before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laudc.schedules._cuda_demand import direct_demand, simt_demand
from laudc.schedules._cuda_problem import Problem, matrix_of, meaningless, problem_of
from laudc.schedules._cuda_tiles import STRIP_THREADS, Candidate, SimtTile, columns_a_thread, ranked
from laudc.schedules._demand import Active, Demand
from laudc.schedules._prologue import pack_prologue
from laudc.schedules.base import Choice, Lowered, Schedule, Work

if TYPE_CHECKING:
    from laudc.targets import Target

TILES = tuple(
    Candidate(choice={"bm": bm, "bn": bn, "tm": tm, "tn": tn, "bk": bk}, speed=speed)
    for bm, bn, tm, tn, bk, speed in (
        (64, 64, 4, 4, 32, 100),
        (64, 64, 8, 4, 16, 93),
        (64, 80, 8, 5, 16, 92),
        (128, 64, 8, 4, 16, 88),
        (64, 32, 4, 4, 32, 85),
        (32, 32, 4, 4, 32, 80),
        (16, 64, 4, 4, 32, 75),
        (64, 16, 4, 4, 32, 62),
    )
)
"""Rows x columns of a block, of a thread, the depth of a step; speeds were measured in float32 on an H200."""

ENOUGH_WARPS = 12

STRIPS: tuple[Choice, ...] = ({"tall": 2}, {"tall": 4}, {"tall": 1})
"""Rows a thread sums where the groups are too thin for a tile."""

THINNEST_TILE = 16
"""Columns or channels of a group from which on a tile is worth its waste."""

FIRST_ARCH = 53
FIRST_BFLOAT_ARCH = 80


class ConvSimt(Schedule):
    ops = frozenset({"conv2d", "linear"})
    kind = "cuda"
    rank = 90

    def refuse(self, work: Work, target: Target) -> str | None:
        if target.capability < FIRST_ARCH:
            return f"float16 data needs sm_{FIRST_ARCH} or later, not {target.arch}"
        if work.dtype == "bfloat16" and target.capability < FIRST_BFLOAT_ARCH:
            return f"bfloat16 data needs sm_{FIRST_BFLOAT_ARCH} or later, not {target.arch}"
        if getattr(work.spec, "samples", False) or getattr(work.spec, "sums", False):
            return "decisions on whole samples are read, and channel sums are left, by tensor-core tiles only"
        if getattr(work.spec, "shortcut", 0):
            return "a shortcut's convolution is added by tensor-core tiles only"
        return meaningless(work)

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        p = problem_of(work)
        if _is_thin(p):
            return STRIPS
        columns = p.group_columns + p.masker
        return ranked(p, _filled(p, columns), _tile, target, columns=columns, enough_warps=ENOUGH_WARPS)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        p = problem_of(work)
        if _is_thin(p):
            return direct_demand(p, choice["tall"], columns_a_thread(p), STRIP_THREADS, active)
        return simt_demand(p, _tile(choice), _speed_of(choice), active)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cuda_simt_direct import Strip, direct_module
        from laudc.schedules._cuda_simt_gemm import gemm_module

        p = problem_of(work)
        module = direct_module(p, Strip(**choice)) if _is_thin(p) else gemm_module(p, _tile(choice))
        return Lowered(module=module, pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        matrix = matrix_of(work.spec, weights)
        matrix = matrix.T if _is_thin(problem_of(work)) else matrix
        packed = matrix.to(getattr(torch, work.dtype)).contiguous()
        bias = (weights["bias"].float().contiguous(),) if "bias" in weights else ()
        return (packed, *bias, *pack_prologue(weights))


def _tile(choice: Choice) -> SimtTile:
    return SimtTile(**choice)


def _speed_of(choice: Choice) -> int:
    return next(tile.speed for tile in TILES if dict(tile.choice) == dict(choice))


def _filled(p: Problem, columns: int) -> Iterator[Candidate]:
    """The tiles with more columns busy than idle, since idle ones cost registers, which may spill.

    All where channels are read one or two at a time: there the narrowest tile, with the most reads, costs more.
    """
    narrowest = min(tile.choice["bn"] for tile in TILES)
    for tile in TILES:
        if tile.choice["bn"] < 2 * columns or tile.choice["bn"] == narrowest or p.group_channels % 4:
            yield tile


def _is_thin(p: Problem) -> bool:
    return p.groups > 1 and min(p.group_columns, p.group_channels) < THINNEST_TILE


SCHEDULE = ConvSimt()
