"""Grouped convolutions on tensor cores without a GPU: which fit and gain, how their weights lie, that they compile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from laudc.latency.constants import calibration_for
from laudc.latency.search import EVERYTHING, expected_time
from laudc.schedules import SCHEDULES
from laudc.schedules._cuda_groups import block_diagonal, filled
from laudc.schedules._cuda_problem import matrix_of, problem_of
from laudc.targets import TARGETS

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from conv_case import THREE, Case, conv
from conv_text import compiled, cuda_text
from grouped_cases import GROUPED

H200 = TARGETS["h200"]
PLAIN = ("conv-wgmma", "conv-mma")


def grouped(width: int, channels: int, size: int = 14, out: int | None = None, **fields: object) -> Case:
    return conv(
        f"{width} of {channels}",
        in_channels=channels,
        out_channels=out or channels,
        groups=channels // width,
        size=(size, size),
        **THREE,
        **fields,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tf32"])
def test_groups_that_fill_64_channels_run_on_tensor_cores(dtype: str) -> None:
    for case in GROUPED:
        assert [SCHEDULES[name].refuse(case.work(1, dtype), H200) for name in PLAIN] == [None] * 2, case.name
        work = case.work(1, dtype)
        full = filled(problem_of(work))
        for name in PLAIN:
            choices = SCHEDULES[name].choices(work, H200)
            assert choices
            assert full.groups == 1 or all(full.group_columns % choice["bn"] == 0 for choice in choices)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            grouped(32, 64, out=96),
            "tensor-core tiles take groups that fill 64 channels and columns, not 32 to 48 of 64",
        ),
        (grouped(32, 96), "tensor-core tiles take groups that fill 64 channels and columns, not 32 to 32 of 96"),
        (grouped(48, 96), "tensor-core tiles take groups that fill 64 channels and columns, not 48 to 48 of 96"),
        (grouped(8, 64), "groups of 8 channels are mostly zeros on tensor cores, which take 16 and more"),
        (grouped(1, 64), "groups of 1 channels are mostly zeros on tensor cores, which take 16 and more"),
        (grouped(32, 64, prologue="relu"), "tensor-core tiles of groups take no prologue and no shortcut"),
    ],
)
def test_other_groups_are_left_to_simt(case: Case, reason: str) -> None:
    work = case.work(1, "float16")
    assert [SCHEDULES[name].refuse(work, H200) for name in ("conv-simt", *PLAIN)] == [None, reason, reason]


def test_where_tensor_cores_are_hardly_faster_thin_groups_are_left_to_simt() -> None:
    plan, board = SCHEDULES["conv-mma"], TARGETS["rtx3090"]
    reason = "groups of 32 channels are 2 times the work on tensor cores, which are no faster"
    assert plan.refuse(grouped(32, 1024).work(1, "float16"), board) == reason
    assert plan.refuse(grouped(64, 512).work(1, "float16"), board) is None


@pytest.mark.parametrize(("target", "schedule"), [("h200", "conv-wgmma"), ("a100", "conv-mma"), ("orin", "conv-mma")])
def test_what_tensor_cores_take_is_predicted_to_gain(target: str, schedule: str) -> None:
    """The groups of a ResNeXt-50 and of a RegNet."""
    device = TARGETS[target]
    constants = calibration_for(device).constants

    def microseconds(name: str, case: Case) -> float:
        work = case.work(8, "float16")
        choice = SCHEDULES[name].choices(work, device)[0]
        return expected_time(name, work, choice, device, constants, EVERYTHING).total_us

    for case in (grouped(16, 512), grouped(32, 1024, 7), grouped(64, 512)):
        assert microseconds(schedule, case) < 0.6 * microseconds("conv-simt", case)


def test_thin_groups_are_packed_with_zeros_between_them() -> None:
    work = grouped(16, 128, 6).work(1, "float16")
    p = problem_of(work)
    full = filled(p)
    assert (p.groups, full.groups, full.group_channels, full.depth) == (8, 2, 64, 9 * 64)
    weight = torch.randn(128, 16, 3, 3)
    wide = block_diagonal(matrix_of(work.spec, {"weight": weight}), p, full)
    assert int((wide != 0).sum()) == weight.numel()
    x = torch.randn(1, 128, 6, 6)
    again = wide.view(128, 3, 3, 64).permute(0, 3, 1, 2)
    torch.testing.assert_close(F.conv2d(x, again, groups=2), F.conv2d(x, weight, groups=8), rtol=1e-4, atol=1e-4)


def test_a_tile_of_columns_reads_its_own_groups_channels() -> None:
    text = cuda_text("conv-wgmma", "groups of 64, gain", "float16", "h200")
    plain = cuda_text("conv-wgmma", "gain of 64", "float16", "h200")
    first = "start_ptr[0] = "
    own, other = (source[source.index(first) :].partition(";")[0] for source in (text, plain))
    assert "% 3) * 8)" in own  # one of three groups: 8 pieces of 16 bytes each
    assert "% 3)" not in other


@pytest.mark.parametrize(
    ("schedule", "target", "dtype", "case"),
    [
        ("conv-wgmma", "h200", "float16", "groups of 32, rows in place"),
        *(
            pytest.param(schedule, target, dtype, case.name, marks=pytest.mark.slow)
            for schedule, target in (("conv-wgmma", "h200"), ("conv-mma", "a100"))
            for dtype in ("float16", "tf32")
            for case in GROUPED
        ),
    ],
)
def test_the_default_tile_compiles_without_spills(schedule: str, target: str, dtype: str, case: str) -> None:
    made = compiled(schedule, case, dtype, target)
    assert (made.spill_bytes, made.stack_bytes) == (0, 0)
    assert "C75" not in made.log  # wgmma made to wait for itself
