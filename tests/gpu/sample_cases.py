"""Convolutions that layers skip: on whole samples, and what is added up or decided for the maskers that come."""

from __future__ import annotations

from conv_case import DECIDING, HALVED, LISTED_WHOLE, THREE, WHOLE, conv

SAMPLES = (
    conv("samples of 64", in_channels=64, out_channels=136, **WHOLE),
    conv(
        "samples 3x3 of 128, stride 2", in_channels=128, out_channels=64, stride=(2, 2), size=(9, 8), **WHOLE, **THREE
    ),
    conv("samples of 128, in place", in_channels=128, out_channels=264, residual="in_place", **WHOLE),
    conv("sums of 72", in_channels=64, out_channels=72, bias=True, activation="relu", sums=True, size=(4, 4)),
    conv("sums of 264, residual", in_channels=128, out_channels=264, residual="dense", activation="relu", sums=True),
    conv("settled samples, stride 1", in_channels=128, out_channels=64, settled=True, **WHOLE, **THREE),
    conv("settled sums", in_channels=128, out_channels=264, residual="in_place", settled=True, sums=True, **WHOLE),
    conv("sums of 136, in place", in_channels=128, out_channels=136, residual="in_place", sums=True, **WHOLE),
    conv(
        "sums of 7x5, in place", in_channels=64, out_channels=64, residual="in_place", sums=True, size=(7, 5), **WHOLE
    ),
    conv("2 logits of 72", in_channels=64, out_channels=72, bias=True, activation="relu", running=2, size=(4, 4)),
    conv("1 logit of 264, residual", in_channels=128, out_channels=264, residual="dense", activation="relu", running=1),
    conv("3 logits of 64, shortcut", in_channels=128, out_channels=64, shortcut=192, running=3, **HALVED),
    conv("decides for one", in_channels=128, out_channels=72, **DECIDING),
    conv("decides for one of 22", in_channels=1024, out_channels=136, maskers=22, **DECIDING),
    conv("decides for one of 3, 3x3", in_channels=64, out_channels=64, maskers=3, size=(14, 13), **DECIDING, **THREE),
    conv("decides for one of 2, prologue", in_channels=64, out_channels=64, maskers=2, prologue="relu", **DECIDING),
    conv("listed samples of 64", in_channels=64, out_channels=136, **LISTED_WHOLE),
    conv("listed samples, settled", in_channels=128, out_channels=64, settled=True, **LISTED_WHOLE, **THREE),
    conv("listed samples, in place", in_channels=128, out_channels=264, residual="in_place", **LISTED_WHOLE),
    conv(
        "22 logits, settled",
        in_channels=512,
        out_channels=264,
        residual="in_place",
        settled=True,
        running=22,
        **LISTED_WHOLE,
    ),
    conv("40 logits of 136", in_channels=128, out_channels=136, residual="in_place", running=40, **WHOLE),
    conv(
        "5 logits of 7x5, 3x3",
        in_channels=64,
        out_channels=64,
        residual="in_place",
        running=5,
        size=(7, 5),
        **WHOLE,
        **THREE,
    ),
)
"""What tensor-core schedules take, in float16."""
