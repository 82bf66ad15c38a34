"""Stems: what their kernels refuse, how their weights lie, that no registers spill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from laudc.kernels.build import build
from laudc.kernels.kernel import Kernel
from laudc.ops.conv_max_pool import ConvMaxPool, ConvMaxPoolSpec
from laudc.schedules import SCHEDULES, Work
from laudc.targets import TARGETS
from laudc.types import TensorType

SCHEDULE = SCHEDULES["conv-max-pool-wgmma"]
SPEC = ConvMaxPoolSpec(
    in_channels=8,
    out_channels=128,
    kernel=(7, 4),
    stride=(2, 1),
    bias=True,
    activation="relu",
    pool_kernel=(3, 3),
    pool_stride=(2, 2),
    pool_padding=(1, 1),
)
SIZE = (38, 27)


def work(spec: ConvMaxPoolSpec = SPEC, *, size: tuple[int, int] = SIZE, dtype: str = "float16") -> Work:
    operands = (TensorType(shape=(2, spec.in_channels, *size), dtype=dtype),)
    return Work(spec=spec, operands=operands, results=spec.results(operands))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"in_channels": 16}, "8 channels a pixel"),
        ({"out_channels": 32}, "64 channels at a time"),
        ({"kernel": (7, 3)}, "by twos"),
        ({"pool_padding": (0, 0)}, "a border of one"),
        ({"activation": "tan"}, "pointwise"),
    ],
)
def test_other_stems_are_refused(changes: dict[str, Any], reason: str) -> None:
    assert reason in str(SCHEDULE.refuse(work(replace(SPEC, **changes)), TARGETS["h200"]))


@pytest.mark.parametrize(
    ("target", "dtype", "size", "reason"),
    [
        ("a100", "float16", SIZE, "sm_90a"),
        ("h200", "float32", SIZE, "float16"),
        ("h200", "float16", (38, 26), "at most 256, not 23"),
        ("h200", "float16", (38, 267), "at most 256, not 264"),
    ],
)
def test_other_devices_types_and_sizes_are_refused(target: str, dtype: str, size: tuple[int, int], reason: str) -> None:
    assert reason in str(SCHEDULE.refuse(work(size=size, dtype=dtype), TARGETS[target]))


def test_a_core_matrix_is_eight_channels_of_one_tap() -> None:
    weight = torch.randn(SPEC.weights()["weight"])
    packed, bias = SCHEDULE.pack(work(), {"rows": 2}, {"weight": weight})
    assert packed.shape == (2, 28 * 64 * 8)
    assert bias.tolist() == [0.0] * 128
    panel, tap, group = 1, 9, 5
    core = packed[panel].view(28, 8, 8, 8)[tap, group]
    first = panel * 64 + group * 8
    assert torch.equal(core, weight[first : first + 8, :, tap // 4, tap % 4].half())


def test_it_is_the_convolution_and_the_pooling() -> None:
    op = ConvMaxPool.empty(SPEC)
    assert isinstance(op, ConvMaxPool)
    with torch.no_grad():
        for parameter in op.parameters():
            torch.nn.init.normal_(parameter)
        x = torch.randn(2, 8, *SIZE)
        expected = F.max_pool2d(F.relu(F.conv2d(x, op.weight, op.bias, (2, 1))), 3, 2, 1)
        assert torch.equal(op(x), expected)
    assert work().results[0].shape == expected.shape


@pytest.mark.parametrize("rows", [choice["rows"] for choice in SCHEDULE.choices(work(), TARGETS["h200"])])
def test_no_register_spills(rows: int) -> None:
    large = work(size=(230, 115))
    kernel = Kernel(schedule="conv-max-pool-wgmma", work=large, batch=2, choice={"rows": rows}, target=TARGETS["h200"])
    assert build(kernel).spill_bytes == 0
