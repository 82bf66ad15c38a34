"""Convolutions with a channel list for every sample, 16-bit or tf32, on Hopper (sm_90a): wgmma on what lists name."""

from __future__ import annotations

from laudc.schedules import conv_wgmma
from laudc.schedules._cuda_channel_schedule import ChannelSchedule, table


class ConvWgmmaChannels(ChannelSchedule):
    plain = conv_wgmma.SCHEDULE
    rank = 31
    candidates = table(
        ("bm", "bn", "stages", "warpgroups", "lag", "early", "walk"),
        (128, 256, 4, 2, 1, 0, 0, 60),
        (256, 128, 4, 2, 1, 0, 0, 65),
        (64, 128, 3, 1, 0, 0, 0, 55),
        (128, 128, 3, 2, 0, 0, 0, 65),
        (128, 64, 3, 2, 0, 0, 0, 65),
        (128, 64, 3, 2, 0, 1, 1, 85),
        (64, 64, 4, 1, 0, 0, 0, 50),
    )


SCHEDULE = ConvWgmmaChannels()
