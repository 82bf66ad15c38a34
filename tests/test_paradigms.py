"""What is decided, over which units, and what a mask does: by the definitions, not by another implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models

from laudc.capture import capture
from laudc.compare import relative_error
from laudc.ops._geometry import expand_patches, grid_size, patch_means
from laudc.ops._masker import Masker
from laudc.paradigms import PARADIGMS
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.insert_maskers import InsertMaskers
from laudc.plan import make_plan
from laudc.program import Block, types_of
from laudc.testing import (
    Residual,
    TinyNet,
    conditioned,
    conv_norm,
    converted,
    random_images,
    random_masks_like,
    tiny,
    tiny_converted,
)

COMBINATIONS = [
    "spatial",
    "layer",
    "channel",
    "spatial+layer",
    "spatial+channel",
    "layer+channel",
    "spatial+channel+layer",
]


def some_block(**changes: object) -> Block:
    (block, *_) = FindBlocks().run(capture(tiny(), random_images(1, 3, 37, 45))).blocks
    return replace(block, **changes)  # type: ignore[arg-type]


# ---- units


@pytest.mark.parametrize(
    ("granularity", "size", "grid"),
    [
        (4, (56, 56), (14, 14)),
        (4, (50, 58), (13, 15)),  # 200 x 232 behind the stem of a ResNet: S divides neither
        (3, (7, 8), (3, 3)),
        (1, (7, 8), (7, 8)),
        (9, (7, 8), (1, 1)),  # larger than the map: clipped to it
        (8, (7, 20), (1, 3)),  # larger along one axis
        (0, (7, 8), (1, 1)),  # the whole map
    ],
)
def test_a_grid_has_a_unit_for_every_patch_cropped_ones_too(
    granularity: int, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    assert grid_size(granularity, *size) == grid
    assert PARADIGMS["spatial"].units(some_block(out_size=size), granularity) == grid


@pytest.mark.parametrize(("size", "granularity"), [((7, 8), 3), ((50, 58), 4), ((5, 4), 6), ((6, 9), 0), ((1, 1), 1)])
def test_the_unit_of_a_pixel_is_its_place_over_the_granularity(size: tuple[int, int], granularity: int) -> None:
    height, width = size
    rows, columns = grid_size(granularity, height, width)
    numbers = torch.arange(rows * columns).view(1, rows, columns)
    found = expand_patches(numbers, granularity, height, width)[0]
    side = granularity or max(size)
    expected = [[(i // side) * columns + j // side for j in range(width)] for i in range(height)]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("out_size", "expected"), [((56, 56), 4), ((28, 28), 4), ((14, 14), 2), ((7, 7), 1), ((50, 58), 4), ((3, 40), 1)]
)
def test_the_default_granularity_of_a_resnet_is_4_4_2_1(out_size: tuple[int, int], expected: int) -> None:
    assert PARADIGMS["spatial"].default_granularity(some_block(out_size=out_size)) == expected


@pytest.mark.parametrize(
    ("width", "group_width", "expected"),
    [
        (256, 1, 16),
        (64, 1, 16),
        (48, 1, 8),  # 16 would leave three decisions
        (6, 1, 1),
        (128, 4, 16),  # whole groups
        (24, 3, 3),  # no power of two is whole groups
        (16, 8, 8),
    ],
)
def test_the_default_channel_granularity_keeps_groups_whole(width: int, group_width: int, expected: int) -> None:
    block = some_block(width=width, group_width=group_width)
    assert PARADIGMS["channel"].default_granularity(block) == expected
    assert PARADIGMS["channel"].units(block, expected) == (width // expected,)


def test_channels_that_the_granularity_does_not_divide_are_refused() -> None:
    reason = PARADIGMS["channel"].refuse(some_block(width=24), 16)
    assert reason == "16 adjacent channels do not divide the inner width of 24"
    assert PARADIGMS["channel"].refuse(some_block(width=24), 8) is None


def test_layer_skipping_is_one_decision_whatever_the_map() -> None:
    layer = PARADIGMS["layer"]
    assert layer.units(some_block(out_size=(13, 9)), layer.default_granularity(some_block())) == (1, 1)
    assert not layer.takes_granularity


@pytest.mark.parametrize(("paradigm", "granularity"), [("spatial", "4-4-2-1"), ("spatial", "7"), ("channel", None)])
def test_a_masker_decides_over_the_units_of_its_block_at_odd_sizes(paradigm: str, granularity: str | None) -> None:
    model = conditioned(lambda: models.resnet18(weights=None))
    found = FindBlocks().run(capture(model, random_images(2, 3, 200, 232)))
    plan = make_plan(found.blocks, paradigm=paradigm, granularity=granularity)
    program = InsertMaskers(plan=plan).run(found)
    blocks = {block.name: block for block in found.blocks}
    units = {d.key: PARADIGMS[paradigm].units(blocks[d.block], d.granularity) for d in plan.decisions}
    typed = {op.key: types_of(node)[0].shape[1:] for node, op in program.ops() if isinstance(op, Masker)}
    with torch.no_grad():
        _, decided = program(random_images(1, 3, 200, 232))
    assert typed == units
    assert {key: tuple(mask.shape[1:]) for key, (mask, _) in decided.items()} == units


# ---- what the maskers look at


@settings(max_examples=40)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    granularity=st.integers(0, 7),
    stride=st.integers(1, 3),
)
def test_a_patch_mean_is_over_exactly_the_inputs_of_the_patch(
    height: int, width: int, granularity: int, stride: int
) -> None:
    x = random_images(2, 3, height, width)
    found = patch_means(x, granularity, stride)
    out_height, out_width = -(-height // stride), -(-width // stride)
    rows, columns = grid_size(granularity, out_height, out_width)
    assert found.shape == (2, 3, rows, columns)
    side = granularity or max(out_height, out_width)
    for unit_row in range(rows):
        for unit_column in range(columns):
            own = [
                x[:, :, i, j]
                for i in range(height)
                for j in range(width)
                if (i // stride // side, j // stride // side) == (unit_row, unit_column)
            ]
            expected = torch.stack(own).double().mean(0)
            # a mean of at most 144 numbers of size 1: rounding stays below 1e-6
            assert (found[:, :, unit_row, unit_column] - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("paradigm", COMBINATIONS)
def test_an_untrained_masker_keeps_nearly_everything(paradigm: str) -> None:
    program = tiny_converted(paradigm)
    with torch.no_grad():
        _, decided = program(random_images(3, 3, 37, 45))
    probabilities = torch.cat([torch.sigmoid(logits).flatten() for _, logits in decided.values()])
    assert probabilities.min() > 0.5
    assert probabilities.median() > 0.95


def test_the_maskers_weights_follow_the_seed() -> None:
    found = FindBlocks().run(capture(tiny(), random_images(1, 3, 32, 32)))

    def weights(seed: int) -> list[Tensor]:
        plan = make_plan(found.blocks, paradigm="spatial+channel", seed=seed)
        program = InsertMaskers(plan=plan).run(found)
        return [value for _, op in program.ops() if isinstance(op, Masker) for value in op.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True))


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel"])
def test_training_decides_hard_and_teaches_the_maskers(paradigm: str) -> None:
    torch.manual_seed(0)
    program = converted(conditioned(TinyNet), random_images(8, 3, 37, 45), paradigm=paradigm)
    program.graph.train()
    out, decided = program(random_images(8, 3, 37, 45))
    for mask, _ in decided.values():
        # straight through: hard + soft - soft, so within one rounding of 0 and 1
        assert torch.minimum(mask.abs(), (mask - 1).abs()).max() <= 1e-6
    (out.square().sum() + sum(mask.mean() for mask, _ in decided.values())).backward()
    for _, op in program.ops():
        if isinstance(op, Masker):
            gradients = [value.grad for value in op.parameters()]
            assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients), op.key


# ---- what the masks do


@pytest.mark.parametrize(
    ("make", "paradigm"),
    [
        (lambda: models.resnet18(weights=None), "spatial+channel+layer"),
        pytest.param(lambda: models.resnet50(weights=None), "spatial", marks=pytest.mark.slow),
        pytest.param(lambda: models.resnext50_32x4d(weights=None), "channel", marks=pytest.mark.slow),
        pytest.param(lambda: timm.create_model("resnet26d"), "spatial+channel+layer", marks=pytest.mark.slow),
        pytest.param(lambda: timm.create_model("regnetx_002"), "layer", marks=pytest.mark.slow),
    ],
    ids=["resnet18", "resnet50", "resnext50", "timm_resnet26d", "timm_regnetx"],
)
def test_with_all_masks_on_it_is_the_static_network(make: Callable[[], nn.Module], paradigm: str) -> None:
    model = conditioned(make)
    x = random_images(2, 3, 64, 64)
    program = converted(model, x, paradigm=paradigm)
    with torch.no_grad():
        found, _ = program(x, random_masks_like(program, rate=1, batch=2))
        # a product with 1.0 is exact: the two run the same arithmetic
        assert relative_error(found, model(x)) <= 1e-6


@pytest.mark.parametrize("paradigm", COMBINATIONS)
def test_all_masks_on_is_static_for_every_combination_at_odd_sizes(paradigm: str) -> None:
    program = tiny_converted(paradigm)
    x = random_images(3, 3, 37, 45, seed=1)
    with torch.no_grad():
        found, _ = program(x, random_masks_like(program, rate=1, batch=3))
        assert relative_error(found, tiny()(x)) <= 1e-6


@pytest.mark.parametrize("paradigm", COMBINATIONS)
def test_given_masks_come_back_as_the_decisions(paradigm: str) -> None:
    program = tiny_converted(paradigm)
    masks = random_masks_like(program, rate=0.4, batch=3)
    with torch.no_grad():
        _, decided = program(random_images(3, 3, 37, 45), masks)
    assert decided.keys() == masks.keys()
    assert all(torch.equal(decided[key][0], masks[key]) for key in masks)


def test_maskers_that_are_given_nothing_decide_themselves() -> None:
    program = tiny_converted("spatial")
    first, *others = random_masks_like(program, rate=0.4, batch=3).items()
    with torch.no_grad():
        _, free = program(random_images(3, 3, 37, 45))
        _, decided = program(random_images(3, 3, 37, 45), dict([first]))
    assert torch.equal(decided[first[0]][0], first[1])
    for key, _ in others:
        assert torch.equal(decided[key][0], (decided[key][1] >= 0).float())
    assert free.keys() == decided.keys()


@pytest.mark.parametrize("paradigm", COMBINATIONS)
def test_each_sample_goes_by_its_own_masks(paradigm: str) -> None:
    program = tiny_converted(paradigm)
    x, masks = random_images(3, 3, 37, 45), random_masks_like(program, rate=0.5, batch=3)
    with torch.no_grad():
        together, _ = program(x, masks)
        alone = [program(x[b : b + 1], {key: mask[b : b + 1] for key, mask in masks.items()})[0] for b in range(3)]
        swapped, _ = program(x, {key: mask.flip(0) for key, mask in masks.items()})
    assert relative_error(together, torch.cat(alone)) <= 1e-5  # torch picks its convolution by the batch
    assert relative_error(swapped, together) > 1e-3


class OneBlock(nn.Module):
    """relu(x + F(x)) over the stem, with F and the masks in plain sight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
        self.block = Residual(conv_norm(8, 12), conv_norm(12, 12, 3), conv_norm(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.stem(x))
        return out


def one_block() -> OneBlock:
    model = conditioned(OneBlock, size=(16, 16))
    assert isinstance(model, OneBlock)
    return model


@pytest.mark.parametrize(("paradigm", "granularity"), [("spatial", "2"), ("spatial", "3"), ("layer", None)])
def test_a_masked_block_adds_the_mask_times_the_branch(paradigm: str, granularity: str | None) -> None:
    model, x = one_block(), random_images(3, 3, 7, 8)
    program = converted(model, x, paradigm=paradigm, granularity=granularity)
    masks = random_masks_like(program, rate=0.5, batch=3)
    (mask,) = masks.values()
    side = int(granularity or 8)
    pixels = torch.tensor([[[mask[b, i // side, j // side] for j in range(8)] for i in range(7)] for b in range(3)])
    with torch.no_grad():
        entry = model.stem(x)
        expected = torch.relu(entry + pixels[:, None] * model.block.branch(entry))
        assert relative_error(program(x, masks)[0], expected) <= 1e-6


def test_a_dropped_channel_is_an_exact_zero_after_each_inner_activation() -> None:
    model, x = one_block(), random_images(3, 3, 7, 8)
    program = converted(model, x, paradigm="channel", granularity="4")
    masks = random_masks_like(program, rate=0.5, batch=3)
    (mask,) = masks.values()
    kept = mask.repeat_interleave(4, dim=1)[:, :, None, None]
    first, act, second, _, third = model.block.branch
    with torch.no_grad():
        entry = model.stem(x)
        expected = torch.relu(entry + third(kept * act(second(kept * act(first(entry))))))
        assert relative_error(program(x, masks)[0], expected) <= 1e-6


def test_a_patch_larger_than_the_map_is_layer_skipping() -> None:
    x = random_images(3, 3, 37, 45)
    spatial, layer = converted(tiny(), x, granularity="100"), converted(tiny(), x, paradigm="layer")
    masks = random_masks_like(layer, rate=0.5, batch=3)
    renamed = {key.replace(".layer", ".spatial"): mask for key, mask in masks.items()}
    with torch.no_grad():
        assert torch.equal(spatial(x, renamed)[0], layer(x, masks)[0])


def test_a_block_that_reads_the_image_itself_can_be_dynamic() -> None:
    model = conditioned(lambda: Residual(conv_norm(3, 8, 3), conv_norm(8, 3, 3)), size=(16, 16))
    x = random_images(3, 3, 9, 10)
    for paradigm in COMBINATIONS:
        program = converted(model, x, paradigm=paradigm)
        with torch.no_grad():
            found, _ = program(x, random_masks_like(program, rate=1, batch=3))
            assert relative_error(found, model(x)) <= 1e-6
