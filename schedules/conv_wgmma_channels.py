"""float16 convolutions with a channel list for every sample on Hopper (sm_90a): wgmma on what the lists name."""

from __future__ import annotations

from laudc.schedules import conv_wgmma
from laudc.schedules._cuda_channel_schedule import ChannelSchedule
from laudc.schedules._cuda_tiles import Candidate


class ConvWgmmaChannels(ChannelSchedule):
    plain = conv_wgmma.SCHEDULE
    rank = 31
    candidates = (
        Candidate(
            choice={"bm": 128, "bn": 256, "stages": 4, "warpgroups": 2, "lag": 1, "early": 0, "walk": 0}, speed=100
        ),
        Candidate(
            choice={"bm": 64, "bn": 128, "stages": 3, "warpgroups": 1, "lag": 0, "early": 0, "walk": 0}, speed=100
        ),
        Candidate(
            choice={"bm": 128, "bn": 128, "stages": 3, "warpgroups": 2, "lag": 0, "early": 0, "walk": 0}, speed=95
        ),
        Candidate(
            choice={"bm": 128, "bn": 64, "stages": 3, "warpgroups": 2, "lag": 0, "early": 0, "walk": 0}, speed=90
        ),
        Candidate(choice={"bm": 64, "bn": 64, "stages": 4, "warpgroups": 1, "lag": 0, "early": 0, "walk": 0}, speed=80),
        Candidate(
            choice={"bm": 64, "bn": 128, "stages": 3, "warpgroups": 1, "lag": 0, "early": 1, "walk": 1}, speed=100
        ),
        Candidate(
            choice={"bm": 128, "bn": 64, "stages": 3, "warpgroups": 2, "lag": 0, "early": 1, "walk": 1}, speed=100
        ),
        Candidate(
            choice={"bm": 64, "bn": 64, "stages": 3, "warpgroups": 1, "lag": 0, "early": 1, "walk": 1}, speed=100
        ),
    )


SCHEDULE = ConvWgmmaChannels()
