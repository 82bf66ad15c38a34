"""Convolutions and linear layers, 16-bit or tf32, on Hopper (sm_90a): wgmma on swizzled tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laudc.schedules._cuda_tensor_schedule import TensorCoreSchedule
from laudc.schedules._cuda_tiles import Candidate

if TYPE_CHECKING:
    from laudc.targets import Target


def _tile(bm: int, bn: int, *, stages: int, speed: int, lag: int = 0, resident: int = 0, split: int = 1) -> Candidate:
    choice = {"bm": bm, "bn": bn, "stages": stages, "warpgroups": bm // 64, "lag": lag, "resident": resident}
    return Candidate(choice=choice | ({"split": split} if split > 1 else {}), speed=speed)


class ConvWgmma(TensorCoreSchedule):
    core = "wgmma"
    rank = 30
    candidates = (
        _tile(64, 128, stages=3, speed=100),
        _tile(128, 128, stages=3, speed=93),
        _tile(128, 64, stages=3, resident=3, speed=84),
        _tile(64, 64, stages=6, lag=1, split=2, speed=84),
        _tile(64, 64, stages=6, lag=1, speed=79),
        _tile(128, 128, stages=5, lag=1, speed=76),
        _tile(128, 64, stages=5, lag=1, speed=75),
        _tile(128, 256, stages=4, lag=1, speed=72),
        _tile(64, 128, stages=5, lag=1, split=4, speed=71),
        _tile(64, 64, stages=6, lag=1, split=4, speed=68),
        _tile(128, 64, stages=5, lag=1, split=8, speed=69),
    )
    """Speeds were fitted to 13 layers of a ResNet-50 at 7 counts of rows each on an H200, in float16."""

    def refuse_target(self, target: Target) -> str | None:
        return None if target.arch == "sm_90a" else f"wgmma is an instruction of sm_90a, not of {target.arch}"


SCHEDULE = ConvWgmma()
