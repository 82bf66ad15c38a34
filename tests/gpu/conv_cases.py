"""Convolutions and linear layers that between them use every field of the spec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.schedules.base import Work
from laudc.types import TensorType

AROUND = (1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A spec at the size of the map it reads."""

    name: str
    spec: Conv2dSpec | LinearSpec
    size: tuple[int, int] = (7, 9)

    def work(self, batch: int, dtype: str) -> Work:
        operands = tuple(self._operand(name, batch, dtype) for name in self.spec.operands)
        return Work(spec=self.spec, operands=operands, results=self.spec.results(operands))

    @property
    def out_size(self) -> tuple[int, int]:
        assert isinstance(self.spec, Conv2dSpec)
        return self.spec.map_size if self.spec.gathered else self.spec.out_size(*self.size)

    @property
    def decisions(self) -> int:
        assert isinstance(self.spec, Conv2dSpec)
        spec = self.spec
        inner, unit = (
            (spec.in_channels, spec.channels_in) if spec.channels_in else (spec.out_channels, spec.channels_out)
        )
        return inner // unit

    def _operand(self, name: str, batch: int, dtype: str) -> TensorType:
        if isinstance(self.spec, LinearSpec):
            return TensorType(shape=(batch, self.spec.in_features), dtype=dtype)
        spec, (height, width) = self.spec, self.out_size
        rows = batch * height * width
        match name:
            case "x" if spec.gathered:
                return TensorType(shape=(rows, spec.in_channels * spec.taps), dtype=dtype)
            case "x":
                return TensorType(shape=(batch, spec.in_channels, *self.size), dtype=dtype)
            case "rows" if spec.samples:
                return TensorType(shape=(batch, 1, 1), dtype="float32")
            case "sums":
                return TensorType(shape=(batch, spec.out_channels), dtype="int64")
            case "rows":
                return TensorType(shape=(batch + 1 + rows,), dtype="int32")
            case "shortcut":
                down, right = spec.shortcut_stride
                return TensorType(shape=(batch, spec.shortcut, height * down - down + 1, width * right), dtype=dtype)
            case "gain":
                return TensorType(shape=(batch, 1, height, width), dtype="float32")
            case "channels":
                return TensorType(shape=(batch, 1 + self.decisions), dtype="int32")
            case _:
                return TensorType(shape=(batch, spec.out_channels, height, width), dtype=dtype)


def conv(name: str, *, size: tuple[int, int] = (7, 9), **fields: Any) -> Case:
    spec = Conv2dSpec(**fields)
    return Case(name=name, spec=replace(spec, map_size=spec.out_size(*size)) if spec.gathered else spec, size=size)


THREE = {"kernel": (3, 3), "padding": AROUND}
LISTED = {"rows": True, "bias": True, "activation": "relu"}
WHOLE = {**LISTED, "samples": True}
HALVED = {"shortcut_stride": (2, 2)}

