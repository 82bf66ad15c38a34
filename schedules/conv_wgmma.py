"""float16 convolutions and linear layers on Hopper (sm_90a): wgmma on swizzled tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laudc.schedules._cuda_tensor_schedule import TensorCoreSchedule
from laudc.schedules._cuda_tiles import Candidate
from laudc.schedules.base import Choice

if TYPE_CHECKING:
    from laudc.schedules._cuda_tensor_core import Tile
    from laudc.targets import Target


class ConvWgmma(TensorCoreSchedule):
    rank = 30
    candidates = (
        Candidate(choice={"bm": 128, "bn": 256, "stages": 4, "warpgroups": 2, "lag": 1, "resident": 0}, speed=100),
        Candidate(choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 2, "lag": 0, "resident": 2}, speed=95),
        Candidate(choice={"bm": 128, "bn": 64, "stages": 3, "warpgroups": 2, "lag": 0, "resident": 3}, speed=75),
        Candidate(choice={"bm": 64, "bn": 128, "stages": 3, "warpgroups": 1, "lag": 0, "resident": 0}, speed=75),
        Candidate(choice={"bm": 64, "bn": 64, "stages": 4, "warpgroups": 1, "lag": 0, "resident": 0}, speed=55),
    )

    def refuse_target(self, target: Target) -> str | None:
        return None if target.arch == "sm_90a" else f"wgmma is an instruction of sm_90a, not of {target.arch}"

    def tile(self, choice: Choice, target: Target) -> Tile:
        from laudc.schedules._cuda_tensor_core import Tile

        return Tile(
            core="wgmma",
            bm=choice["bm"],
            bn=choice["bn"],
            stages=choice["stages"],
            warpgroups=choice["warpgroups"],
            lag=choice["lag"],
            early=choice["early"],
            stmatrix=True,
            blocks=choice["resident"] * target.sm_count,
        )


SCHEDULE = ConvWgmma()
