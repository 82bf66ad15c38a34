"""float16 convolutions with a channel list for every sample on sm_80 and later: ldmatrix, mma.sync, cp.async."""

from __future__ import annotations

from laudc.schedules import conv_mma
from laudc.schedules._cuda_channel_schedule import ChannelSchedule
from laudc.schedules._cuda_tiles import Candidate


class ConvMmaChannels(ChannelSchedule):
    plain = conv_mma.SCHEDULE
    rank = 41
    candidates = (
        Candidate(
            choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 1, "warps_m": 2, "early": 0, "walk": 0}, speed=100
        ),
        Candidate(
            choice={"bm": 64, "bn": 128, "stages": 3, "warpgroups": 1, "warps_m": 2, "early": 0, "walk": 0}, speed=93
        ),
        Candidate(
            choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 2, "warps_m": 4, "early": 0, "walk": 0}, speed=92
        ),
        Candidate(
            choice={"bm": 128, "bn": 64, "stages": 3, "warpgroups": 1, "warps_m": 2, "early": 0, "walk": 0}, speed=90
        ),
        Candidate(
            choice={"bm": 64, "bn": 64, "stages": 3, "warpgroups": 1, "warps_m": 2, "early": 0, "walk": 0}, speed=75
        ),
        Candidate(
            choice={"bm": 64, "bn": 64, "stages": 3, "warpgroups": 1, "warps_m": 2, "early": 1, "walk": 1}, speed=90
        ),
    )
    """As without lists."""


SCHEDULE = ConvMmaChannels()
