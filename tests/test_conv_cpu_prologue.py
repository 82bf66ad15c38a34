"""On a CPU, what a convolution reads goes through its prologue, and its sums are multiplied by their rows' gains."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from laudc.ops.conv2d import Conv2d, Conv2dSpec

sys.path.insert(0, str(Path(__file__).parent))
from test_conv_cpu import SCHEDULE, Case, check, conv, depthwise

CASES = {
    "prologue and gain, rows, 3x3, in place": conv(
        in_channels=20, out_channels=24, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, residual="in_place",
        bias=True, activation="relu", prologue="relu", gain=True,
    ),
}  # fmt: skip
MORE = {
    "prologue, 1x1": conv(in_channels=64, out_channels=33, bias=True, prologue="relu"),
    "prologue, affine alone": conv(in_channels=17, out_channels=16, prologue="affine", padding=(1, 0, 2, 1)),
    "prologue, 3x3": conv(in_channels=20, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1), prologue="silu"),
    "prologue, strided": conv(in_channels=24, out_channels=16, stride=(2, 2), prologue="relu6", activation="relu"),
    "prologue, few pixels": conv(in_channels=70, out_channels=40, size=(3, 2), residual="dense", prologue="gelu"),
    "prologue, one pixel": conv(in_channels=70, out_channels=20, size=(1, 1), prologue="relu"),
    "prologue, chunks of one tap": conv(
        in_channels=700, out_channels=16, kernel=(1, 3), padding=(0, 0, 1, 1), size=(5, 5), prologue="relu", bias=True
    ),
    "prologue, chunks of kernel rows": conv(
        in_channels=100, out_channels=20, kernel=(3, 3), padding=(1, 1, 1, 1), prologue="hardswish"
    ),
    "prologue, groups": conv(
        in_channels=72, out_channels=48, kernel=(3, 3), padding=(1, 1, 1, 1), groups=3, prologue="relu", bias=True
    ),
    "prologue, depthwise of two": conv(
        in_channels=6, out_channels=12, kernel=(3, 3), padding=(1, 1, 1, 1), groups=6, prologue="relu"
    ),
    "prologue, rows": conv(in_channels=37, out_channels=20, rows=True, prologue="relu", bias=True),
    "prologue, rows, compact": conv(
        in_channels=16, out_channels=20, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), rows=True, compact=True,
        prologue="relu", activation="relu",
    ),
    "prologue, channels out": conv(in_channels=32, out_channels=64, channels_out=8, bias=True, prologue="relu"),
    "prologue, channels out, copied": conv(in_channels=32, out_channels=60, channels_out=6, bias=True, prologue="relu"),
    "prologue, channels out, rows": conv(
        in_channels=32, out_channels=64, channels_out=16, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True,
        prologue="relu",
    ),
    "prologue, depthwise": depthwise(33, 3, bias=True, prologue="relu", activation="relu6"),
    "prologue, depthwise, strided": depthwise(16, 5, stride=2, prologue="silu", residual="dense"),
    "prologue, depthwise, rows": depthwise(21, 3, rows=True, residual="in_place", prologue="affine"),
    "gain, 1x1": conv(in_channels=32, out_channels=33, bias=True, gain=True, activation="silu"),
    "gain, dense residual": conv(in_channels=24, out_channels=40, gain=True, residual="dense", activation="relu"),
    "gain, few pixels": conv(in_channels=70, out_channels=40, size=(3, 2), residual="dense", gain=True, bias=True),
    "gain, many chunks": conv(in_channels=1400, out_channels=40, residual="dense", activation="relu6", gain=True),
    "gain, many chunks in place": conv(
        in_channels=200, out_channels=33, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), rows=True,
        residual="in_place", activation="silu", bias=True, gain=True,
    ),
    "gain, rows": conv(in_channels=32, out_channels=20, rows=True, gain=True, bias=True),
    "gain, compact": conv(in_channels=32, out_channels=20, rows=True, compact=True, gain=True, bias=True),
    "gain, gathered": conv(
        in_channels=8, out_channels=20, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, gathered=True, gain=True,
        residual="in_place",
    ),
    "gain, gathered, compact": conv(
        in_channels=32, out_channels=48, rows=True, gathered=True, compact=True, bias=True, gain=True
    ),
    "gain, groups": conv(
        in_channels=32, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1), groups=8, gain=True, bias=True, rows=True,
        residual="in_place",
    ),
    "gain, depthwise": replace(depthwise(20, 3, gain=True, bias=True, residual="dense"), schedule=SCHEDULE),
    "gain, channels": conv(
        in_channels=48, out_channels=48, kernel=(3, 3), padding=(1, 1, 1, 1), channels_in=8, channels_out=8, gain=True,
        bias=True,
    ),
    "prologue and gain": conv(in_channels=37, out_channels=50, bias=True, prologue="relu", gain=True),
    "prologue and gain, compact": conv(
        in_channels=48, out_channels=20, rows=True, compact=True, prologue="relu", gain=True, bias=True
    ),
    "prologue and gain, depthwise": replace(
        depthwise(20, 3, gain=True, rows=True, prologue="relu"), schedule=SCHEDULE
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_read_goes_through_the_prologue_and_sums_are_multiplied_by_their_gain(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE.values(), ids=MORE)
def test_a_prologue_and_a_gain_work_with_everything_else(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("fields", [{"gain": True, "masker": True}, {"prologue": "none"}, {"prologue": "mish"}])
def test_the_reference_computes_nothing_that_means_nothing(fields: dict[str, Any]) -> None:
    op = Conv2d.empty(Conv2dSpec(in_channels=2, out_channels=2, **fields))
    with pytest.raises(AssertionError):
        op(*torch.ones(len(op.spec.operands), 1, 2, 3, 3))
