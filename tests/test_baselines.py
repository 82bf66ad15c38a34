"""The static network by torch: every way gives the same numbers, and is named for what it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laudc.baselines import NORMS_APART, baselines
from laudc.convert import convert
from laudc.gpu_memory import measured_bytes
from laudc.testing import tiny


class Plain(nn.Module):
    """A residual block without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.again(torch.relu(self.conv(x))))
        return x.mean((2, 3))


def test_every_way_computes_the_static_network() -> None:
    module, x = tiny().eval(), torch.randn(2, 3, 32, 32)
    program = convert(module, x, paradigm="layer").program
    made = baselines(program, x, dtype=torch.float32, compiled=False)
    ways = ["torch", "torch, channels_last"]
    assert list(made) == [*ways, *(way + NORMS_APART for way in ways)]
    with torch.inference_mode():
        for make in made.values():
            torch.testing.assert_close(make()(x), module(x), rtol=1e-4, atol=1e-5)


def test_norms_are_not_set_apart_where_there_are_none() -> None:
    x = torch.randn(1, 3, 16, 16)
    program = convert(Plain().eval(), x, paradigm="layer").program
    made = baselines(program, x, dtype=torch.float32, compiled=True)
    assert list(made) == ["torch", "torch, channels_last", "torch.compile", "torch.compile, max-autotune"]


def test_a_cpu_has_no_gpu_memory_to_measure() -> None:
    calls: list[str] = []
    network, peak = measured_bytes(lambda: "a network", calls.append, device="cpu")
    assert (network, peak, calls) == ("a network", None, ["a network"])


def test_max_autotune_gets_the_norms_folded_only() -> None:
    x = torch.randn(1, 3, 32, 32)
    program = convert(tiny().eval(), x, paradigm="layer").program
    made = baselines(program, x, dtype=torch.float32, compiled=True)
    assert [name for name in made if "max-autotune" in name] == ["torch.compile, max-autotune"]
    assert "torch.compile" + NORMS_APART in made
