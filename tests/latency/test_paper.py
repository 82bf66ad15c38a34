"""The published LAUDNet latency model: its published figures, its trends, and what correcting its defects changes."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

import laudc
from laudc.convert import read_blocks
from laudc.errors import InputError, UnknownName
from laudc.latency._paper_chance import fullest_share
from laudc.latency._paper_patches import patch_schedule
from laudc.latency._paper_tiles import conv_tile, product_us
from laudc.latency.paper import (
    FUSIONS,
    PaperBlock,
    PaperConv,
    PaperDevice,
    blocks_of,
    break_even_rate,
    dynamic_us,
    network_dynamic_us,
    network_static_us,
    paper_device,
    regnet_y,
    static_us,
)
from laudc.testing import conditioned

Blocks = tuple[PaperBlock, ...]

V100, TX2, NANO = paper_device("v100"), paper_device("jetson-tx2"), paper_device("jetson-nano")
RATES = [step / 20 for step in range(21)]


def bottlenecks(depths: tuple[int, ...], image: int = 224) -> Blocks:
    """The blocks of a ResNet with bottlenecks, the stride in the 3x3 convolution."""
    blocks, c_in, size = [], 64, image // 4
    for stage, depth in enumerate(depths):
        width = 64 << stage
        for index in range(depth):
            stride = 2 if index == 0 and stage else 1
            before, size = size, size // stride
            convs = (
                PaperConv(c_in=c_in, c_out=width, height=before, width=before),
                PaperConv(c_in=width, c_out=width, height=size, width=size, stride=stride, kernel=3),
                PaperConv(c_in=width, c_out=4 * width, height=size, width=size),
            )
            shortcut = PaperConv(c_in=c_in, c_out=4 * width, height=size, width=size, stride=stride)
            blocks.append(PaperBlock(stage=stage, convs=convs, projection=None if index else shortcut))
            c_in = 4 * width
    return tuple(blocks)


NETWORKS = {
    "resnet50": bottlenecks((3, 4, 6, 3)),
    "resnet101": bottlenecks((3, 4, 23, 3)),
    "regnet_y_400mf": regnet_y("regnet_y_400mf"),
    "regnet_y_800mf": regnet_y("regnet_y_800mf"),
}
STAGES = [next(b for b in reversed(NETWORKS["resnet50"]) if b.stage == stage) for stage in range(4)]
"""The last block of each stage of ResNet-50, which is not the first."""


def ms(network: str, device: PaperDevice, paradigm: str, granularity: str, *, rate: float = 0.5, **how: bool) -> float:
    numbers = [int(digit) for digit in granularity]
    return network_dynamic_us(NETWORKS[network], device, paradigm, numbers, rate, **how) / 1e3


@pytest.mark.parametrize(
    ("network", "device", "published_ms"),
    [
        ("resnet50", V100, 0.908),
        ("resnet101", V100, 1.677),
        ("resnet50", TX2, 17.2),
        ("resnet101", TX2, 32.24),
        ("regnet_y_400mf", TX2, 3.64),
        ("regnet_y_400mf", NANO, 7.63),
        ("regnet_y_800mf", TX2, 5.41),
        ("regnet_y_800mf", NANO, 12.53),
    ],
)
def test_a_static_network_takes_what_was_published(network: str, device: PaperDevice, published_ms: float) -> None:
    assert network_static_us(NETWORKS[network], device) / 1e3 == pytest.approx(published_ms, rel=0.025)


# ms an image at rate 0.5, with how far the released and the corrected reading lie from it. Released: the channel
# masker's products cost more in the release (their tiles are counted wrongly), so there the model stays 3-5 % below.
# Corrected, channel: conv2 falls as r^2, not r^3, and conv3 as r, not r^2; on a TX2 two engines share out less at
# random, too. Corrected, spatial: conv1 computes the halo, which on a TX2 makes it run dense for S below 7.
AT_HALF = [
    ("resnet50", V100, "layer", "0000", 0.532, (0.010, 0.014)),
    ("resnet101", V100, "layer", "0000", 0.943, (-0.001, 0.003)),
    ("resnet101", TX2, "layer", "0000", 17.85, (0.004, 0.004)),
    ("resnet50", V100, "channel", "2222", 0.530, (-0.030, 0.067)),
    ("resnet101", V100, "channel", "2222", 0.894, (-0.044, 0.078)),
    ("resnet101", TX2, "channel", "2222", 15.88, (-0.006, 0.164)),
    ("resnet50", V100, "spatial", "8471", 0.707, (0.002, 0.019)),
    ("resnet50", V100, "spatial", "4421", 0.779, (0.003, 0.008)),
    ("resnet50", V100, "spatial", "1111", 1.202, (0.002, 0.002)),
    ("resnet101", V100, "spatial", "8471", 1.186, (-0.005, 0.027)),
    ("resnet101", V100, "spatial", "4421", 1.393, (-0.004, -0.001)),
    ("resnet101", V100, "spatial", "1111", 2.066, (-0.003, -0.003)),
    ("resnet101", TX2, "spatial", "8471", 24.37, (0.000, 0.041)),
    ("resnet101", TX2, "spatial", "4421", 21.65, (0.000, 0.085)),
    ("resnet101", TX2, "spatial", "1111", 21.86, (0.000, 0.086)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "device", "paradigm", "granularity", "published_ms", "off"), AT_HALF)
def test_half_on_takes_what_was_published_and_what_the_corrections_add(
    network: str, device: PaperDevice, paradigm: str, granularity: str, published_ms: float, off: tuple[float, float]
) -> None:
    released = ms(network, device, paradigm, granularity, as_released=True)
    corrected = ms(network, device, paradigm, granularity)
    assert abs(released / published_ms - 1) <= 0.05
    assert released / published_ms - 1 == pytest.approx(off[0], abs=0.001)
    assert corrected / published_ms - 1 == pytest.approx(off[1], abs=0.001)
    assert corrected >= released


@pytest.mark.parametrize(
    ("device", "stage", "side", "published"),
    [
        *[(V100, 0, side, rate) for side, rate in ((1, 0.20), (2, 0.40), (4, 0.65), (8, 0.75))],
        *[(V100, 1, side, rate) for side, rate in ((1, 0.25), (4, 0.75))],
        *[(V100, 2, side, rate) for side, rate in ((1, 0.40), (2, 0.70), (7, 1.00))],
        (V100, 3, 1, 0.65),
        *[(TX2, 0, side, rate) for side, rate in ((1, 0.85), (4, 0.90), (28, 0.75))],
        *[(TX2, 1, side, rate) for side, rate in ((4, 0.95), (7, 0.90), (14, 0.75))],
    ],
)
def test_break_even_rates_are_the_published_ones(device: PaperDevice, stage: int, side: int, published: float) -> None:
    """Published in steps of 0.05, rounded down, so up to 0.05 below; 0.03 more for the model's own error."""
    found = break_even_rate(STAGES[stage], device, "spatial", side)
    assert found is not None
    assert published <= found <= published + 0.08


