"""Grouped convolutions that tensor cores take: thin groups put together to 64 channels, and wide ones."""

from __future__ import annotations

from conv_case import LISTED, THREE, WHOLE, conv

GROUPED = (
    conv("groups of 32 in 64", in_channels=64, out_channels=64, groups=2, bias=True, activation="relu", **THREE),
    conv("groups of 16 in 192, rows", in_channels=192, out_channels=192, groups=12, **LISTED, **THREE),
    conv("groups of 16, stride 2", in_channels=128, out_channels=128, groups=8, stride=(2, 2), size=(9, 8), **THREE),
    conv(
        "groups of 32, rows in place",
        in_channels=192,
        out_channels=192,
        groups=6,
        residual="in_place",
        **LISTED,
        **THREE,
    ),
    conv("groups of 32, 1x1", in_channels=128, out_channels=128, groups=4, bias=True, residual="dense"),
    conv(
        "groups of 32, gathered compact",
        in_channels=128,
        out_channels=128,
        groups=4,
        gathered=True,
        compact=True,
        **LISTED,
        **THREE,
    ),
    conv(
        "groups of 64 to 128, rows compact",
        in_channels=128,
        out_channels=256,
        groups=2,
        compact=True,
        **LISTED,
        **THREE,
    ),
    conv("groups of 128, gathered", in_channels=256, out_channels=256, groups=2, gathered=True, **LISTED, **THREE),
    conv("groups of 64, gain", in_channels=192, out_channels=192, groups=3, gain=True, bias=True, **THREE),
    conv("groups of 64, samples", in_channels=128, out_channels=128, groups=2, residual="in_place", **WHOLE, **THREE),
)
