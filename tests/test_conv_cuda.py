"""The CUDA convolutions without a GPU: what their source holds, that it compiles without spills, how weights lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import laudc
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Schedule
from laudc.targets import TARGETS
from laudc.testing import Residual, conv_norm, random_images

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from conv_case import conv
from conv_cases import CHANNELS, GENERAL, TENSOR_CORE
from conv_text import CASES, compiled, cuda_text
from resnet50_cases import RESNET50

SIMT, MMA, WGMMA = (SCHEDULES[name] for name in ("conv-simt", "conv-mma", "conv-wgmma"))
TX2, A100, H200 = (TARGETS[name] for name in ("jetson-tx2", "a100", "h200"))
OLD, BOTH = ("jetson-nano", "jetson-tx2", "v100"), ("float32", "float16")
HALVES = ("float16", "bfloat16")
PARTS = ("prologue of 5 channels", "prologue, thin groups", "prologue and gain, in place")
TENSOR_PARTS = tuple(case.name for case in TENSOR_CORE if "prologue" in case.name or "gain" in case.name)
GROUPED = tuple(name for name, case in CASES.items() if "groups gathered" in name or "depthwise gathered" in name)


def slow_but(fast: tuple[str, ...], *others: tuple[str, ...]) -> list[object]:
    """Parameters of which only the first are tried before a commit."""
    return [fast, *(pytest.param(*values, marks=pytest.mark.slow) for values in others if values != fast)]


@pytest.mark.parametrize(
    ("target", "dtype"),
    slow_but(("jetson-tx2", "float32"), *((target, dtype) for target in ("jetson-tx2", "v100") for dtype in BOTH)),
)
def test_before_sm_80_there_are_no_newer_instructions(target: str, dtype: str) -> None:
    source = cuda_text("conv-simt", "2 conv2", dtype, target)
    assert not any(word in source for word in ("cp.async", "mma.sync", "wgmma", "ldmatrix", "stmatrix"))


def test_mma_copies_asynchronously_and_has_no_hopper_instruction_on_an_a100() -> None:
    source = cuda_text("conv-mma", "2 conv2", "float16", "a100")
    assert all(word in source for word in ("cp.async.cg", "ldmatrix", "mma.sync.aligned.m16n8k16"))
    assert not any(word in source for word in ("wgmma", "stmatrix"))


def test_wgmma_is_the_first_choice_on_a_hopper_and_only_there() -> None:
    source = cuda_text("conv-wgmma", "2 conv2", "float16", "h200")
    assert all(word in source for word in ("cp.async.cg", "wgmma.mma_async", "stmatrix"))
    assert WGMMA.rank < MMA.rank < SIMT.rank
    assert WGMMA.refuse(CASES["2 conv2"].work(1, "float16"), A100) == "wgmma is an instruction of sm_90a, not of sm_80"


@pytest.mark.parametrize(
    ("schedule", "target", "case", "instruction"),
    slow_but(
        ("conv-mma-channels", "a100", "64 between units of 16, rows compact", "m16n8k16.row.col.f32"),
        ("conv-wgmma-channels", "h200", "64 between units of 16, rows compact", "m64n{}k16.f32"),
        ("conv-wgmma", "h200", "prologue and gain of 128, in place", "wgmma.mma_async.sync.aligned.m64n{}k16.f32"),
        ("conv-mma", "a100", "prologue and gain of 128, in place", "mma.sync.aligned.m16n8k16.row.col.f32"),
    ),
)
def test_bfloat16_has_the_code_of_float16_with_its_own_type(
    schedule: str, target: str, case: str, instruction: str
) -> None:
    def body(dtype: str) -> str:
        return cuda_text(schedule, case, dtype, target).rpartition('extern "C"')[2]

    columns = SCHEDULES[schedule].choices(CASES[case].work(1, "bfloat16"), TARGETS[target])[0]["bn"]
    source = cuda_text(schedule, case, "bfloat16", target)
    assert f"{instruction.format(columns)}.bf16.bf16" in source
    assert "cvt.rn.bf16x2.f32" in source
    assert body("bfloat16").replace("nv_bfloat16", "half").replace("bf16", "f16") == body("float16")


def test_weights_are_packed_in_the_type_of_the_problem() -> None:
    weight = torch.randn(64, 64, 1, 1)
    for name, fields in (("conv-wgmma", {}), ("conv-wgmma-channels", {"channels_in": 8})):
        work = conv("packed", in_channels=64, out_channels=64, **fields).work(1, "bfloat16")
        choice = SCHEDULES[name].choices(work, H200)[0]
        packed = SCHEDULES[name].pack(work, choice, {"weight": weight})[0]
        assert torch.equal(packed[:64], weight[:, :, 0, 0].bfloat16())


def test_channels_in_vectors_are_read_in_vectors() -> None:
    assert "float4*)(x_ptr" in cuda_text("conv-simt", "2 conv2", "float32", "jetson-tx2")
    assert "uint4*)(x_ptr" in cuda_text("conv-simt", "3x3", "float16", "jetson-tx2")
    assert "float4*)(x_ptr" not in cuda_text("conv-simt", "5 channels", "float32", "jetson-tx2")


def test_the_unused_operands_are_no_arguments() -> None:
    work = CASES["depthwise rows in place"].work(1, "float32")
    lowered = SIMT.build(work, TX2, SIMT.choices(work, TX2)[0])
    arguments = [str(parameter.name) for parameter in lowered.module["kernel"].params]
    assert arguments == ["x", "rows", "weight", "bias", "out"]


def test_x_goes_through_its_prologue_in_shared_memory_before_the_fence_and_the_barrier() -> None:
    source = cuda_text("conv-wgmma", "prologue of 64", "float16", "h200")
    loop = source[source.index("wgmma_encode_matrix_descriptor((") : source.index("wgmma_fence_fence_sync_aligned();")]
    order = ("(prologue_ptr + ", "async_wait_group", "= *(uint4*)(piece_ptr", "fence_proxy", "cta_sync")
    assert sorted(order, key=loop.index) == list(order)


def test_a_prologue_and_a_gain_are_arguments_where_they_are_wanted() -> None:
    work = CASES["prologue and gain, in place"].work(1, "float32")
    choice = SIMT.choices(work, TX2)[0]
    arguments = [str(parameter.name) for parameter in SIMT.build(work, TX2, choice).module["kernel"].params]
    assert arguments == ["x", "rows", "gain", "weight", "bias", "prologue", "out"]
    weights = {name: torch.randn(shape) for name, shape in work.spec.weights().items()}
    assert torch.equal(SIMT.pack(work, choice, weights)[-1], torch.stack([weights["scale"], weights["shift"]]))


@pytest.mark.parametrize(
    ("schedule", "target", "dtype", "case"),
    [
        *slow_but(
            ("conv-simt", "jetson-tx2", "float32", "2 conv2"),
            *(("conv-simt", target, dtype, "2 conv2") for target in OLD for dtype in BOTH),
            *(
                ("conv-simt", "jetson-tx2", "float16", case)
                for case in ("stem", "depthwise", "between units of 2", "masker", "head", *PARTS)
            ),
        ),
        *slow_but(
            ("conv-mma", "a100", "float16", "2 conv2"),
            *(("conv-mma", "a100", "bfloat16", case) for case in ("2 conv2", *TENSOR_PARTS)),
            *(
                ("conv-mma", target, "float16", case)
                for target in ("a100", "rtx3090", "orin")
                for case in ("2 conv2", "3 conv3")
            ),
            *(("conv-mma", "a100", "float16", case) for case in TENSOR_PARTS),
        ),
        *slow_but(
            ("conv-wgmma", "h200", "float16", "2 conv2"),
            *(("conv-wgmma", "h200", "bfloat16", case) for case in ("2 conv2", "3 conv3", "head", *TENSOR_PARTS)),
            *(
                ("conv-wgmma", "h200", "float16", case)
                for case in ("1 conv2", "3 conv2", "3 conv3", "head", *TENSOR_PARTS)
            ),
        ),
        *slow_but(
            ("conv-wgmma-channels", "h200", "float16", "256 between units of 16"),
            *(
                (schedule, target, dtype, case.name)
                for schedule, target in (("conv-wgmma-channels", "h200"), ("conv-mma-channels", "a100"))
                for dtype in HALVES
                for case in CHANNELS
                if dtype == "float16" or not case.spec.sums
            ),
        ),
        *slow_but(
            ("conv-simt", "jetson-tx2", "float32", "thin groups gathered compact"),
            *(
                ("conv-simt", target, dtype, case)
                for target in ("jetson-tx2", "h200")
                for dtype in BOTH
                for case in GROUPED
            ),
        ),
    ],
)
def test_the_default_tile_compiles_without_spills(schedule: str, target: str, dtype: str, case: str) -> None:
    made = compiled(schedule, case, dtype, target)
    assert (made.spill_bytes, made.stack_bytes) == (0, 0)
    assert "C75" not in made.log  # wgmma made to wait for itself


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "target", "dtype"),
    [
        ("conv-simt", "jetson-tx2", "float32"),
        ("conv-mma", "rtx3090", "float16"),
        ("conv-wgmma", "h200", "float16"),
    ],
)
def test_no_kernel_of_a_resnet50_spills(schedule: str, target: str, dtype: str) -> None:
    """One target a schedule; scripts/compile_all.py does all of them."""
    for case in RESNET50:
        if SCHEDULES[schedule].refuse(case.work(1, dtype), TARGETS[target]) is None:
            made = compiled(schedule, case.name, dtype, target)
            assert (made.spill_bytes, made.stack_bytes) == (0, 0), case.name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOTH)
def test_no_general_case_spills_on_a_hopper(dtype: str) -> None:
    for case in GENERAL:
        made = compiled("conv-simt", case.name, dtype, "h200")
        assert (made.spill_bytes, made.stack_bytes) == (0, 0), case.name


def test_no_tile_is_offered_of_which_half_would_be_idle_but_where_channels_are_odd() -> None:
    for channels, columns, widest in (
        (16, 5, 16),
        (16, 16, 16),
        (16, 17, 32),
        (16, 33, 64),
        (16, 41, 80),
        (6, 5, 80),
    ):
        work = conv("narrow", in_channels=channels, out_channels=columns).work(1, "float32")
        assert max(choice["bn"] for choice in SIMT.choices(work, H200)) == widest


def test_a_gathered_row_is_read_by_groups_in_vectors() -> None:
    assert "float4*)(x_ptr" in cuda_text("conv-simt", "wide groups gathered", "float32", "jetson-tx2")
    work = CASES["wide groups gathered"].work(1, "float16")
    reason = "tensor-core tiles take groups that fill 64 channels and columns, not 32 to 48 of 64"
    assert [schedule.refuse(work, H200) for schedule in (SIMT, MMA, WGMMA)] == [None, reason, reason]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["jetson-tx2", "h200"])
def test_a_grouped_network_compiles_with_its_gathers_before_the_convolutions(target: str) -> None:
    blocks = (Residual(conv_norm(32, 32), conv_norm(32, 32, 3, groups=groups), conv_norm(32, 32)) for groups in (2, 8))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    network = nn.Sequential(conv_norm(3, 32, 3), nn.ReLU(), *blocks, *head).eval()
    model = laudc.compile(laudc.transform(network, random_images(1, 3, 20, 24)), target, without=["gather-conv"])
    specs = (step.kernel.work.spec for step in model.lowering.executable.steps)
    gathered = [spec.groups for spec in specs if isinstance(spec, Conv2dSpec) and spec.gathered]
    assert [groups for groups in gathered if groups > 1] == [2, 8]
    assert all(binary.cubin for binary in model.binaries.values())


def test_channel_lists_are_read_by_wgmma_and_columns_past_a_count_are_not_multiplied() -> None:
    source = cuda_text("conv-wgmma-channels", "256 between units of 16", "float16", "h200")
    choice = SCHEDULES["conv-wgmma-channels"].choices(CASES["256 between units of 16"].work(1, "float16"), H200)[0]
    for part in (1, 2, 3, 4):
        assert f"wgmma.mma_async.sync.aligned.m64n{choice['bn'] * part // 4}k16" in source
    source = cuda_text("conv-mma-channels", "256 between units of 16", "float16", "a100")
    assert not any(word in source for word in ("wgmma", "stmatrix"))


@pytest.mark.parametrize("schedule", [SIMT, MMA, WGMMA], ids=["simt", "mma", "wgmma"])
def test_every_tile_that_is_offered_fits_the_chip(schedule: Schedule) -> None:
    for target in (TARGETS["rtx3090"], A100, H200):
        for case in TENSOR_CORE:
            work = case.work(8, "float16")
            if schedule.refuse(work, target) is None:
                choices = schedule.choices(work, target)
                assert choices
                assert len({tuple(choice.items()) for choice in choices}) == len(choices)


@pytest.mark.slow
def test_a_masker_widens_the_instruction_by_8_columns() -> None:
    source = cuda_text("conv-wgmma", "masker of 64", "float16", "h200")
    assert "wgmma.mma_async.sync.aligned.m64n72k16" in source


def test_a_maskers_weights_are_packed_to_8_columns() -> None:
    packed, _ = WGMMA.pack(
        CASES["masker of 64"].work(1, "float16"),
        {"bn": 64},
        {"weight": torch.ones(65, 64, 1, 1), "bias": torch.ones(65)},
    )
    assert packed.shape == (72, 64)


@pytest.mark.slow
def test_a_machine_without_the_compiler_can_rank_tiles_and_pack() -> None:
    program = """