GENERAL = (
    conv("1x1", in_channels=16, out_channels=24, bias=True),
    *(
        conv(f"1x1 {name}", in_channels=8, out_channels=16, bias=True, activation=name)
        for name in ("relu", "relu6", "silu", "gelu", "hardswish", "sigmoid")
    ),
    conv("3x3", in_channels=32, out_channels=40, bias=True, activation="relu", **THREE),
    conv("3x3 stride 2", in_channels=32, out_channels=70, stride=(2, 2), bias=True, size=(9, 8), **THREE),
    conv(
        "7x7 of 3 channels",
        in_channels=3,
        out_channels=20,
        kernel=(7, 7),
        stride=(2, 2),
        padding=(3, 3, 3, 3),
        bias=True,
        size=(19, 23),
    ),
    conv(
        "5x3 asymmetric, dilated",
        in_channels=6,
        out_channels=5,
        kernel=(5, 3),
        stride=(1, 2),
        padding=(3, 1, 0, 2),
        dilation=(2, 1),
        size=(11, 12),
    ),
    conv("5 channels", in_channels=5, out_channels=47, bias=True, **THREE),
    conv("wide groups", in_channels=64, out_channels=96, groups=2, bias=True, **THREE),
    conv("thin groups", in_channels=16, out_channels=32, groups=4, bias=True, activation="relu6", **THREE),
    conv("odd groups", in_channels=6, out_channels=9, groups=3, bias=True, **THREE),
    conv("depthwise", in_channels=40, out_channels=40, groups=40, bias=True, activation="hardswish", **THREE),
    conv(
        "depthwise 5x5 stride 2",
        in_channels=10,
        out_channels=10,
        kernel=(5, 5),
        stride=(2, 2),
        padding=(1, 2, 1, 2),
        groups=10,
    ),
    conv("two columns a channel", in_channels=6, out_channels=12, groups=6, bias=True, **THREE),
    conv("residual", in_channels=16, out_channels=72, bias=True, activation="relu", residual="dense"),
    conv(
        "depthwise residual", in_channels=16, out_channels=16, groups=16, activation="relu", residual="dense", **THREE
    ),
    conv("rows", in_channels=16, out_channels=72, **LISTED, **THREE),
    conv("rows stride 2", in_channels=16, out_channels=16, stride=(2, 2), size=(9, 11), **LISTED, **THREE),
    conv("rows in place", in_channels=16, out_channels=72, residual="in_place", **LISTED),
    conv("depthwise rows in place", in_channels=12, out_channels=12, groups=12, residual="in_place", **LISTED, **THREE),
    conv("depthwise rows compact", in_channels=12, out_channels=12, groups=12, compact=True, **LISTED, **THREE),
    conv("rows compact", in_channels=16, out_channels=20, compact=True, **LISTED, **THREE),
    conv("gathered", in_channels=16, out_channels=20, gathered=True, **LISTED, **THREE),
    conv("gathered compact", in_channels=3, out_channels=20, gathered=True, compact=True, **LISTED, **THREE),
    conv("gathered in place", in_channels=8, out_channels=20, gathered=True, residual="in_place", **LISTED),
    conv("wide groups gathered", in_channels=64, out_channels=96, groups=2, gathered=True, **LISTED, **THREE),
    conv("odd groups gathered", in_channels=57, out_channels=51, groups=3, gathered=True, **LISTED, **THREE),
    conv(
        "thin groups gathered compact",
        in_channels=16,
        out_channels=32,
        groups=4,
        stride=(2, 2),
        gathered=True,
        compact=True,
        size=(9, 11),
        **LISTED,
        **THREE,
    ),
    conv(
        "depthwise gathered in place",
        in_channels=12,
        out_channels=12,
        groups=12,
        gathered=True,
        residual="in_place",
        **LISTED,
        **THREE,
    ),
    *(
        conv(f"to units of {unit}", in_channels=20, out_channels=48, bias=True, channels_out=unit, activation="relu")
        for unit in (1, 2, 3, 8, 16)
    ),
    *(
        conv(f"from units of {unit}", in_channels=48, out_channels=20, bias=True, channels_in=unit)
        for unit in (1, 2, 3, 8, 16)
    ),
    *(
        conv(
            f"between units of {unit}",
            in_channels=48,
            out_channels=48,
            bias=True,
            channels_in=unit,
            channels_out=unit,
            activation="relu",
            **THREE,
        )
        for unit in (1, 2, 3, 8, 16)
    ),
    conv(
        "between units, stride 2",
        in_channels=48,
        out_channels=48,
        stride=(2, 2),
        channels_in=4,
        channels_out=4,
        size=(9, 9),
        **THREE,
    ),
    conv("from units, residual", in_channels=48, out_channels=80, channels_in=4, activation="relu", residual="dense"),
    conv("from units, rows in place", in_channels=48, out_channels=80, channels_in=4, residual="in_place", **LISTED),
    conv(
        "between units, rows compact",
        in_channels=48,
        out_channels=48,
        channels_in=4,
        channels_out=4,
        compact=True,
        **LISTED,
        **THREE,
    ),
    conv(
        "depthwise between units",
        in_channels=24,
        out_channels=24,
        groups=24,
        channels_in=4,
        channels_out=4,
        bias=True,
        **THREE,
    ),
    conv(
        "depthwise between units, rows",
        in_channels=24,
        out_channels=24,
        groups=24,
        channels_in=3,
        channels_out=3,
        **LISTED,
        **THREE,
    ),
    conv(
        "thin groups between units",
        in_channels=32,
        out_channels=64,
        groups=8,
        channels_in=8,
        channels_out=16,
        bias=True,
        **THREE,
    ),
    conv(
        "wide groups between units",
        in_channels=96,
        out_channels=96,
        groups=4,
        channels_in=24,
        channels_out=24,
        bias=True,
        **THREE,
    ),
    conv("masker", in_channels=20, out_channels=64, bias=True, masker=True, activation="relu"),
    conv("masker 3x3", in_channels=16, out_channels=30, masker=True, activation="relu", **THREE),
    conv("prologue 1x1", in_channels=16, out_channels=24, bias=True, prologue="relu"),
    conv("prologue 3x3", in_channels=32, out_channels=40, prologue="silu", activation="relu", **THREE),
    conv("prologue of 5 channels", in_channels=5, out_channels=17, prologue="affine", stride=(2, 2), **THREE),
    conv("prologue, wide groups", in_channels=64, out_channels=96, groups=2, prologue="relu", bias=True, **THREE),
    conv("prologue, thin groups", in_channels=16, out_channels=32, groups=4, prologue="relu", **THREE),
    conv("prologue, depthwise", in_channels=12, out_channels=12, groups=12, prologue="relu6", **LISTED, **THREE),
    conv("prologue to units of 3", in_channels=20, out_channels=48, channels_out=3, prologue="relu", **LISTED, **THREE),
    conv("prologue, rows compact", in_channels=16, out_channels=20, compact=True, prologue="relu", **LISTED, **THREE),
    conv("gain", in_channels=16, out_channels=24, bias=True, gain=True, residual="dense", activation="relu"),
    conv("gain, rows in place", in_channels=16, out_channels=72, gain=True, residual="in_place", **LISTED, **THREE),
    conv("gain, rows compact", in_channels=16, out_channels=20, gain=True, compact=True, **LISTED),
    conv("gain, gathered compact", in_channels=8, out_channels=20, gain=True, gathered=True, compact=True, **LISTED),
    conv("gain between units of 4", in_channels=48, out_channels=48, gain=True, channels_in=4, channels_out=4, **THREE),
    conv("gain, depthwise", in_channels=12, out_channels=12, groups=12, gain=True, compact=True, **LISTED, **THREE),
    conv(
        "prologue and gain, in place",
        in_channels=20,
        out_channels=33,
        prologue="relu",
        gain=True,
        residual="in_place",
        **LISTED,
        **THREE,
    ),
    Case(name="linear", spec=LinearSpec(in_features=40, out_features=30, bias=True, activation="gelu")),
    Case(name="odd linear", spec=LinearSpec(in_features=37, out_features=10)),
)
"""For every chip."""

