"""The CUDA convolutions without a GPU: what they refuse, what their source holds, that it compiles without spills."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from laudc.kernels.toolchain import Compiled, Missing, compile_cubin, find_compiler
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Choice, Schedule
from laudc.targets import TARGETS, Target

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from conv_cases import GENERAL, RESNET50, TENSOR_CORE, Case, conv

SIMT, MMA, WGMMA = (SCHEDULES[name] for name in ("conv-simt", "conv-mma", "conv-wgmma"))
TX2, V100, A100, H200 = (TARGETS[name] for name in ("jetson-tx2", "v100", "a100", "h200"))
OLD, BOTH = ("jetson-nano", "jetson-tx2", "v100"), ("float32", "float16")
CASES = {case.name: case for case in (*GENERAL, *TENSOR_CORE, *RESNET50)}


@cache
def _source(schedule: Schedule, case: Case, dtype: str, target: Target, number: int = 0) -> str:
    import tvm

    work = case.work(1, dtype)
    assert schedule.refuse(work, target) is None
    choice: Choice = schedule.choices(work, target)[number]
    lowered = schedule.build(work, target, choice)
    device = tvm.target.Target(target.tvm_target_json(), host="llvm")
    with device:
        executable = tvm.compile(lowered.module, target=device, tir_pipeline=lowered.pipeline)
    return str(executable.mod.imports[0].inspect_source())


def _compiled(source: str, arch: str) -> Compiled:
    compiler = find_compiler(arch)
    if isinstance(compiler, Missing):
        pytest.skip(str(compiler))
    return compile_cubin(source, arch, compiler)


@pytest.mark.parametrize("target", [TX2, V100], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_before_sm_80_there_are_no_newer_instructions(target: Target, dtype: str) -> None:
    source = _source(SIMT, CASES["2 conv2"], dtype, target)
    assert not any(word in source for word in ("cp.async", "mma.sync", "wgmma", "ldmatrix", "stmatrix"))


def test_mma_copies_asynchronously_and_has_no_hopper_instruction_on_an_a100() -> None:
    source = _source(MMA, CASES["2 conv2"], "float16", A100)
    assert all(word in source for word in ("cp.async.cg", "ldmatrix", "mma.sync.aligned.m16n8k16"))
    assert not any(word in source for word in ("wgmma", "stmatrix"))


def test_wgmma_is_the_first_choice_on_a_hopper_and_only_there() -> None:
    source = _source(WGMMA, CASES["2 conv2"], "float16", H200)
    assert all(word in source for word in ("cp.async.cg", "wgmma.mma_async", "stmatrix"))
    assert WGMMA.rank < MMA.rank < SIMT.rank
    assert WGMMA.refuse(CASES["2 conv2"].work(1, "float16"), A100) == "wgmma is an instruction of sm_90a, not of sm_80"


def test_channels_in_vectors_are_read_in_vectors() -> None:
    assert "float4*)(x_ptr" in _source(SIMT, CASES["3x3"], "float32", TX2)
    assert "uint4*)(x_ptr" in _source(SIMT, CASES["3x3"], "float16", TX2)
    assert "float4*)(x_ptr" not in _source(SIMT, CASES["5 channels"], "float32", TX2)


def test_the_unused_operands_are_no_arguments() -> None:
    lowered = SIMT.build(
        CASES["rows in place"].work(1, "float32"), TX2, SIMT.choices(CASES["rows in place"].work(1, "float32"), TX2)[0]
    )
    assert [str(parameter.name) for parameter in lowered.module["kernel"].params] == [
        "x",
        "rows",
        "weight",
        "bias",
        "out",
    ]


@pytest.mark.parametrize(
    ("schedule", "target", "dtype", "name"),
    [
        *((SIMT, target, dtype, "2 conv2") for target in OLD for dtype in BOTH),
        *((SIMT, "jetson-tx2", "float16", n) for n in ("stem", "depthwise", "between units of 2", "masker", "head")),
        *((MMA, target, "float16", name) for target in ("a100", "rtx3090", "orin") for name in ("2 conv2", "3 conv3")),
        *((WGMMA, "h200", "float16", name) for name in ("1 conv2", "2 conv2", "3 conv2", "3 conv3", "head")),
    ],
)  # fmt: skip
def test_the_default_tile_compiles_without_spills(schedule: Schedule, target: str, dtype: str, name: str) -> None:
    compiled = _compiled(_source(schedule, CASES[name], dtype, TARGETS[target]), TARGETS[target].arch)
    assert (compiled.spill_bytes, compiled.stack_bytes) == (0, 0)
    assert "C75" not in compiled.log  # wgmma made to wait for itself


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "target", "dtype"),
    [
        *(
            (SIMT, target, dtype)
            for target in ("jetson-nano", "jetson-tx2", "v100")
            for dtype in ("float32", "float16")
        ),
        *((MMA, target, "float16") for target in ("a100", "rtx3090")),
        (WGMMA, "h200", "float16"),
    ],
)
def test_no_kernel_of_a_resnet50_spills(schedule: Schedule, target: str, dtype: str) -> None:
    device = TARGETS[target]
    for case in RESNET50:
        if schedule.refuse(case.work(1, dtype), device) is None:
            compiled = _compiled(_source(schedule, case, dtype, device), device.arch)
            assert (compiled.spill_bytes, compiled.stack_bytes) == (0, 0), case.name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gathered": True}, "a gathered or compact matrix needs a row list"),
        ({"compact": True}, "a gathered or compact matrix needs a row list"),
        ({"masker": True, "residual": "dense"}, "a masker's column goes with a plain convolution only"),
        ({"residual": "in_place"}, "a residual is updated in place at listed rows of a map only"),
        ({"residual": "dense", "rows": True}, "a residual that is added everywhere does not go with a row list"),
        (
            {"groups": 2, "channels_in": 32, "channels_out": 16},
            "channel lists of a grouped convolution must name whole groups, the same on both sides",
        ),
        ({"activation": "mish"}, "no kernel knows the pointwise function 'mish'"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_by_every_schedule(change: dict[str, object], reason: str) -> None:
    spec = replace(Conv2dSpec(in_channels=64, out_channels=64, map_size=(7, 9)), **change)  # type: ignore[arg-type]
    work = Case(name="refused", spec=spec).work(1, "float16")
    assert [schedule.refuse(work, H200) for schedule in (SIMT, MMA, WGMMA)] == [reason] * 3


@pytest.mark.parametrize(
    ("fields", "dtype", "reason"),
    [
        ({}, "float32", "tensor cores take float16 here, not float32"),
        ({"groups": 2}, "float16", "tensor-core tiles take one group, not 2"),
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


def test_an_old_or_unknown_type_is_refused_with_its_name() -> None:
    work = CASES["1x1"].work(1, "int32")
    assert SIMT.refuse(work, TX2) == "CUDA kernels compute in float32 and float16, not in int32"
    older = replace(TX2, arch="sm_50")
    assert SIMT.refuse(CASES["1x1"].work(1, "float16"), older) == "float16 data needs sm_53 or later, not sm_50"
    assert (
        MMA.refuse(CASES["2 conv2"].work(1, "float16"), V100) == "mma.sync of 16x8x16 needs sm_80 or later, not sm_70"
    )


@pytest.mark.parametrize("schedule", [SIMT, MMA, WGMMA], ids=["simt", "mma", "wgmma"])
def test_every_tile_that_is_offered_fits_the_chip(schedule: Schedule) -> None:
    for target in (TARGETS["rtx3090"], A100, H200):
        for case in TENSOR_CORE:
            work = case.work(8, "float16")
            if schedule.refuse(work, target) is None:
                choices = schedule.choices(work, target)
                assert choices
                assert len({tuple(choice.items()) for choice in choices}) == len(choices)


def test_a_masker_widens_the_instruction_by_8_columns() -> None:
    source = _source(WGMMA, CASES["masker of 64"], "float16", H200)
    assert "wgmma.mma_async.sync.aligned.m64n72k16" in source
    packed, _ = WGMMA.pack(
        CASES["masker of 64"].work(1, "float16"),
        {"bn": 64},
        {"weight": torch.ones(65, 64, 1, 1), "bias": torch.ones(65)},
    )
    assert packed.shape == (72, 64)


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
    assert few["bm"] * few["bn"] < many["bm"] * many["bn"]


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
