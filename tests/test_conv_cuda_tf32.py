"""The CUDA convolutions in tf32 without a GPU: what fits, what their source holds, how weights are rounded."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from laudc.schedules import SCHEDULES
from laudc.schedules._cuda_problem import problem_of
from laudc.schedules._cuda_tensor_schedule import TensorCoreSchedule
from laudc.targets import TARGETS, Target
from laudc.tf32 import rounded

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from conv_case import conv
from conv_cases import CHANNELS, TENSOR_CORE, TF32
from conv_text import CASES, compiled, cuda_text

H200, A100, V100 = TARGETS["h200"], TARGETS["a100"], TARGETS["v100"]
PLAIN = ("conv-wgmma", "conv-mma")
LISTED = ("conv-wgmma-channels", "conv-mma-channels")


def test_numbers_are_rounded_to_ten_bits_of_fraction_ties_away_from_zero() -> None:
    ulp = 2.0**-10
    given = torch.tensor([1 + ulp / 2, -1 - ulp / 2, 1 + ulp * 0.49, 1 + ulp * 1.51, 0.0, -0.0, 3e-39, 2.0**-130])
    wanted = torch.tensor([1 + ulp, -1 - ulp, 1.0, 1 + 2 * ulp, 0.0, -0.0, 3e-39, 2.0**-130])
    assert torch.equal(rounded(given)[:6], wanted[:6])
    torch.testing.assert_close(rounded(given)[6:], wanted[6:], rtol=0, atol=2.0**-137)
    assert torch.equal(rounded(given).signbit(), given.signbit())
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, 3.4028235e38])
    assert rounded(odd).isinf().tolist() == [True, True, False, True]
    assert rounded(odd).isnan().tolist() == [False, False, True, False]
    drawn = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(rounded(drawn)), rounded(drawn))
    assert float(((rounded(drawn) - drawn) / drawn).abs().max()) <= 2.0**-11
    assert not rounded(drawn).view(torch.int32).bitwise_and(0x1FFF).any()


def test_float32_is_multiplied_in_tf32_only_where_its_spec_says_so() -> None:
    case = CASES["1x1 of 32"]
    reason = "tensor cores take float16, bfloat16 and tf32 here, not float32"
    for name in PLAIN:
        assert SCHEDULES[name].refuse(case.work(1, "float32"), H200) == reason
        assert SCHEDULES[name].refuse(case.work(1, "tf32"), H200) is None
    assert SCHEDULES["conv-simt"].refuse(case.work(1, "tf32"), H200) is None
    half = replace(case.work(1, "float16"), spec=replace(case.spec, tf32=True))
    reason = "tf32 is a way to multiply float32, not float16"
    assert [SCHEDULES[name].refuse(half, H200) for name in ("conv-simt", *PLAIN)] == [reason] * 3


def test_a_chip_before_sm_80_has_no_tf32() -> None:
    work = CASES["1x1 of 32"].work(1, "tf32")
    assert (
        SCHEDULES["conv-mma"].refuse(work, V100)
        == "mma.sync of 16-bit and tf32 numbers needs sm_80 or later, not sm_70"
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"in_channels": 48}, "tensor-core tiles take 32 channels at a time, and 48 is no multiple"),
        ({"out_channels": 60}, "results are stored 8 columns at a time, and 60 is no multiple"),
        ({"sums": True}, "channel sums of float16 are exact, those of float32 are not"),
    ],
)
def test_what_does_not_fit_is_left_to_simt(fields: dict[str, int], reason: str) -> None:
    work = conv("refused", **{"in_channels": 64, "out_channels": 64, **fields}).work(1, "tf32")
    assert [SCHEDULES[name].refuse(work, H200) for name in PLAIN] == [reason] * 2


def test_channel_lists_are_read_by_fours() -> None:
    for case in (CASES["36 from units of 4, residual"], CASES["60 between units of 12"]):
        assert [SCHEDULES[name].refuse(case.work(1, "tf32"), H200) for name in LISTED] == [None] * 2
    odd = conv("odd", in_channels=36, out_channels=64, channels_in=6).work(1, "tf32")
    reason = "copies take 4 listed channels of x at a time, and 6 is no multiple"
    assert [SCHEDULES[name].refuse(odd, H200) for name in LISTED] == [reason] * 2


def test_what_is_for_tf32_alone_is_taken_by_tensor_cores() -> None:
    for case in TF32:
        names = LISTED if getattr(case.spec, "channels_in", 0) else PLAIN
        assert [SCHEDULES[name].refuse(case.work(1, "tf32"), H200) for name in names] == [None] * 2
        assert all(SCHEDULES[name].refuse(case.work(1, "float16"), H200) for name in names)


def _loop(source: str, begin: str, end: str) -> str:
    return source[source.index(begin) : source.index(end, source.index(begin))]


def test_wgmma_multiplies_what_was_rounded_before_the_fence_and_the_barrier() -> None:
    source = cuda_text("conv-wgmma", "3x3 of 96, stride 2", "tf32", "h200")
    choice = SCHEDULES["conv-wgmma"].choices(CASES["3x3 of 96, stride 2"].work(1, "tf32"), H200)[0]
    assert f"wgmma.mma_async.sync.aligned.m64n{choice['bn']}k8.f32.tf32.tf32" in source
    assert 'asm("cvt.rna.tf32.f32 %0, %1;"' in source
    loop = _loop(source, "wgmma_encode_matrix_descriptor((", "wgmma_fence_fence_sync_aligned();")
    order = ("async_wait_group", "round_to_tf32(", "= *(float4*)(piece_ptr", "fence_proxy", "cta_sync")
    assert sorted(order, key=loop.index) == list(order)


def test_mma_multiplies_eight_of_depth_and_has_no_hopper_instruction_on_an_a100() -> None:
    source = cuda_text("conv-mma", "1x1 of 32", "tf32", "a100")
    words = ("cp.async.cg", "ldmatrix", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "cvt.rna.tf32.f32")
    assert all(word in source for word in words)
    assert not any(word in source for word in ("wgmma", "stmatrix", "cvt.rn."))


def test_results_stay_float32() -> None:
    source = cuda_text("conv-wgmma", "1x1 of 32", "tf32", "h200")
    assert "float2*)(((float*)pool_buf_ptr" in source
    assert "(float4*)(out_ptr" in source
    assert not any(word in source for word in ("stmatrix", "half", "cvt.rn."))


def test_channel_lists_are_multiplied_in_tf32_too() -> None:
    for schedule, target, instruction in (
        ("conv-wgmma-channels", "h200", "k8.f32.tf32.tf32"),
        ("conv-mma-channels", "a100", "m16n8k8.row.col.f32.tf32.tf32.f32"),
    ):
        source = cuda_text(schedule, "60 between units of 12", "tf32", target)
        assert instruction in source
        assert "round_to_tf32(" in source


def test_a_walker_rounds_x_once() -> None:
    """It comes back to the same x for every tile of columns."""
    import tvm

    work, plan = CASES["64 from units of 8, several tiles"].work(3, "tf32"), SCHEDULES["conv-mma-channels"]
    walker = next(choice for choice in plan.choices(work, A100) if choice["walk"])
    target = tvm.target.Target(A100.tvm_target_json(), host="llvm")
    with target:
        made = tvm.compile(plan.build(work, A100, walker).module, target=target, tir_pipeline="tirx")
    source = str(made.mod.imports[0].inspect_source())
    rounding = source.rindex("if (walked_ptr[0] == 0)", 0, source.index("= round_to_tf32("))
    assert source.index("async_wait_group", rounding) < source.index("= round_to_tf32(")


def test_weights_are_packed_as_the_numbers_that_are_multiplied() -> None:
    weight = torch.randn(64, 64, 1, 1)
    for name, fields in (("conv-wgmma", {}), ("conv-wgmma-channels", {"channels_in": 8})):
        work = conv("packed", in_channels=64, out_channels=64, **fields).work(1, "tf32")
        packed = SCHEDULES[name].pack(work, SCHEDULES[name].choices(work, H200)[0], {"weight": weight})[0]
        assert packed.dtype == torch.float32
        assert torch.equal(packed[:64], rounded(weight)[:, :, 0, 0])


@pytest.mark.parametrize(("schedule", "target"), [("conv-wgmma", H200), ("conv-mma", A100), ("conv-mma", H200)])
def test_every_tile_that_is_offered_holds_its_sums_its_residual_and_whole_rows(schedule: str, target: Target) -> None:
    plan = SCHEDULES[schedule]
    assert isinstance(plan, TensorCoreSchedule)
    for case in (*TENSOR_CORE, *TF32):
        work = case.work(8, "tf32")
        if plan.refuse(work, target) is None:
            p = problem_of(work)
            tiles = [plan.tile(p, choice, target) for choice in plan.choices(work, target)]
            assert tiles
            assert max(tile.warp_columns for tile in tiles) * 4 <= 512
            added = getattr(case.spec, "residual", "none") != "none"
            assert max(tile.bm * tile.bn // tile.threads for tile in tiles) * (1 + added) <= 192


@pytest.mark.parametrize(
    ("schedule", "target", "case"),
    [
        ("conv-wgmma", "h200", "1x1 of 32"),
        *(
            pytest.param(schedule, target, case.name, marks=pytest.mark.slow)
            for schedule, target, cases in (
                ("conv-wgmma", "h200", (*TENSOR_CORE, *TF32)),
                ("conv-mma", "a100", (*TENSOR_CORE, *TF32)),
                ("conv-mma-channels", "a100", (*CHANNELS, *TF32)),
            )
            for case in cases
            if SCHEDULES[schedule].refuse(case.work(1, "tf32"), TARGETS[target]) is None
        ),
    ],
)
def test_the_default_tile_compiles_without_spills(schedule: str, target: str, case: str) -> None:
    made = compiled(schedule, case, "tf32", target)
    assert (made.spill_bytes, made.stack_bytes) == (0, 0)
    assert "C75" not in made.log  # wgmma made to wait for itself