@pytest.mark.slow
@pytest.mark.parametrize("device", [V100, paper_device("rtx3090")], ids=lambda device: device.name)
def test_break_even_rises_with_the_patch_and_with_the_stage(device: PaperDevice) -> None:
    """Of the patches that fit the map: 4 x 4 ones do not cover 14 x 14 without a rest, which costs."""
    rate = {
        (stage, side): break_even_rate(STAGES[stage], device, "spatial", side) or 0.0
        for stage, sides in enumerate(((1, 2, 4), (1, 2, 4), (1, 2), (1,)))
        for side in sides
    }
    for stage, side in rate:
        assert rate[stage, side] < rate.get((stage, 2 * side), 1.0)
        assert rate[stage, side] < rate.get((stage + 1, side), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("device", [V100, TX2, NANO], ids=lambda device: device.name)
def test_skipping_layers_takes_no_longer_than_skipping_patches(network: str, device: PaperDevice) -> None:
    """At rate 1 a patch's masker comes with the first convolution, and a layer's, as published, costs 3-4 %."""
    for as_released in (False, True):
        for rate, most in ((0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (0.95, 1.0), (1.0, 1.04)):
            layer = ms(network, device, "layer", "0000", rate=rate, as_released=as_released)
            for sides in ("8471", "4421", "1111"):
                assert layer <= most * ms(network, device, "spatial", sides, rate=rate, as_released=as_released)


@pytest.mark.slow
@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize(
    ("paradigm", "granularity"), [("layer", "0000"), ("channel", "2222"), ("spatial", "4421"), ("spatial", "1111")]
)
def test_more_work_takes_no_less_time(paradigm: str, granularity: str, as_released: bool) -> None:
    for network in NETWORKS:
        for device in (V100, TX2, NANO):
            times = [ms(network, device, paradigm, granularity, rate=rate, as_released=as_released) for rate in RATES]
            assert all(later >= earlier * (1 - 1e-12) for earlier, later in pairwise(times))


def test_larger_patches_help_a_v100_and_too_large_ones_hurt_a_tx2() -> None:
    v100, tx2 = (
        [ms("resnet101", device, "spatial", sides) for sides in ("1111", "4421", "8471")] for device in (V100, TX2)
    )
    assert v100 == sorted(v100, reverse=True)
    assert tx2[1] < tx2[0] < tx2[2]


def test_channels_a_decision_hardly_matter() -> None:
    for block in STAGES:
        times = [dynamic_us(block, V100, "channel", group, 0.5) for group in (1, 2, 4, 8)]
        assert max(times) < 1.015 * min(times)


@pytest.mark.parametrize(("device", "most"), [(V100, 0.04), (TX2, 0.03)], ids=["v100", "jetson-tx2"])
@pytest.mark.parametrize("network", ["resnet50", "resnet101"])
def test_layers_that_all_run_cost_their_maskers(network: str, device: PaperDevice, most: float) -> None:
    """Published: 3-4 % more than static."""
    overhead = ms(network, device, "layer", "0000", rate=1.0) * 1e3 / network_static_us(NETWORKS[network], device) - 1
    assert 0.025 < overhead < most


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
@pytest.mark.parametrize("sides", ["8471", "4421", "1111"])
@pytest.mark.parametrize("device", [V100, TX2], ids=lambda device: device.name)
def test_every_fusion_saves_time(device: PaperDevice, sides: str, fusion: str) -> None:
    numbers = [int(digit) for digit in sides]
    for blocks in NETWORKS.values():
        all_fused = network_dynamic_us(blocks, device, "spatial", numbers, 0.5)
        without = network_dynamic_us(blocks, device, "spatial", numbers, 0.5, fused=FUSIONS - {fusion})
        assert without > 1.01 * all_fused


def test_everything_on_in_channels_is_the_static_block_with_its_masker() -> None:
    for block in STAGES:
        masker = dynamic_us(block, V100, "channel", 2, 1.0) - static_us(block, V100)
        assert 3 * V100.launch_us / V100.batch < masker < 0.08 * static_us(block, V100)


def test_the_same_question_has_the_same_answer_to_the_last_bit() -> None:
    def answers() -> list[str]:
        return [
            ms("resnet50", V100, *way).hex() for way in (("spatial", "4421"), ("channel", "2222"), ("layer", "0000"))
        ]

    first = answers()
    for search in (conv_tile, patch_schedule, product_us, fullest_share):
        search.cache_clear()
    assert answers() == first


def expected_maximum(tiles: int, decisions: int, rate: Fraction) -> Fraction:
    """By the definition, in fractions."""
    chances = [math.comb(decisions, k) * rate**k * (1 - rate) ** (decisions - k) for k in range(decisions + 1)]
    at_most = [sum(chances[: k + 1], Fraction(0)) ** tiles for k in range(decisions + 1)]
    exactly = [now - before for now, before in zip(at_most, [Fraction(0), *at_most], strict=False)]
    return sum((k * chance for k, chance in enumerate(exactly)), Fraction(0)) / decisions


@pytest.mark.parametrize("rate", ["0", "1/100", "1/2", "9/10", "1"])
@pytest.mark.parametrize(("tiles", "decisions"), [(1, 7), (2, 1), (8, 64), (40, 12), (3, 150)])
def test_the_fullest_tile_is_the_exact_expectation(tiles: int, decisions: int, rate: str) -> None:
    exact = expected_maximum(tiles, decisions, Fraction(rate))
    assert fullest_share(tiles, decisions, float(Fraction(rate))) == pytest.approx(float(exact), rel=1e-9)


def test_many_decisions_even_out() -> None:
    assert fullest_share(16, 128 * 2048, 0.5) == pytest.approx(0.5, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("converted", [False, True])
def test_the_blocks_of_a_resnet50_here_are_those_of_its_program(converted: bool) -> None:
    import torchvision

    network, image = conditioned(torchvision.models.resnet50), torch.zeros(1, 3, 64, 64)
    program = laudc.transform(network, image).program if converted else read_blocks(network, image)
    assert blocks_of(program) == bottlenecks((3, 4, 6, 3), image=64)


def test_names_that_are_unknown_are_met_with_near_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean jetson-tx2"):
        paper_device("tx2")
    with pytest.raises(UnknownName, match="did you mean regnet_y_800mf"):
        regnet_y("regnet_y_80mf")
    with pytest.raises(UnknownName, match="did you mean spatial"):
        dynamic_us(STAGES[0], V100, "spacial", 4, 0.5)
    with pytest.raises(UnknownName, match="did you mean gather-conv"):
        dynamic_us(STAGES[0], V100, "spatial", 4, 0.5, fused=("gather_conv",))


@pytest.mark.parametrize(
    ("paradigm", "granularity", "rate"),
    [("spatial", 4, 1.5), ("spatial", 0, 0.5), ("channel", 65, 0.5), ("layer", 0, math.nan)],
)
def test_values_that_make_no_sense_are_refused(paradigm: str, granularity: int, rate: float) -> None:
    with pytest.raises(InputError):
        dynamic_us(STAGES[0], V100, paradigm, granularity, rate)


def test_granularities_are_one_a_stage() -> None:
    with pytest.raises(InputError, match="has 3 numbers; give 4, one a stage"):
        network_dynamic_us(NETWORKS["resnet50"], V100, "spatial", (4, 4, 2), 0.5)


def test_a_block_that_never_gains_has_no_break_even_rate() -> None:
    tiny = PaperConv(c_in=8, c_out=8, height=7, width=7)
    assert break_even_rate(PaperBlock(stage=0, convs=(tiny, tiny)), TX2, "channel", 1) is None
