"""scripts/triton_compare.py: its data, its reference, its table; Triton's own side needs a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from laudc.ops._lists import rows_of


@pytest.fixture
def compare(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("triton_compare")


def test_every_layer_has_a_kernel_for_tensor_cores(compare: ModuleType) -> None:
    assert len(compare.LAYERS) == 11
    kernels = [layer.chosen("h200", 0.5) for layer in compare.LAYERS]
    assert {kernel.schedule for kernel in kernels} == {"conv-wgmma"}


@pytest.mark.parametrize("residual", [False, True])
def test_what_is_right_is_told_from_what_is_not(compare: ModuleType, residual: bool) -> None:
    layer = compare.Layer("a layer", 3, 8, 8, 7, 4, residual)
    data = compare.Data(layer, batch=2, device="cpu", dtype=torch.float32)
    pixels, expected = data.pixels(0.5), data.expected()
    assert 0 < int(pixels.sum()) < pixels.numel()

    def right(rows: Tensor) -> None:
        data.y.view(-1, 8)[rows_of(rows, 2)] = expected.view(-1, 8)[rows_of(rows, 2)]

    assert data.error(right, pixels, expected) == 0
    assert data.error(lambda rows: data.y.copy_(expected), pixels, expected) == math.inf
    assert data.error(lambda rows: None, pixels, expected) > 0.1


def test_the_table_gives_geometric_means(compare: ModuleType) -> None:
    def at(ours: float, triton: float) -> dict[str, object]:
        times = {"laudc": ours, "laudc, best tile": ours / 2, "Triton": triton, "cuDNN, dense": 1.0}
        return {"samples_ms": {name: [ms] * 3 for name, ms in times.items()}}

    layers = [
        {"layer": name, "errors": {"laudc": 1e-4, "Triton": 2e-4}, "rates": {"1": at(1.0, ratio), "0.5": at(1.0, 1.0)}}
        for name, ratio in (("a", 1.0), ("b", 4.0))
    ]
    text = compare.table({"device": "a GPU", "batch": 128, "layers": layers})
    assert "| b | 1 | 1000.0 | 500.0 | 4000.0 | 1000.0 | 4.00 |" in text
    assert "| 1 | 2.000 | 4.000 | 1.00 |" in text
    assert f"Over all rates: {math.sqrt(2):.3f}." in text