TENSOR_CORE = (
    conv("1x1 of 64", in_channels=64, out_channels=128, bias=True, activation="relu"),
    conv("3x3 of 128", in_channels=128, out_channels=64, bias=True, activation="silu", **THREE),
    conv(
        "3x3 of 64 stride 2",
        in_channels=64,
        out_channels=72,
        stride=(2, 2),
        bias=True,
        activation="relu6",
        size=(9, 8),
        **THREE,
    ),
    conv("narrow 8x4", in_channels=8, out_channels=72, kernel=(8, 4), stride=(2, 1), bias=True, size=(30, 17)),
    conv("narrow 4x2", in_channels=8, out_channels=64, kernel=(4, 2), stride=(2, 1), activation="relu", size=(20, 9)),
    conv("narrow 2x4 rows", in_channels=8, out_channels=16, kernel=(2, 4), size=(9, 12), **LISTED),
    conv("1x1 of 64 stride 2", in_channels=64, out_channels=8, stride=(2, 2), size=(9, 8)),
    conv(
        "4x5 asymmetric, dilated",
        in_channels=64,
        out_channels=136,
        kernel=(4, 5),
        stride=(1, 2),
        padding=(3, 1, 0, 2),
        dilation=(2, 1),
        size=(11, 12),
    ),
    conv("32 taps", in_channels=64, out_channels=64, kernel=(4, 8), padding=(1, 2, 3, 4), size=(8, 9)),
    conv("2x2 stride 2", in_channels=64, out_channels=64, kernel=(2, 2), stride=(2, 2), size=(9, 9)),
    conv("1x1 residual", in_channels=128, out_channels=200, bias=True, activation="relu", residual="dense"),
    conv("1x1 of 320 residual", in_channels=320, out_channels=64, bias=True, activation="silu", residual="dense"),
    conv("1x1 shortcut", in_channels=64, out_channels=136, bias=True, activation="relu", shortcut=128),
    conv("1x1 shortcut stride 2, sums", in_channels=128, out_channels=64, shortcut=192, sums=True, **HALVED),
    conv("3x3 shortcut stride 2", in_channels=64, out_channels=264, bias=True, shortcut=64, **HALVED, **THREE),
    conv("3x3 rows", in_channels=64, out_channels=72, **LISTED, **THREE),
    conv("3x3 rows stride 2", in_channels=64, out_channels=64, stride=(2, 2), size=(19, 15), **LISTED, **THREE),
    conv("1x1 rows in place", in_channels=64, out_channels=264, residual="in_place", **LISTED),
    conv("3x3 rows in place", in_channels=64, out_channels=64, residual="in_place", **LISTED, **THREE),
    conv("3x3 rows compact", in_channels=64, out_channels=24, compact=True, **LISTED, **THREE),
    conv("3x3 gathered", in_channels=64, out_channels=64, gathered=True, **LISTED, **THREE),
    conv("3x3 gathered compact", in_channels=64, out_channels=64, gathered=True, compact=True, **LISTED, **THREE),
    conv("1x1 gathered in place", in_channels=64, out_channels=40, gathered=True, residual="in_place", **LISTED),
    conv("masker of 64", in_channels=64, out_channels=64, bias=True, masker=True, activation="relu"),
    conv("masker of 256", in_channels=256, out_channels=136, masker=True, activation="relu"),
    conv("masker 3x3 of 64", in_channels=64, out_channels=264, bias=True, masker=True, **THREE),
    conv("prologue of 64", in_channels=64, out_channels=128, bias=True, prologue="relu", activation="relu"),
    conv("prologue of 320, stride 2", in_channels=320, out_channels=72, prologue="affine", stride=(2, 2), size=(9, 8)),
    conv("prologue 3x3 of 128", in_channels=128, out_channels=64, prologue="silu", **THREE),
    conv("prologue 3x3 of 64, rows", in_channels=64, out_channels=72, prologue="relu", **LISTED, **THREE),
    conv("prologue of 256, rows", in_channels=256, out_channels=264, prologue="relu", **LISTED),
    conv("prologue of 64, rows compact", in_channels=64, out_channels=40, compact=True, prologue="relu", **LISTED),
    conv("gain of 64", in_channels=64, out_channels=72, bias=True, gain=True, activation="relu", **THREE),
    conv("gain of 64, residual", in_channels=64, out_channels=264, gain=True, residual="dense", activation="relu"),
    conv("gain of 64, in place", in_channels=64, out_channels=264, gain=True, residual="in_place", **LISTED),
    conv("gain of 64, rows compact", in_channels=64, out_channels=24, gain=True, compact=True, **LISTED, **THREE),
    conv("gain of 64, gathered", in_channels=64, out_channels=64, gain=True, gathered=True, **LISTED, **THREE),
    conv(
        "prologue and gain of 128, in place",
        in_channels=128,
        out_channels=136,
        prologue="relu",
        gain=True,
        residual="in_place",
        **LISTED,
        **THREE,
    ),
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
    Case(name="wide linear", spec=LinearSpec(in_features=192, out_features=1000, bias=True, activation="gelu")),
)
"""What tensor-core schedules take, in float16."""

