"""Convolutions and linear layers, 16-bit or tf32, on tensor cores from sm_80 on: ldmatrix, mma.sync, cp.async."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laudc.schedules._cuda_tensor_schedule import TensorCoreSchedule
from laudc.schedules._cuda_tiles import Candidate

if TYPE_CHECKING:
    from laudc.targets import Target

FIRST_ARCH = 80


class ConvMma(TensorCoreSchedule):
    core = "mma"
    rank = 40
    candidates = (
        Candidate(choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=100),
        Candidate(choice={"bm": 64, "bn": 128, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=93),
        Candidate(choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 2, "warps_m": 4, "resident": 0}, speed=92),
        Candidate(choice={"bm": 128, "bn": 64, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=90),
        Candidate(choice={"bm": 64, "bn": 64, "stages": 3, "warpgroups": 1, "warps_m": 2, "resident": 0}, speed=75),
    )
    """Speeds were measured on an H200 in float16, for want of an older board."""

    def refuse_target(self, target: Target) -> str | None:
        arch = target.capability
        return (
            None
            if arch >= FIRST_ARCH
            else f"mma.sync of 16-bit and tf32 numbers needs sm_{FIRST_ARCH} or later, not {target.arch}"
        )


SCHEDULE = ConvMma()