import sys
from laudc.schedules import SCHEDULES, Work
from laudc.ops.linear import LinearSpec
from laudc.targets import TARGETS
from laudc.types import TensorType
x, y = (TensorType(shape=(2, 64), dtype="float16"),) * 2
work = Work(spec=LinearSpec(in_features=64, out_features=64), operands=(x,), results=(y,))
import torch
for name in ("conv-simt", "conv-mma", "conv-wgmma"):
    choice = SCHEDULES[name].choices(work, TARGETS["h200"])[0]
    SCHEDULES[name].pack(work, choice, {"weight": torch.zeros(64, 64)})
assert not any(module.split(".")[0] == "tvm" for module in sys.modules)
"""
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_small_work_gets_small_tiles() -> None:
    few, many = (WGMMA.choices(CASES["4 conv2"].work(batch, "float16"), H200)[0] for batch in (1, 256))
    area = [tile["bm"] * tile["bn"] // tile.get("split", 1) for tile in (few, many)]
    assert area[0] < area[1]
    assert (few["eager"], many["eager"]) == (1, 0)


def test_weights_are_packed_in_the_order_of_the_taps() -> None:
    case = conv("packed", in_channels=64, out_channels=8, kernel=(1, 2), bias=True)
    weight, bias = torch.randn(8, 64, 1, 2), torch.randn(8)
    work = case.work(1, "float16")
    choice = WGMMA.choices(work, H200)[0]
    packed, packed_bias = WGMMA.pack(work, choice, {"weight": weight, "bias": bias})
    assert packed.shape == (choice["bn"], 128)
    assert torch.equal(packed[:8, 64:], weight[:, :, 0, 1].half())
    assert not packed[8:].any()
    assert torch.equal(packed_bias[:8], bias)


def test_thin_groups_are_packed_with_their_columns_side_by_side() -> None:
    case = conv("packed", in_channels=4, out_channels=4, groups=4, kernel=(3, 1))
    weight = torch.randn(4, 1, 3, 1)
    work = case.work(1, "float32")
    (packed,) = SIMT.pack(work, SIMT.choices(work, TX2)[0], {"weight": weight})
    assert torch.equal(packed, weight[:, 0, :, 0].T)