CHANNELS = (
    conv("64 to units of 16", in_channels=64, out_channels=128, bias=True, channels_out=16, activation="relu"),
    conv("72 to units of 3", in_channels=72, out_channels=96, bias=True, channels_out=3, activation="silu", **THREE),
    conv("8 to units of 1", in_channels=8, out_channels=40, channels_out=1, kernel=(2, 2), size=(15, 18)),
    conv("1024 to units of 32", in_channels=1024, out_channels=512, bias=True, channels_out=32, activation="relu"),
    conv("64 to units of 24, stride 2", in_channels=64, out_channels=72, stride=(2, 2), channels_out=24, size=(9, 8)),
    conv("128 from units of 8", in_channels=128, out_channels=72, bias=True, channels_in=8, activation="gelu"),
    conv("72 from units of 24", in_channels=72, out_channels=264, channels_in=24, stride=(2, 1), **THREE),
    conv(
        "256 from units of 16, residual",
        in_channels=256,
        out_channels=520,
        bias=True,
        channels_in=16,
        residual="dense",
        activation="relu",
    ),
    *(
        conv(
            f"{deep} from units of 8, several tiles",
            in_channels=deep,
            out_channels=512,
            bias=True,
            channels_in=8,
            residual="dense",
            activation="relu",
        )
        for deep in (64, 384)
    ),
    conv("128 from units of 32, several tiles", in_channels=128, out_channels=256, channels_in=32, **THREE),
    conv(
        "96 from units of 16, in place", in_channels=96, out_channels=200, channels_in=16, residual="in_place", **LISTED
    ),
    *(
        conv(
            f"256 between units of {unit}",
            in_channels=256,
            out_channels=256,
            bias=True,
            channels_in=unit,
            channels_out=unit,
            activation="relu",
            **THREE,
        )
        for unit in (8, 16, 64)
    ),
    conv(
        "64 between units of 16, stride 2",
        in_channels=64,
        out_channels=64,
        stride=(2, 2),
        channels_in=16,
        channels_out=16,
        size=(19, 15),
        **THREE,
    ),
    conv(
        "24 between units of 8, dilated",
        in_channels=24,
        out_channels=24,
        kernel=(5, 6),
        padding=(3, 1, 0, 2),
        dilation=(2, 1),
        channels_in=8,
        channels_out=8,
        size=(13, 12),
    ),
    conv("sums of 264 from units of 24", in_channels=72, out_channels=264, channels_in=24, sums=True, **THREE),
    *(
        conv(
            f"sums of {deep * 4} from units of 16, residual, {high}x{high}",
            in_channels=deep,
            out_channels=deep * 4,
            bias=True,
            channels_in=16,
            residual="dense",
            activation="relu",
            sums=True,
            size=(high, high),
        )
        for deep, high in ((64, 56), (128, 28), (256, 14), (512, 7), (64, 2))
    ),
    conv("64 to units of 16, rows", in_channels=64, out_channels=64, channels_out=16, size=(19, 15), **LISTED),
    conv(
        "64 between units of 16, rows compact",
        in_channels=64,
        out_channels=64,
        channels_in=16,
        channels_out=16,
        compact=True,
        **LISTED,
        **THREE,
    ),
)
"""What tensor-core schedules with channel lists take, in float16."""


