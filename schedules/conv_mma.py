"""float16 convolutions and linear layers on the tensor cores of sm_80 and later: ldmatrix, mma.sync, cp.async."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laudc.schedules._cuda_tensor_schedule import TensorCoreSchedule, extra_columns
from laudc.schedules._cuda_tiles import Candidate, TensorTile, arch_number
from laudc.schedules.base import Choice

if TYPE_CHECKING:
    from laudc.schedules._cuda_problem import Problem
    from laudc.targets import Target

FIRST_ARCH = 80
FIRST_STMATRIX_ARCH = 90


class ConvMma(TensorCoreSchedule):
    rank = 40
    candidates = (
        Candidate(choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=100),
        Candidate(choice={"bm": 64, "bn": 128, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=93),
        Candidate(choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 2, "warps_m": 4, "resident": 0}, speed=92),
        Candidate(choice={"bm": 128, "bn": 64, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=90),
        Candidate(choice={"bm": 64, "bn": 64, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=75),
    )
    """Speeds were measured on an H200, for want of an older board."""

    def refuse_target(self, target: Target) -> str | None:
        arch = arch_number(target)
        return None if arch >= FIRST_ARCH else f"mma.sync of 16x8x16 needs sm_{FIRST_ARCH} or later, not {target.arch}"

    def tile(self, p: Problem, choice: Choice, target: Target) -> TensorTile:
        return TensorTile(
            core="mma",
            bm=choice["bm"],
            bn=choice["bn"],
            stages=choice["stages"],
            warpgroups=choice["warpgroups"],
            early=choice["early"],
            warps_m=choice["warps_m"],
            stmatrix=arch_number(target) >= FIRST_STMATRIX_ARCH,
            extra=extra_columns(p),
            blocks=choice["resident"] * target.sm_count,
        )


SCHEDULE = ConvMma()
