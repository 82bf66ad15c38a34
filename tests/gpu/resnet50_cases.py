"""The convolutions of a real network."""

from __future__ import annotations

from typing import Any

from conv_case import THREE, Case, conv

from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.linear import LinearSpec


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
