"""Which convolutions the CUDA schedules refuse, and why."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES
from laudc.targets import TARGETS

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from conv_case import Case, conv
from conv_cases import CHANNELS, GENERAL, TENSOR_CORE
from resnet50_cases import RESNET50

SIMT, MMA, WGMMA = (SCHEDULES[name] for name in ("conv-simt", "conv-mma", "conv-wgmma"))
TX2, V100, H200 = (TARGETS[name] for name in ("jetson-tx2", "v100", "h200"))
CASES = {case.name: case for case in (*GENERAL, *TENSOR_CORE, *CHANNELS, *RESNET50)}


@pytest.mark.parametrize(
    ("case", "schedules"),
    [
        ("sums of 264, residual", ("conv-wgmma", "conv-mma")),
        ("sums of 2048 from units of 16, residual, 7x7", ("conv-wgmma-channels", "conv-mma-channels")),
    ],
)
def test_sums_of_bfloat16_are_not_left(case: str, schedules: tuple[str, str]) -> None:
    reason = "channel sums of float16 are exact, those of bfloat16 are not"
    work = CASES[case].work(1, "bfloat16")
    assert [SCHEDULES[name].refuse(work, H200) for name in schedules] == [reason] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gathered": True}, "a gathered or compact matrix needs a row list"),
        ({"gathered": True, "rows": True, "channels_in": 8}, "a gathered matrix has no channel lists"),
        ({"compact": True}, "a gathered or compact matrix needs a row list"),
        ({"masker": True, "residual": "dense"}, "a masker's column goes with a plain convolution only"),
        ({"residual": "in_place"}, "a residual is updated in place at listed rows of a map only"),
        ({"residual": "dense", "rows": True}, "a residual that is added everywhere does not go with a row list"),
        (
            {"groups": 2, "channels_in": 32, "channels_out": 16},
            "channel lists of a grouped convolution must name whole groups, the same on both sides",
        ),
        ({"activation": "mish"}, "no kernel knows the pointwise function 'mish'"),
        ({"prologue": "mish"}, "no kernel knows the prologue 'mish'"),
        ({"prologue": "none"}, "no kernel knows the prologue 'none'"),
        ({"gain": True, "masker": True}, "a masker's column goes with a plain convolution only"),
        ({"prologue": "relu", "masker": True}, "a masker reads x as it is, not through a prologue"),
        (
            {"prologue": "relu", "channels_in": 8},
            "a prologue would make other numbers of the zeros that dropped channels are",
        ),
        (
            {"prologue": "relu", "gathered": True, "rows": True},
            "a prologue would make other numbers of the zeros that gather put outside the image",
        ),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_by_every_schedule(change: dict[str, object], reason: str) -> None:
    spec = replace(Conv2dSpec(in_channels=64, out_channels=64, map_size=(7, 9)), **change)  # type: ignore[arg-type]
    work = Case(name="refused", spec=spec).work(1, "float16")
    assert [schedule.refuse(work, H200) for schedule in (SIMT, MMA, WGMMA)] == [reason] * 3


@pytest.mark.parametrize(
    ("fields", "dtype", "reason"),
    [
        ({}, "float32", "tensor cores take float16, bfloat16 and tf32 here, not float32"),
        ({"in_channels": 96}, "float16", "tensor-core tiles take 64 channels at a time, and 96 is no multiple"),
        ({"out_channels": 60}, "float16", "results are stored 8 columns at a time, and 60 is no multiple"),
        (
            {"channels_in": 8},
            "float16",
            "channel lists differ from sample to sample, and tensor-core tiles span samples",
        ),
        ({"kernel": (7, 5)}, "float16", "tensor-core tiles take 32 taps at most, not 35"),
    ],
)
def test_what_does_not_fit_a_tensor_core_is_left_to_simt(fields: dict[str, int], dtype: str, reason: str) -> None:
    work = conv("refused", **{"in_channels": 64, "out_channels": 64, **fields}).work(1, dtype)
    assert [schedule.refuse(work, H200) for schedule in (SIMT, MMA, WGMMA)] == [None, reason, reason]


@pytest.mark.parametrize(
    ("fields", "dtype", "reason"),
    [
        ({"channels_in": 0}, "float16", "without channel lists every tile is as deep and as wide as the next"),
        ({}, "float32", "tensor cores take float16, bfloat16 and tf32 here, not float32"),
        ({"groups": 8, "channels_out": 8}, "float16", "tensor-core tiles take one group, not 8"),
        ({"gain": True}, "float16", "tensor-core tiles with channel lists take no prologue and no gain"),
        ({"channels_in": 4}, "float16", "copies take 8 listed channels of x at a time, and 4 is no multiple"),
        ({"out_channels": 60}, "float16", "copies take 8 columns at a time, and 60 is no multiple"),
        (
            {"kernel": (8, 4)},
            "float16",
            "tensor-core tiles with channel lists take 31 taps at most, not 32",
        ),
    ],
)
def test_channel_lists_that_do_not_fit_a_tensor_core_are_left_to_simt(
    fields: dict[str, int], dtype: str, reason: str
) -> None:
    work = conv("refused", size=(9, 9), **{"in_channels": 64, "out_channels": 64, "channels_in": 8, **fields}).work(
        1, dtype
    )
    listed = [SCHEDULES[name] for name in ("conv-wgmma-channels", "conv-mma-channels")]
    assert [schedule.refuse(work, H200) for schedule in (SIMT, *listed)] == [None, reason, reason]


@pytest.mark.parametrize("change", [{"channels_out": 16}, {"rows": True}, {"rows": True, "compact": True}])
def test_channel_sums_are_of_all_of_a_sample(change: dict[str, object]) -> None:
    case = CASES["sums of 2048 from units of 16, residual, 7x7"]
    listed = [SCHEDULES[name] for name in ("conv-wgmma-channels", "conv-mma-channels")]
    assert [schedule.refuse(case.work(1, "float16"), H200) for schedule in listed] == [None] * 2
    work = replace(case, spec=replace(case.spec, residual="none", **change)).work(1, "float16")
    reason = "channel sums are of maps of whole samples, of all their channels"
    assert [schedule.refuse(work, H200) for schedule in listed] == [reason] * 2


def test_an_old_or_unknown_type_is_refused_with_its_name() -> None:
    work = CASES["1x1"].work(1, "int32")
    assert SIMT.refuse(work, TX2) == "CUDA kernels compute in float32, float16, bfloat16, not in int32"
    older = replace(TX2, arch="sm_50")
    assert SIMT.refuse(CASES["1x1"].work(1, "float16"), older) == "float16 data needs sm_53 or later, not sm_50"
    assert SIMT.refuse(CASES["1x1"].work(1, "bfloat16"), V100) == "bfloat16 data needs sm_80 or later, not sm_70"
    assert (
        MMA.refuse(CASES["2 conv2"].work(1, "float16"), V100)
        == "mma.sync of 16-bit and tf32 numbers needs sm_80 or later, not sm_70"
    )
