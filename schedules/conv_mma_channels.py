"""Convolutions with a channel list for every sample, 16-bit or tf32, from sm_80 on: ldmatrix, mma.sync, cp.async."""

from __future__ import annotations

from laudc.schedules import conv_mma
from laudc.schedules._cuda_channel_schedule import ChannelSchedule, table


class ConvMmaChannels(ChannelSchedule):
    plain = conv_mma.SCHEDULE
    rank = 41
    candidates = table(
        ("bm", "bn", "stages", "warpgroups", "warps_m", "early", "walk"),
        (128, 128, 3, 1, 2, 0, 0, 100),
        (64, 128, 3, 1, 2, 0, 0, 93),
        (128, 128, 3, 2, 4, 0, 0, 92),
        (128, 64, 3, 1, 2, 0, 0, 90),
        (64, 64, 3, 1, 2, 1, 1, 75),
        (64, 64, 3, 1, 2, 0, 0, 75),
    )
    """As without lists."""


SCHEDULE = ConvMmaChannels()
