"""Every convolution a CPU may be asked for is what torch computes, and nothing else is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from laudc.kernels.cpu_features import detect_cpu
from laudc.ops._lists import channels_of, make_channel_list, make_row_list, rows_of
from laudc.ops._pointwise import POINTWISE
from laudc.ops.base import Op, Spec
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.gather import Gather, GatherSpec
from laudc.ops.linear import Linear, LinearSpec
from laudc.schedules.base import Choice, Schedule, Work
from laudc.schedules.conv_cpu import SCHEDULE
from laudc.schedules.depthwise_cpu import SCHEDULE as DEPTHWISE
from laudc.targets import TARGETS
from laudc.types import TensorType

os.environ.setdefault("TVM_NUM_THREADS", "2")
CPU = detect_cpu()
TARGET = CPU.refine(TARGETS["cpu"])
RATES = (0.0, 0.1, 0.5, 1.0)
# float32 sums of some thousand products, taken in another order than torch takes them
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A spec at a map size; the operation it names has seeded weights."""

    spec: Spec
    size: tuple[int, int] = (13, 9)
    choice: tuple[tuple[str, int], ...] = ()
    schedule: Schedule = SCHEDULE

    @property
    def op(self) -> Op:
        op = (Conv2d if isinstance(self.spec, Conv2dSpec) else Linear).empty(self.spec)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in op.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return op


def conv(size: tuple[int, int] = (13, 9), choice: Mapping[str, int] | None = None, **fields: Any) -> Case:
    spec = Conv2dSpec(**fields)
    if spec.gathered:
        spec = replace(spec, map_size=size)
    return Case(spec=spec, size=size, choice=tuple((choice or {}).items()))


def depthwise(channels: int, kernel: int, stride: int = 1, **fields: Any) -> Case:
    pad = kernel // 2
    fields = {"padding": (pad,) * 4} | fields
    case = conv(
        in_channels=channels,
        out_channels=channels,
        groups=channels,
        kernel=(kernel,) * 2,
        stride=(stride,) * 2,
        **fields,
    )
    return replace(case, schedule=DEPTHWISE)


def stored(tensor: Tensor) -> Tensor:
    """As it lies in memory: maps channels-last."""
    return tensor.permute(0, 2, 3, 1).contiguous() if tensor.dim() == 4 else tensor.contiguous()