def _resnet50() -> tuple[Case, ...]:
    made: dict[Conv2dSpec | LinearSpec, Case] = {}

    def add(name: str, size: int, **fields: Any) -> None:
        case = conv(name, size=(size, size), bias=True, **fields)
        made.setdefault(case.spec, case)

    add(
        "stem",
        224,
        in_channels=3,
        out_channels=64,
        kernel=(7, 7),
        stride=(2, 2),
        padding=(3, 3, 3, 3),
        activation="relu",
    )
    for stage, (size, inner) in enumerate(((56, 64), (28, 128), (14, 256), (7, 512)), 1):
        outer, came = inner * 4, 64 if stage == 1 else inner * 2
        stride, before = ((1, 1), size) if stage == 1 else ((2, 2), size * 2)
        add(f"{stage} first", before, in_channels=came, out_channels=inner, activation="relu")
        add(
            f"{stage} second, strided",
            before,
            in_channels=inner,
            out_channels=inner,
            stride=stride,
            activation="relu",
            **THREE,
        )
        add(f"{stage} third, new", size, in_channels=inner, out_channels=outer, residual="dense", activation="relu")
        add(f"{stage} projection", before, in_channels=came, out_channels=outer, stride=stride)
        add(f"{stage} conv1", size, in_channels=outer, out_channels=inner, rows=True, activation="relu")
        add(f"{stage} conv2", size, in_channels=inner, out_channels=inner, rows=True, activation="relu", **THREE)
        add(
            f"{stage} conv3",
            size,
            in_channels=inner,
            out_channels=outer,
            rows=True,
            residual="in_place",
            activation="relu",
        )
    head = LinearSpec(in_features=2048, out_features=1000, bias=True)
    made[head] = Case(name="head", spec=head)
    return tuple(made.values())


RESNET50 = _resnet50()
"""The different kernels of a spatially dynamic ResNet-50, its first blocks of a stage static."""
