"""Which residual blocks are found in which network, and why the others are left alone."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from laudc.capture import capture
from laudc.passes.find_blocks import FindBlocks
from laudc.program import Block, Program
from laudc.testing import Residual, TinyNet, conv_norm, random_images, tiny

THREE_FOUR_SIX_THREE = [*["layer1"] * 3, *["layer2"] * 4, *["layer3"] * 6, *["layer4"] * 3]
NO_PATTERN = "no pattern: basic, bottleneck, preactivated-basic, preactivated-bottleneck"
FAST = {"resnet18", "timm_resnet26d", "mobilenet_v2", "timm_resnetv2_50"}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], set[str], list[int], list[int]]] = {
    # how it is made, its patterns, blocks a stage, strides of the first block of each stage
    "resnet18": (lambda: models.resnet18(weights=None), {"basic"}, [2, 2, 2, 2], [1, 2, 2, 2]),
    "resnet34": (lambda: models.resnet34(weights=None), {"basic"}, [3, 4, 6, 3], [1, 2, 2, 2]),
    "resnet50": (lambda: models.resnet50(weights=None), {"bottleneck"}, [3, 4, 6, 3], [1, 2, 2, 2]),
    "resnext50": (lambda: models.resnext50_32x4d(weights=None), {"bottleneck"}, [3, 4, 6, 3], [1, 2, 2, 2]),
    "wide_resnet50": (lambda: models.wide_resnet50_2(weights=None), {"bottleneck"}, [3, 4, 6, 3], [1, 2, 2, 2]),
    "dilated": (
        lambda: models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]),
        {"bottleneck"},
        [3, 4, 6, 3],
        [1, 2, 1, 1],
    ),
    "timm_resnet26d": (lambda: timm.create_model("resnet26d"), {"bottleneck"}, [2, 2, 2, 2], [1, 2, 2, 2]),
    "timm_regnetx": (lambda: timm.create_model("regnetx_002"), {"bottleneck"}, [1, 1, 4, 7], [2, 2, 2, 2]),
    "mobilenet_v2": (lambda: models.mobilenet_v2(weights=None), {"bottleneck"}, [1, 2, 3, 2, 2], [1, 1, 1, 1, 1]),
    "timm_resnetv2_50": (
        lambda: timm.create_model("resnetv2_50"),
        {"preactivated-bottleneck", "bottleneck"},  # what the first of a stage activates, its projection reads too
        [3, 4, 6, 3],
        [1, 2, 2, 2],
    ),
}


def find(model: nn.Module, *shape: int) -> Program:
    return FindBlocks().run(capture(model.eval(), random_images(*(shape or (1, 3, 64, 64)))))


@functools.cache
def found(name: str) -> Program:
    return find(NETWORKS[name][0]())


def table(blocks: tuple[Block, ...]) -> str:
    """Every fact of every block, one a line."""
    lines = []
    for block in blocks:
        lines.append(f"{block.name}: {block.pattern}, stage {block.stage}, stride {block.stride}")
        lines.append(f"    {block.entry} -> {' -> '.join(block.branch)} -> {block.add} -> {block.exit}")
        lines.append(f"    shortcut {' -> '.join(block.shortcut) or 'is the entry'}")
        lines.append(f"    inner {', '.join(block.inner)}: {block.width} channels in groups of {block.group_width}")
        lines.append(f"    makes {block.out_channels} channels of {block.out_size[0]} x {block.out_size[1]}")
    return "\n".join(lines) + "\n"


def only_reason(program: Program) -> str:
    assert program.blocks == ()
    (refusal,) = program.refusals
    return refusal.reason


# ---- what is found


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_every_block_of_a_known_network_is_found(name: str) -> None:
    _, patterns, blocks_a_stage, first_strides = NETWORKS[name]
    program = found(name)
    blocks = program.blocks
    assert program.refusals == ()
    assert {block.pattern for block in blocks} == patterns
    assert list(Counter(block.stage for block in blocks).values()) == blocks_a_stage
    assert [block.stage for block in blocks] == sorted(block.stage for block in blocks)
    firsts = [next(block for block in blocks if block.stage == stage) for stage in range(len(blocks_a_stage))]
    assert [block.stride for block in firsts] == first_strides
    assert [block.stride for block in blocks if block not in firsts] == [1] * (len(blocks) - len(firsts))


def test_a_block_has_the_name_of_its_module() -> None:
    names = [block.name for block in found("resnet50").blocks]
    assert [name.split(".")[0] for name in names] == THREE_FOUR_SIX_THREE
    assert names[:4] == ["layer1.0", "layer1.1", "layer1.2", "layer2.0"]


def test_the_blocks_of_a_small_network_are_these(golden: Callable[[str], None]) -> None:
    golden(table(find(TinyNet(), 1, 3, 37, 45).blocks))


def test_a_projection_is_the_shortcut_and_an_identity_is_none() -> None:
    with_projection = [block.name for block in found("resnet50").blocks if block.shortcut]
    assert with_projection == ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]


def test_a_pooled_projection_is_a_shortcut() -> None:
    blocks = found("timm_resnet26d").blocks
    assert len(blocks[2].shortcut) == 3  # average pool, convolution, norm


def test_a_grouped_convolution_gives_its_group_width() -> None:
    blocks = found("resnext50").blocks
    assert [(block.width, block.group_width) for block in blocks[:4]] == [(128, 4)] * 3 + [(256, 8)]


def test_the_nodes_of_a_block_carry_its_name() -> None:
    program = find(TinyNet(), 1, 3, 32, 32)
    for block in program.blocks:
        assert {program.node(name).meta["block"] for name in block.nodes} == {block.name}
    assert "block" not in program.node("stem_0_0").meta


def test_finding_blocks_changes_no_other_program() -> None:
    captured = capture(tiny(), random_images(1, 3, 32, 32))
    text = captured.text()
    found = FindBlocks().run(captured)
    assert found.text() == captured.text() == text
    assert captured.blocks == ()
    assert not any("block" in node.meta for node in captured.nodes)


def test_one_block_called_three_times_is_three_blocks() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_norm(3, 8, 3)
            self.cell = Residual(conv_norm(8, 8, 3), conv_norm(8, 8, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            for _ in range(3):
                x = self.cell(x)
            return x

    names = [block.name for block in find(Recurrent(), 1, 3, 16, 16).blocks]
    assert names[0] == "cell.branch"
    assert len(set(names)) == 3


def test_a_network_without_any_add_is_the_same_object() -> None:
    program = capture(nn.Conv2d(3, 4, 3), random_images(1, 3, 8, 8))
    assert FindBlocks().run(program) is program


# ---- hand-written blocks: what is in a branch, and how it is joined


class One(nn.Module):
    """A stem and one residual region; the subclasses say what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)

    def region(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(torch.relu(self.a(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.region(torch.relu(self.stem(x)))


class OtherOrder(One):
    def region(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))) + x)


class Preactivated(One):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def region(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.b(torch.relu(self.a(torch.relu(self.norm(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.region(x)


class NoExitActivation(One):
    def region(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


class InPlace(One):
    def region(self, x: Tensor) -> Tensor:
        out = self.b(F.relu_(self.a(x)))
        out += x
        return out.relu_()


@pytest.mark.parametrize(("make", "exit_name"), [(One, "relu_2"), (OtherOrder, "relu_2"), (NoExitActivation, "add")])
def test_the_exit_is_the_activation_or_the_add(make: type[One], exit_name: str) -> None:
    (block,) = find(make(), 1, 3, 9, 9).blocks
    assert block.exit == exit_name
    assert block.name == "block0"
    assert (block.branch, block.inner) == (("a", "relu_1", "b"), ("relu_1",))


def test_a_block_that_begins_with_its_norm_is_found() -> None:
    (block,) = find(Preactivated(), 1, 3, 9, 9).blocks
    assert (block.pattern, block.entry, block.exit) == ("preactivated-basic", "stem", "add")
    assert (block.branch, block.inner) == (("norm", "relu", "a", "relu_1", "b"), ("relu_1",))


def test_a_block_that_adds_in_place_is_found() -> None:
    (block,) = find(InPlace(), 1, 3, 9, 9).blocks
    assert (block.entry, block.add, block.exit) == ("relu", "add", "relu__1")


class ReadTwice(One):
    def region(self, x: Tensor) -> Tensor:
        middle = torch.relu(self.a(x))
        return torch.relu(x + self.b(middle)) * middle


class ReturnedToo(One):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        out = self.b(torch.relu(self.a(x)))
        return torch.relu(x + out) * out.mean((2, 3), keepdim=True)


class Joins(One):
    def region(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(torch.sigmoid(self.a(x)) * torch.relu(self.a(x))))


class AddsToItself(One):
    def region(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x + x


class UnknownOperation(One):
    def region(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(torch.cos(self.a(x))))


class UnknownModule(One):
    def __init__(self) -> None:
        super().__init__()
        self.tanh = nn.Tanh()

    def region(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(self.tanh(self.a(x))))


class NoActivationBetween(One):
    def region(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(self.a(x)))


class ThreeByThreeFirst(One):
    def region(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(torch.relu(self.a(torch.relu(self.a(x))))))


class TallStride(One):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, stride=(2, 1), padding=1)
        self.shortcut = nn.Conv2d(8, 8, 1, stride=(2, 1))

    def region(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.b(torch.relu(self.a(x))))


class ValidPadding(One):
    """The branch loses a pixel on each side, and so does the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3)
        self.shortcut = nn.Conv2d(8, 8, 3)

    def region(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.b(torch.relu(self.a(x))))


class WidthsDiffer(One):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 1)
        )

    def region(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.parts(x))


class LinearBranch(One):
    def region(self, x: Tensor) -> Tensor:
        return x + self.scale * x

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (ReadTwice, "%relu_1 of its branch is read 2 times"),
        (ReturnedToo, "%b of its branch is read 2 times"),
        (Joins, "%mul of its branch joins 2 values"),
        (AddsToItself, "the add does not join two different values"),
        (UnknownOperation, f"{NO_PATTERN}: its two paths are nothing | conv2d cos conv2d"),
        (UnknownModule, f"{NO_PATTERN}: its two paths are nothing | conv2d Tanh conv2d"),
        (NoActivationBetween, f"{NO_PATTERN}: its two paths are nothing | conv2d conv2d"),
        (ThreeByThreeFirst, "bottleneck: a 3x3 convolution stands where a 1x1 is expected"),
        (TallStride, "a convolution of the branch has the stride 2x1"),
        (ValidPadding, "a map of 9x9 becomes 7x7 at stride 1: decisions would not line up"),
        (WidthsDiffer, "its inner widths are [4, 12], not one"),
        (LinearBranch, "%mul of its branch joins 2 values"),
    ],
)
def test_a_region_that_is_not_understood_is_refused_with_the_reason(make: type[One], reason: str) -> None:
    assert reason in only_reason(find(make(), 1, 3, 9, 9))


def test_a_refused_region_does_not_hide_the_others() -> None:
    class Mixed(One):
        def region(self, x: Tensor) -> Tensor:
            return NoActivationBetween.region(self, super().region(x))  # type: ignore[arg-type]

    program = find(Mixed(), 1, 3, 9, 9)
    assert [block.name for block in program.blocks] == ["block0"]
    assert [refusal.where for refusal in program.refusals] == ["add_1"]
