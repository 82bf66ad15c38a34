"""A network reduced to what its planning needs prices every block as the whole network does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from laudc.convert import read_blocks
from laudc.latency._frame import Frame, frame_of, weightless
from laudc.latency._time import Time
from laudc.latency.constants import defaults
from laudc.latency.planner import Search, converted, price
from laudc.paradigms import PARADIGMS
from laudc.plan import Decision, Plan
from laudc.program import Program, program_for
from laudc.static_network import static_program
from laudc.targets import TARGETS
from laudc.testing import Residual, conv_norm, random_images


class TwoStages(nn.Module):
    """Five basic blocks and, after a projection, three bottlenecks, the last one of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16, 3, stride=2)
        self.first = nn.Sequential(*(Residual(conv_norm(16, 16, 3), conv_norm(16, 16, 3)) for _ in range(5)))
        self.second = nn.Sequential(
            Residual(
                conv_norm(16, 8), conv_norm(8, 8, 3, stride=2), conv_norm(8, 32),
                shortcut=conv_norm(16, 32, stride=2),
            ),
            *(Residual(conv_norm(32, w), conv_norm(w, w, 3), conv_norm(w, 32)) for w in (8, 8, 8, 16)),
        )  # fmt: skip
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(self.stem(x))).mean((2, 3)))
        return out


def program_of(make: Callable[[], nn.Module], batch: int) -> Program:
    return program_for(read_blocks(make().eval(), torch.zeros(1, 3, 64, 64)), (batch, 3, 64, 64))


def priced(program: Program, paradigm: str, target: str, granularity: int | None) -> dict[str, Time]:
    device = TARGETS[target]
    search = Search(target=device, calibration=defaults(device), batch=2, size=(64, 64), dtype="float32", rate=0.5)
    if not paradigm:
        return dict(price(static_program(weightless(program)), search).blocks)
    way = PARADIGMS[paradigm]
    decisions = tuple(
        Decision(block=block.name, paradigm=paradigm, granularity=granularity or way.default_granularity(block))
        for block in program.blocks
    )
    return dict(price(converted(program, Plan(paradigm=paradigm, decisions=decisions)), search).blocks)


def names(frame: Frame) -> list[str]:
    return [block.name.removesuffix(".branch") for block in frame.program.blocks]


@pytest.mark.parametrize("target", ["jetson-tx2", pytest.param("cpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("paradigm", "granularity"), [("", None), ("spatial", 2), ("layer", None), ("channel", None)])
@pytest.mark.parametrize(
    "make", [TwoStages, pytest.param(torchvision.models.resnet18, marks=pytest.mark.slow)], ids=["two", "resnet18"]
)
def test_every_block_costs_what_it_costs_in_the_whole_network(
    make: Callable[[], nn.Module], paradigm: str, granularity: int | None, target: str
) -> None:
    whole = program_of(make, 2)
    frame = frame_of(whole)
    expected = priced(whole, paradigm, target, granularity)
    found = priced(frame.program, paradigm, target, granularity)
    assert {block.name: found[frame.stands_for[block.name]] for block in whole.blocks} == {
        block.name: expected[block.name] for block in whole.blocks
    }


def test_of_alike_blocks_in_a_row_three_stay() -> None:
    frame = frame_of(program_of(TwoStages, 2))
    assert names(frame) == ["first.0", "first.1", "first.2", "second.0", "second.1", "second.2", "second.3", "second.4"]
    stands_for = {name: mine for name, mine in frame.stands_for.items() if name != mine}
    assert stands_for == {
        f"{name}.branch": f"{mine}.branch"
        for name, mine in (
            ("first.3", "first.2"),
            ("first.4", "first.2"),
        )
    }


@pytest.mark.slow
def test_a_long_network_is_as_short_as_a_short_one() -> None:
    deep, shallow = (
        frame_of(program_of(make, 1)) for make in (torchvision.models.resnet101, torchvision.models.resnet50)
    )
    assert len(deep.stands_for) == 33
    assert names(deep) == names(shallow)
    assert len(names(deep)) == 14
    assert deep.stands_for["layer3.22"] == "layer3.3"


def test_a_whole_network_of_different_blocks_stays() -> None:
    class Different(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_norm(3, 16, 3)
            self.blocks = nn.Sequential(
                Residual(conv_norm(16, 16, 3), conv_norm(16, 16, 3)),
                Residual(conv_norm(16, 8, 3), conv_norm(8, 16, 3)),
                Residual(conv_norm(16, 16, 3), conv_norm(16, 16, 3, dilation=2)),
            )

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.blocks(self.stem(x)).mean((2, 3))
            return out

    frame = frame_of(program_of(Different, 1))
    assert list(frame.stands_for) == list(frame.stands_for.values())
    assert len(names(frame)) == 3


def test_the_program_that_was_given_is_left_as_it_is() -> None:
    program = program_of(TwoStages, 1)
    before = program.text()
    frame_of(program)
    weightless(program)
    assert program.text() == before
    x = random_images(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.isfinite(program(x)[0]).all()


def test_without_weights_there_are_shapes_only() -> None:
    program = program_of(TwoStages, 1)
    empty = weightless(program)
    tensors = [tensor for _, op in empty.ops() for tensor in (*op.parameters(), *op.buffers())]
    assert tensors
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert empty.text() == program.text()
    assert all(tensor.device.type == "cpu" for _, op in program.ops() for tensor in op.parameters())
