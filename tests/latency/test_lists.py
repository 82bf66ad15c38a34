"""How many rows and channels are on: against every mask there is, and against the lists that the operations make."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, fx

from laudc.latency._lists import Lists, binomial, lists_of
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.kept_masker import KeptMaskerSpec
from laudc.ops.needed_region import NeededRegion, NeededRegionSpec
from laudc.ops.patch_masker import PatchMaskerSpec
from laudc.ops.patch_rows import PatchRowsSpec
from laudc.ops.pixel_mask import PixelMask, PixelMaskSpec
from laudc.ops.row_list import RowListSpec
from laudc.pipeline import lowering, run
from laudc.program import Program, elements
from laudc.testing import Sketch, converted, random_images, random_masks_like, tiny, tiny_converted

Needed = dict[str, tuple[int, ...]]
ONE: Needed = {"kernel": (1, 1)}
THREE: Needed = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
STRIDED: Needed = {**THREE, "stride": (2, 2)}
DILATED: Needed = {"kernel": (3, 3), "padding": (2, 2, 2, 2), "dilation": (2, 2)}
LOPSIDED: Needed = {"kernel": (5, 3), "stride": (1, 2), "padding": (3, 1, 0, 2), "dilation": (1, 1)}


def listed(size: tuple[int, int], side: int, batch: int, needed: Needed | None, *, fused: bool = False) -> Lists:
    """The lists of a 1x1 convolution that reads the rows of a masker's patches, or what a convolution needs of them."""
    sketch = Sketch()
    x = sketch.input(batch, 4, *size)
    conv = Conv2dSpec(in_channels=4, out_channels=4, **(needed or ONE))
    out, stride = conv.out_size(*size), conv.stride[0]
    mask = sketch.masker("m", x, PatchMaskerSpec(key="m", channels=4, granularity=side, stride=stride))
    region = NeededRegionSpec(map_size=size, **needed) if needed else None
    if fused:
        spec = PatchRowsSpec(granularity=side, map_size=out)
        rows = sketch.op("rows", spec.needing(region) if region else spec, mask)
        rows = elements(rows, "on", "needed")[1] if region else rows
    else:
        pixels = sketch.op("pixels", PixelMaskSpec(granularity=side, map_size=out), mask)
        rows = sketch.op("rows", RowListSpec(), sketch.op("needed", region, pixels) if region else pixels)
    read = sketch.op("conv", Conv2dSpec(in_channels=4, out_channels=4, rows=True), x, rows)
    return lists_of(sketch.returns(read), read)


@pytest.mark.parametrize("needed", [None, THREE, STRIDED, DILATED, LOPSIDED])
def test_lists_straight_from_decisions_come_from_the_same_patches(needed: Needed | None) -> None:
    lists, fused = (listed((7, 8), 2, 2, needed, fused=fused) for fused in (False, True))
    ((source,), (same,)) = lists.rows, fused.rows
    assert source.key == same.key
    assert (source.down == same.down).all()
    assert (source.across == same.across).all()


def test_a_masker_that_keeps_means_reads_what_the_one_before_has_touched() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 6, 7)
    first, kept = (KeptMaskerSpec(key=name, channels=4, granularity=3, first=name == "one") for name in ("one", "two"))
    touched, means = elements(sketch.op("one", first, x), "mask", "logits", "means")[::2]
    masker = sketch.op("two", kept, x, touched, means)
    lists = lists_of(sketch.returns(masker), masker)
    masks = {"one": torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 0], [1, 1, 1]]])}
    assert [active.rows for _, active in lists.given(masks)] == [5.0]
    mean = sum(weight * (active.rows or 0) for weight, active in lists.expected({"one": 0.25, "two": 0.75}))
    assert mean == pytest.approx(12 * 0.25)


def every_mask(units: int) -> Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=units)))