def type_of(tensor: Tensor) -> TensorType:
    return TensorType(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


@cache
def compiled(case: Case) -> tuple[Any, Work, Choice]:
    import tvm
    from tvm.target import Target

    operands = tuple(type_of(tensor) for tensor in make_operands(case, 1, 0.5))
    work = Work(spec=case.spec, operands=operands, results=case.spec.results(operands))
    assert case.schedule.refuse(work, TARGET) is None
    choice = {**case.schedule.choices(work, TARGET)[0], **dict(case.choice)}
    lowered = case.schedule.build(work, TARGET, choice)
    executable = tvm.compile(lowered.module, Target(CPU.tvm_target_json()), tir_pipeline=lowered.pipeline)
    return executable["kernel"], work, choice


def make_operands(case: Case, batch: int, rate: float) -> list[Tensor]:
    """Random operands as the reference takes them, lists at that rate."""
    spec = case.spec
    torch.manual_seed(batch)
    if isinstance(spec, LinearSpec):
        return [torch.randn(batch, spec.in_features)]
    assert isinstance(spec, Conv2dSpec)
    x = torch.randn(batch, spec.in_channels, *case.size)
    size = spec.map_size if spec.gathered else spec.out_size(*case.size)
    operands = [x]
    if spec.rows:
        operands.append(make_row_list(torch.rand(batch, *size) < rate))
    if spec.channels_in or spec.channels_out:
        width = spec.channels_in or spec.channels_out
        count = (spec.in_channels if spec.channels_in else spec.out_channels) // width
        channels = make_channel_list(torch.rand(batch, count) < rate)
        operands.append(channels)
        for b in range(batch if spec.channels_in else 0):
            x[b, len(channels_of(channels, b, width)) :] = torch.nan
    if spec.gain:
        operands.append(torch.randn(batch, 1, *size))
    if spec.residual != "none":
        operands.append(torch.randn(batch, spec.out_channels, *size))
    if spec.gathered:
        fields = ("kernel", "stride", "padding", "dilation")
        gather = Gather(GatherSpec(map_size=size, **{field: getattr(spec, field) for field in fields}))
        operands[0] = gather(x, operands[1])
    return operands


def run(case: Case, operands: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What the kernel makes in poisoned buffers, and what the reference makes, both as they lie in memory."""
    kernel, work, choice = compiled(case)
    with torch.no_grad():
        made = case.op(*operands)
    wanted = [stored(result) for result in (made if isinstance(made, tuple) else (made,))]
    outs = [torch.full_like(result, torch.nan) for result in wanted]
    names = list(case.spec.operands)
    passed = [stored(operand) for operand in operands]
    if isinstance(case.spec, Conv2dSpec) and case.spec.residual == "in_place":
        outs[0] = passed.pop(names.index("residual"))
    packed = case.schedule.pack(work, choice, dict(case.op.named_parameters()))
    scratch = [torch.full(type_.shape, torch.nan) for type_ in case.schedule.workspace(work, choice)]
    kernel(*passed, *packed, *scratch, *outs)
    return outs, wanted


def compare(case: Case, operands: list[Tensor]) -> None:
    outs, wanted = run(case, operands)
    spec = case.spec
    if isinstance(spec, Conv2dSpec) and spec.rows and not spec.compact:
        rows = operands[1]
        batch = outs[0].shape[0]
        off = torch.ones(outs[0].shape[:3].numel(), dtype=torch.bool)
        off[rows_of(rows, batch)] = False
        if spec.residual == "none":
            assert outs[0].flatten(0, 2)[off].isnan().all(), "a row that is off was written"
    if isinstance(spec, Conv2dSpec) and spec.channels_out:  # columns past the count are undefined
        outs[0][wanted[0].isnan()] = torch.nan
    for out, want in zip(outs, wanted, strict=True):
        scale = want[~want.isnan()].abs().max().item() if (~want.isnan()).any() else 1.0
        torch.testing.assert_close(out, want, rtol=0, atol=TOLERANCE * max(scale, 1e-3), equal_nan=True)


STATIC = {
    "1x1": conv(in_channels=64, out_channels=64, bias=True),
    "3x3": conv(in_channels=32, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1), bias=True, activation="relu"),
    "stem": conv(in_channels=3, out_channels=24, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3), bias=True),
}
MORE_STATIC = {
    "strided": conv(in_channels=48, out_channels=32, stride=(2, 2), bias=True),
    "lopsided padding": conv(in_channels=20, out_channels=33, kernel=(3, 2), stride=(2, 1), padding=(0, 1, 2, 0)),
    "dilated": conv(in_channels=17, out_channels=16, kernel=(3, 3), padding=(2, 2, 4, 4), dilation=(2, 4), bias=True),
    "many chunks": conv(in_channels=1400, out_channels=40, residual="dense", activation="relu6"),
    "a chunk for each tap": conv(in_channels=300, out_channels=16, kernel=(3, 3), padding=(1, 1, 1, 1), size=(5, 5)),
    "a chunk for each kernel row": conv(in_channels=100, out_channels=70, kernel=(3, 3), padding=(1, 1, 1, 1)),
    "5x1": conv(in_channels=16, out_channels=16, kernel=(5, 1), padding=(2, 2, 0, 0)),
    "one pixel": conv(in_channels=70, out_channels=20, size=(1, 1), bias=True, activation="sigmoid"),
    "few pixels": conv(in_channels=70, out_channels=40, size=(3, 2), residual="dense"),
    "no lane full": conv(in_channels=5, out_channels=3, kernel=(3, 3), padding=(1, 1, 1, 1), bias=True),
    "odd tiles": conv(in_channels=64, out_channels=100, stride=(2, 1), choice={"tile_rows": 5, "panel_tiles": 1}),
    "half vectors": conv(in_channels=30, out_channels=31, choice={"lanes": 8, "tile_rows": 6}),
    "quarter vectors": conv(in_channels=30, out_channels=31, choice={"lanes": 4, "tile_rows": 8, "tile_vectors": 3}),
    "columns in parts": conv(in_channels=64, out_channels=100, bias=True, choice={"column_parts": 3, "row_parts": 1}),
    "groups of 4": conv(in_channels=32, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1), groups=8, bias=True),
    "groups of 24": conv(in_channels=72, out_channels=72, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), groups=3),
    "wide groups": conv(in_channels=512, out_channels=160, kernel=(3, 3), padding=(1, 1, 1, 1), groups=2, size=(6, 5)),
    "groups of 24, activated in memory": conv(in_channels=48, out_channels=48, groups=2, activation="silu", bias=True),
    "multiplied depthwise": conv(in_channels=6, out_channels=12, kernel=(3, 3), padding=(1, 1, 1, 1), groups=6),
    "masker": conv(in_channels=64, out_channels=32, bias=True, activation="relu", masker=True),
    "masker, many chunks": conv(in_channels=1001, out_channels=33, masker=True, activation="silu", bias=True),
    "masker, 3x3": conv(in_channels=20, out_channels=16, kernel=(3, 3), padding=(1, 1, 1, 1), masker=True),
}
ROWS = {
    "rows": conv(in_channels=32, out_channels=32, rows=True, bias=True, activation="relu"),
    "rows, 3x3, in place": conv(
        in_channels=32, out_channels=40, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, residual="in_place",
        bias=True, activation="relu",
    ),
}  # fmt: skip
MORE_ROWS = {
    "in place": conv(in_channels=40, out_channels=64, rows=True, residual="in_place", activation="relu"),
    "in place, many chunks": conv(
        in_channels=200, out_channels=33, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), rows=True,
        residual="in_place", activation="silu", bias=True,
    ),
    "compact": conv(in_channels=32, out_channels=20, rows=True, compact=True, bias=True),
    "gathered": conv(in_channels=8, out_channels=20, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, gathered=True),
    "gathered, groups": conv(
        in_channels=24, out_channels=36, groups=6, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, gathered=True
    ),
    "gathered, wide groups": conv(
        in_channels=64, out_channels=64, groups=2, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, gathered=True,
        compact=True, bias=True, activation="relu",
    ),
    "gathered, depthwise": conv(
        in_channels=20, out_channels=20, groups=20, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, gathered=True
    ),
    "gathered, compact": conv(in_channels=32, out_channels=48, rows=True, gathered=True, compact=True, bias=True),
    "gathered, in place": conv(in_channels=32, out_channels=48, rows=True, gathered=True, residual="in_place"),
    "gathered, one pixel": conv(in_channels=32, out_channels=48, rows=True, gathered=True, size=(2, 1)),
    "groups": conv(in_channels=32, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1), groups=4, rows=True),
    "columns in parts": conv(
        in_channels=64, out_channels=100, rows=True, bias=True, choice={"column_parts": 2, "row_parts": 1}
    ),
}  # fmt: skip
CHANNELS = {
    "channels out": conv(in_channels=32, out_channels=64, channels_out=16, bias=True),
    "channels in and out": conv(
        in_channels=64, out_channels=64, kernel=(3, 3), padding=(1, 1, 1, 1), channels_in=16, channels_out=16,
        bias=True, activation="relu",
    ),
    "channels in": conv(in_channels=64, out_channels=33, channels_in=4, bias=True),
}  # fmt: skip
MORE_CHANNELS = {
    **{
        f"out, G={group}": conv(in_channels=20, out_channels=96, channels_out=group, bias=True, activation="relu")
        for group in (1, 2, 6, 8, 24, 32, 48, 96)
    },
    **{
        f"in and out, G={group}": conv(
            in_channels=48, out_channels=48, kernel=(3, 3), padding=(1, 1, 1, 1), channels_in=group, channels_out=group,
        )
        for group in (1, 3, 8, 16, 48)
    },
    **{
        f"in, G={group}": conv(in_channels=48, out_channels=20, channels_in=group, residual="dense", activation="relu")
        for group in (1, 3, 8, 16, 48)
    },
    "in, many chunks": conv(in_channels=1500, out_channels=32, channels_in=10, bias=True),
    "in, chunks of groups": conv(in_channels=24, out_channels=48, kernel=(1, 3), channels_in=6, choice={"chunk": 16}),
    "in and out, many chunks": conv(
        in_channels=320, out_channels=320, kernel=(3, 3), padding=(1, 1, 1, 1), channels_in=16, channels_out=16,
        size=(5, 5), bias=True,
    ),
    "odd widths": conv(in_channels=30, out_channels=50, channels_out=5, bias=True),
    "groups": conv(
        in_channels=32, out_channels=64, kernel=(3, 3), padding=(1, 1, 1, 1), groups=8, channels_in=4, channels_out=8,
        bias=True,
    ),
    "wide groups": conv(
        in_channels=120, out_channels=120, kernel=(3, 3), padding=(1, 1, 1, 1), groups=5, channels_in=24,
        channels_out=24,
    ),
    "merged groups": conv(
        in_channels=32, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1), groups=8, channels_in=16, channels_out=16
    ),
    "rows too": conv(in_channels=32, out_channels=64, channels_out=16, rows=True, bias=True),
    "rows too, in place": conv(in_channels=64, out_channels=40, channels_in=8, rows=True, residual="in_place"),
    "rows too, both": conv(
        in_channels=64, out_channels=64, kernel=(3, 3), padding=(1, 1, 1, 1), channels_in=8, channels_out=8, rows=True
    ),
}  # fmt: skip
DEPTHWISE_CASES = {
    "3x3": depthwise(40, 3, bias=True, activation="relu6"),
    "strided": depthwise(7, 3, stride=2, activation="silu"),
    "5x5": depthwise(33, 5, bias=True, residual="dense"),
    "7x7, strided": depthwise(16, 7, stride=2, bias=True),
    "lopsided, dilated": depthwise(20, 3, padding=(1, 3, 0, 4), dilation=(2, 2)),
    "few pixels": depthwise(24, 3, size=(2, 2), bias=True),
    "rows": depthwise(24, 3, rows=True, bias=True, activation="gelu"),
    "rows, in place": depthwise(37, 3, rows=True, residual="in_place", activation="relu"),
    "rows, strided": depthwise(16, 5, stride=2, rows=True),
    "channels": depthwise(48, 3, channels_in=16, channels_out=16, bias=True),
    "single channels": depthwise(20, 5, channels_in=1, channels_out=1, bias=True, activation="hardswish"),
    "rows and channels": depthwise(24, 3, channels_in=6, channels_out=6, rows=True),
    "runs of 8": depthwise(24, 3, rows=True, choice={"run": 8}),
}
LINEAR = {
    "linear": Case(spec=LinearSpec(in_features=100, out_features=37, bias=True)),
    "wide linear": Case(spec=LinearSpec(in_features=2048, out_features=1000, bias=True, activation="relu")),
}


def check(case: Case) -> None:
    spec = case.spec
    sparse = isinstance(spec, Conv2dSpec) and (spec.rows or spec.channels_in or spec.channels_out)
    for batch in (1, 3):
        for rate in RATES if sparse else (1.0,):
            compare(case, make_operands(case, batch, rate))


@pytest.mark.parametrize("case", [*STATIC.values(), LINEAR["linear"]], ids=[*STATIC, "linear"])
def test_a_static_convolution_is_what_torch_computes(case: Case) -> None:
    check(case)


def test_a_buffer_may_begin_anywhere() -> None:
    case = STATIC["3x3"]
    kernel, work, choice = compiled(case)
    x, packed = make_operands(case, 1, 1.0)[0], case.schedule.pack(work, choice, dict(case.op.named_parameters()))
    aligned, shifted = torch.empty(1, 13, 9, 32), torch.empty(13 * 9 * 32 + 1)[1:].view(1, 13, 9, 32)
    kernel(stored(x), *packed, aligned)
    kernel(torch.cat([torch.zeros(1), stored(x).flatten()])[1:].view(1, 13, 9, 32), *packed, shifted)
    assert torch.equal(aligned, shifted)


@pytest.mark.parametrize("case", ROWS.values(), ids=ROWS)
def test_listed_rows_are_computed_and_the_others_left_alone(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", CHANNELS.values(), ids=CHANNELS)
def test_listed_channels_are_computed_for_each_sample(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*MORE_STATIC.values(), LINEAR["wide linear"]], ids=[*MORE_STATIC, "wide linear"])
def test_any_static_convolution_is_what_torch_computes(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE_ROWS.values(), ids=MORE_ROWS)
def test_rows_work_with_everything_else(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE_CHANNELS.values(), ids=MORE_CHANNELS)
def test_channels_work_with_everything_else(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", DEPTHWISE_CASES.values(), ids=DEPTHWISE_CASES)
def test_a_depthwise_convolution_works_with_everything_else(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("activation", POINTWISE)
def test_every_activation_ends_a_convolution(activation: str) -> None:
    check(conv(in_channels=24, out_channels=40, bias=True, activation=activation))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rows": True, "residual": "dense"}, "in place only"),
        ({"residual": "in_place"}, "only listed rows"),
        ({"gathered": True}, "without a row list"),
        ({"masker": True, "groups": 2}, "plain dense"),
        ({"groups": 2, "channels_out": 8}, "whole groups"),
        ({"activation": "mish"}, "'mish'"),
        ({"prologue": "mish"}, "'mish'"),
        ({"prologue": "none"}, "'none'"),
        ({"prologue": "relu", "gathered": True, "rows": True}, "outside the image"),
        ({"prologue": "relu", "channels_in": 8}, "dropped channels"),
        ({"prologue": "relu", "masker": True}, "as it is"),
        ({"gain": True, "masker": True}, "plain dense"),
    ],
)
def test_what_it_will_not_do_it_says(fields: dict[str, Any], reason: str) -> None:
    spec = Conv2dSpec(in_channels=16, out_channels=16, **fields)
    x = TensorType(shape=(1, 16, 4, 4), dtype="float32")
    said = SCHEDULE.refuse(Work(spec=spec, operands=(x,), results=(x,)), TARGET)
    assert said is not None
    assert reason in said


def test_depthwise_leaves_other_groups_alone() -> None:
    spec = Conv2dSpec(in_channels=16, out_channels=16, groups=8)
    x = TensorType(shape=(1, 16, 4, 4), dtype="float32")
    assert DEPTHWISE.refuse(Work(spec=spec, operands=(x,), results=(x,)), TARGET) is not None
    assert DEPTHWISE.rank < SCHEDULE.rank


def test_depthwise_leaves_gains_to_others_and_prologues_of_dropped_channels_to_none() -> None:
    x = TensorType(shape=(1, 16, 4, 4), dtype="float32")
    for fields in ({"gain": True}, {"prologue": "relu", "channels_in": 1, "channels_out": 1}):
        spec = Conv2dSpec(in_channels=16, out_channels=16, groups=16, **fields)  # type: ignore[arg-type]
        assert DEPTHWISE.refuse(Work(spec=spec, operands=(x,), results=(x,)), TARGET) is not None


def test_float16_is_left_to_others() -> None:
    x = TensorType(shape=(1, 16, 4, 4), dtype="float16")
    work = Work(spec=Conv2dSpec(in_channels=16, out_channels=16), operands=(x,), results=(x,))
    assert "float32" in (SCHEDULE.refuse(work, TARGET) or "")