def brute_force(size: tuple[int, int], side: int, batch: int, needed: Needed | None) -> dict[int, float]:
    """Mean rows of the whole batch by how many units of it are on, over all masks."""
    conv = Conv2dSpec(in_channels=4, out_channels=4, **(needed or ONE))
    out = conv.out_size(*size)
    down, across = (-(-extent // min(side or extent, extent)) for extent in out)
    masks = every_mask(batch * down * across)
    on = PixelMask(PixelMaskSpec(granularity=side, map_size=out))(masks.view(-1, down, across))
    if needed:
        on = NeededRegion(NeededRegionSpec(map_size=size, **needed))(on)
    rows = on.view(len(masks), -1).sum(1, dtype=torch.float64)
    counts = masks.sum(1)
    return {int(k): float(rows[counts == k].mean()) for k in counts.unique()}


@pytest.mark.parametrize("rate", [0.3, 1.0])
@pytest.mark.parametrize(
    ("size", "side", "batch", "needed"),
    [
        ((4, 5), 2, 1, None),
        ((3, 3), 2, 2, None),
        ((5, 4), 0, 3, None),
        ((4, 5), 2, 1, THREE),
        ((3, 4), 2, 2, THREE),
        ((5, 4), 0, 3, THREE),
        ((6, 5), 2, 1, STRIDED),
        ((7, 8), 3, 2, STRIDED),
        ((5, 6), 2, 1, DILATED),
        ((6, 6), 4, 2, DILATED),
        ((6, 8), 2, 1, LOPSIDED),
    ],
)
def test_expected_rows_are_the_mean_over_all_masks(
    rate: float, size: tuple[int, int], side: int, batch: int, needed: Needed | None
) -> None:
    lists = listed(size, side, batch, needed)
    by_count = brute_force(size, side, batch, needed)
    units = max(by_count)
    found = lists.expected({"m": rate})
    assert all(active.channels is None and active.rows is not None for _, active in found)
    counts = range(units + 1) if rate < 1 else [units]
    assert [active.rows for _, active in found] == pytest.approx([by_count[k] for k in counts], abs=1e-9)
    chances = [math.comb(units, k) * rate**k * (1 - rate) ** (units - k) for k in counts]
    assert [weight for weight, _ in found] == pytest.approx(chances, abs=1e-9)


@pytest.mark.parametrize("granularity", [0, 1])
def test_two_maskers_that_have_to_agree_multiply(granularity: int) -> None:
    sketch = Sketch()
    x = sketch.input(1, 4, 3, 3)
    one = sketch.patches("one", x, granularity=granularity)
    other = sketch.patches("other", x, granularity=2)
    outer = sketch.op("outer", PixelMaskSpec(granularity=granularity, map_size=(3, 3)), one)
    inner = sketch.op("inner", PixelMaskSpec(granularity=2, map_size=(3, 3), within=True), other, outer)
    rows = sketch.op("rows", RowListSpec(), inner)
    read = sketch.op("conv", Conv2dSpec(in_channels=4, out_channels=4, rows=True), x, rows)
    lists = lists_of(sketch.returns(read), read)
    mean = sum(weight * (active.rows or 0) for weight, active in lists.expected({"one": 0.3, "other": 0.7}))
    assert mean == pytest.approx(9 * 0.3 * 0.7)


class _Recorder(fx.Interpreter):
    """What each operation of a lowered program makes."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.graph)
        self.made: dict[str, object] = {}

    def run_node(self, n: fx.Node) -> object:
        self.made[n.name] = super().run_node(n)
        return self.made[n.name]


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "layer+spatial", "layer+channel"])
def test_given_masks_switch_on_what_the_lists_then_name(paradigm: str, rate: float) -> None:
    together = "+" in paradigm
    images = random_images(2, 3, 21, 30) if together else random_images(3, 3, 37, 45)
    program = converted(tiny(), images, paradigm=paradigm) if together else tiny_converted(paradigm)
    masks = random_masks_like(program, rate=rate, batch=len(images), seed=7)
    lowered, _ = run(program, lowering())
    recorder = _Recorder(lowered)
    with torch.no_grad():
        recorder.run(images, masks)
    seen = 0
    for node, op in lowered.ops():
        operands = dict(zip(op.spec.operands, node.args, strict=False))
        if not {"rows", "channels"} & operands.keys():
            continue
        cases = lists_of(lowered, node).given(masks)
        assert sum(weight for weight, _ in cases) == pytest.approx(1)
        if "rows" in operands:
            made = recorder.made[str(operands["rows"])]
            assert isinstance(made, Tensor)
            assert {active.rows for _, active in cases} == {float(made[len(images)])}
        if "channels" in operands:
            made = recorder.made[str(operands["channels"])]
            assert isinstance(made, Tensor)
            kept = Counter(made[:, 0].tolist())
            assert {active.channels: weight * len(images) for weight, active in cases} == pytest.approx(kept)
        seen += 1
    assert seen >= 10


@pytest.mark.parametrize("units", [1, 2, 49, 64, 65, 784, 100352])
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 0.93, 1.0])
def test_counts_have_the_binomials_mean_and_weights_of_one(units: int, rate: float) -> None:
    counts = binomial(units, rate)
    assert sum(weight for weight, _ in counts) == pytest.approx(1, abs=1e-12)
    mean = sum(weight * count for weight, count in counts)
    spread = math.sqrt(units * rate * (1 - rate))
    # nine quantiles miss the tails, and lie on whole numbers
    assert mean == pytest.approx(units * rate, abs=1e-6 if units <= 64 else 0.05 * spread + 0.12)
    assert all(0 <= count <= units for _, count in counts)
    if units <= 64:
        variance = sum(weight * (count - mean) ** 2 for weight, count in counts)
        assert variance == pytest.approx(spread**2, abs=1e-4)


@pytest.mark.parametrize("units", [1, 12, 64, 65, 1000])
def test_counts_never_fall_as_the_rate_grows(units: int) -> None:
    """The chance of more than any number does not."""

    def beyond(rate: float, least: float) -> float:
        return sum(weight for weight, count in binomial(units, rate) if count > least)

    for low, high in pairwise([step / 20 for step in range(21)]):
        assert all(beyond(high, least) >= beyond(low, least) - 2e-8 for least in range(0, units, max(1, units // 40)))


@pytest.mark.parametrize(("size", "side", "needed"), [((8, 9), 2, THREE), ((14, 14), 1, STRIDED), ((7, 7), 0, None)])
def test_more_rate_is_more_rows(size: tuple[int, int], side: int, needed: Needed | None) -> None:
    lists = listed(size, side, 2, needed)
    means = [
        sum(weight * (active.rows or 0) for weight, active in lists.expected({"m": step / 10})) for step in range(11)
    ]
    assert means == sorted(means)
    assert means[0] == 0
    assert means[-1] == max(means) > 0
