"""A masker that knows the means of what was skipped: where that is so, and every reason why it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import fx, nn

from laudc.compare import relative_error
from laudc.ops.activation import ActivationSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.kept_masker import KeptMaskerSpec
from laudc.ops.patch_masker import PatchMaskerSpec
from laudc.ops.patch_rows import PatchRowsSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.ops.row_list import RowListSpec
from laudc.passes.keep_means import KeepMeans
from laudc.pipeline import lowering, run
from laudc.program import Program, elements, program_for
from laudc.schedules import SCHEDULES, Active, Work
from laudc.targets import TARGETS
from laudc.testing import (
    Residual,
    Sketch,
    change_text,
    conditioned,
    conv_norm,
    converted,
    random_images,
    random_masks_like,
    run_overwriting,
    same_output,
)
from laudc.types import TensorType

H200 = TARGETS["h200"]
KEEP = KeepMeans(target=H200)
CHANNELS = 256
SIZE = (6, 7)
PATCH = PatchMaskerSpec(key="", channels=CHANNELS, granularity=4)
LAST = Conv2dSpec(in_channels=CHANNELS, out_channels=CHANNELS, rows=True, residual="in_place")
PLAIN = ActivationSpec(function="none")


class Chain:
    """Blocks of one convolution each, that update one map in place at the rows of their own masker's decisions."""

    def __init__(self, *, size: tuple[int, int] = SIZE) -> None:
        self.sketch, self.size = Sketch(), size
        self.x = self.sketch.input(2, CHANNELS, *size)
        self.map = self.sketch.op("map", PLAIN, self.x)

    def masker(self, name: str, spec: PatchMaskerSpec = PATCH, *, of: fx.Node | None = None) -> fx.Node:
        return self.sketch.masker(name, of or self.map, replace(spec, key=name))

    def rows(self, mask: fx.Node, granularity: int = 4) -> fx.Node:
        return self.sketch.op(f"{mask.name}_rows", PatchRowsSpec(granularity=granularity, map_size=self.size), mask)

    def update(self, rows: fx.Node, spec: Conv2dSpec = LAST) -> fx.Node:
        self.map = self.sketch.op(f"{rows.name}_update", spec, self.x, rows, self.map)
        return self.map

    def ends(self) -> Program:
        return self.sketch.returns(self.map)

    def refused(self) -> None:
        program = self.ends()
        assert KEEP.run(program) is program


def chained(count: int = 3) -> Program:
    chain = Chain()
    for index in range(count):
        chain.update(chain.rows(chain.masker(f"m{index}")))
    return chain.ends()


def same_at_all_rates(before: Program, after: Program, *shape: int) -> None:
    for rate in (0, 0.3, 1):
        masks = random_masks_like(before, rate=rate, batch=shape[0])
        same_output(before, after, random_images(*shape), masks)
    same_output(before, after, random_images(*shape))


def test_the_means_of_what_was_skipped_are_kept(golden: Callable[[str], None]) -> None:
    before = chained(2)
    golden(change_text(before, KEEP.run(before)))


def test_kept_means_change_no_decision() -> None:
    before = chained()
    after = KEEP.run(before)
    assert after.text().count(" = kept_masker(") == 3
    assert after.text().count("first=True") == 1
    same_at_all_rates(before, after, 2, CHANNELS, *SIZE)
    assert KEEP.run(after) is after


def test_lists_of_a_map_of_pixels_do_as_well() -> None:
    chain = Chain()
    pixels = chain.sketch.op("pixels", PixelMaskSpec(granularity=4, map_size=SIZE), chain.masker("one"))
    chain.update(chain.sketch.op("rows", RowListSpec(), pixels))
    chain.masker("other")
    before = chain.ends()
    after = KEEP.run(before)
    assert after.text().count(" = kept_masker(") == 2
    same_at_all_rates(before, after, 2, CHANNELS, *SIZE)


def test_the_first_block_of_a_stage_ends_the_chain_of_the_one_before() -> None:
    """Its decisions are on output pixels, each of which stands for two inputs down and across."""
    chain = Chain()
    chain.update(chain.rows(chain.masker("one")))
    chain.masker("other", replace(PATCH, granularity=2, stride=2))
    before = chain.ends()
    after = KEEP.run(before)
    assert after.text().count(" = kept_masker(") == 2
    same_at_all_rates(before, after, 2, CHANNELS, *SIZE)


def network() -> Program:
    """Bottlenecks behind a stem, wide enough to be worth it."""
    model = conditioned(
        lambda: nn.Sequential(
            conv_norm(3, 256, 3),
            nn.ReLU(),
            *(Residual(conv_norm(256, 8), conv_norm(8, 8, 3), conv_norm(8, 256)) for _ in range(3)),
        ),
        size=(16, 16),
    )
    return converted(model, random_images(2, 3, 9, 10), paradigm="spatial", granularity="4")


@pytest.mark.parametrize("without", [(), ("row-lists",)], ids=["", "without lists from decisions"])
def test_the_maskers_of_a_network_decide_the_same(without: tuple[str, ...]) -> None:
    options = {"target": H200, "expected_rate": 0.1}
    before, _ = run(network(), lowering(options, without=["keep-means", "masker-conv", *without]))
    after = KEEP.run(before)
    assert after.text().count(" = kept_masker(") == 3
    same_at_all_rates(before, after, 2, 3, 9, 10)
    x, masks = random_images(2, 3, 9, 10), random_masks_like(before, rate=0.5, batch=2)
    assert relative_error(run_overwriting(after, x, masks), before(x, masks)[0]) < 1e-5


def test_half_precision_keeps_means_too() -> None:
    program = program_for(network(), (2, 3, 9, 10), dtype="float16")
    lowered, _ = run(program, lowering({"target": H200}, without=["masker-conv"]))
    assert lowered.text().count(" = kept_masker(") == 3


# ---- what is refused


def test_a_cpu_reads_everything() -> None:
    program = chained()
    assert KeepMeans(target=TARGETS["cpu"]).run(program) is program


def test_a_masker_alone_has_nothing_to_keep() -> None:
    chain = Chain()
    chain.update(chain.rows(chain.masker("one")))
    chain.refused()


def test_patches_of_another_size_are_refused() -> None:
    chain = Chain()
    chain.update(chain.rows(chain.masker("one")))
    chain.masker("other", replace(PATCH, granularity=5))
    chain.refused()


def test_decisions_on_other_patches_than_the_masker_has_looked_at_are_refused() -> None:
    chain = Chain(size=(4, 8))
    mask = chain.masker("one", replace(PATCH, granularity=2, stride=2))  # one row of two patches, as of four pixels
    chain.update(chain.rows(mask, granularity=7))
    chain.masker("other")
    chain.refused()


def test_a_map_that_the_masker_has_not_read_is_refused() -> None:
    chain = Chain()
    mask = chain.masker("one", of=chain.sketch.op("another", ActivationSpec(function="relu"), chain.x))
    chain.update(chain.rows(mask))
    chain.masker("other")
    chain.refused()


def test_a_map_that_is_changed_as_a_whole_in_between_is_refused() -> None:
    chain = Chain()
    chain.update(chain.rows(chain.masker("one")))
    chain.map = chain.sketch.op("relu", ActivationSpec(function="relu"), chain.map)
    chain.masker("other")
    chain.refused()


def test_a_map_that_two_blocks_have_updated_is_refused() -> None:
    chain = Chain()
    rows = chain.rows(chain.masker("one"))
    chain.update(rows)
    chain.map = chain.sketch.op("again", LAST, chain.x, rows, chain.map)
    chain.masker("other")
    chain.refused()


def test_a_map_that_is_written_anew_is_refused() -> None:
    chain = Chain()
    chain.update(chain.rows(chain.masker("one")), replace(LAST, residual="dense"))
    chain.masker("other")
    chain.refused()


def test_the_rows_that_a_convolution_needs_are_refused() -> None:
    chain = Chain()
    spec = PatchRowsSpec(granularity=4, map_size=SIZE, needed_size=SIZE, kernel=(3, 3), padding=(1, 1, 1, 1))
    _, needed = elements(chain.sketch.op("lists", spec, chain.masker("one")), "on", "needed")
    chain.update(needed)
    chain.masker("other")
    chain.refused()


def test_rows_on_which_two_decisions_agree_are_refused() -> None:
    chain = Chain()
    outer = chain.sketch.op("outer", PixelMaskSpec(granularity=4, map_size=SIZE), chain.masker("one"))
    within = PixelMaskSpec(granularity=4, map_size=SIZE, within=True)
    inner = chain.sketch.op("inner", within, chain.masker("two"), outer)
    chain.update(chain.sketch.op("rows", RowListSpec(), inner))
    chain.masker("other")
    chain.refused()


def test_of_two_maskers_on_one_map_only_one_has_the_means() -> None:
    chain = Chain()
    chain.update(chain.rows(chain.masker("one")))
    chain.masker("other")
    chain.masker("another")
    before = chain.ends()
    after = KEEP.run(before)
    assert after.text().count(" = kept_masker(") == 2
    assert after.text().count(" = patch_masker(") == 1
    same_at_all_rates(before, after, 2, CHANNELS, *SIZE)


@pytest.mark.parametrize(
    ("granularity", "channels", "reason"),
    [
        (1, 2048, "a patch of 2048 numbers, fewer than 4096, is read about as fast as its means"),
        (8, 32, "a patch of 2048 numbers, fewer than 4096, is read about as fast as its means"),
        (0, 256, "a patch of 802816 bytes, more than 262144, is too much for one block"),
    ],
)
def test_patches_that_are_not_worth_it_are_refused(granularity: int, channels: int, reason: str) -> None:
    spec = KeptMaskerSpec(key="m", granularity=granularity, channels=channels, first=True)
    x = TensorType(shape=(2, channels, 28, 28), dtype="float32")
    work = Work(spec=spec, operands=(x,), results=spec.results((x,)))
    assert SCHEDULES["kept-maskers"].refuse(work, H200) == reason


def test_what_is_not_touched_is_not_read() -> None:
    spec = KeptMaskerSpec(key="m", granularity=8, channels=256)
    x = TensorType(shape=(4, 256, 56, 56), dtype="float16")
    mask, _, means = KeptMaskerSpec(key="m", granularity=8, channels=256, first=True).results((x,))
    work = Work(spec=spec, operands=(x, mask, means), results=spec.results((x, mask, means)))
    (none,), (half,), (whole,) = (
        SCHEDULES["kept-maskers"].demand(work, H200, {}, Active(rows=share * mask.numel)) for share in (0, 0.5, 1)
    )
    assert whole.read_bytes == x.nbytes
    assert none.read_bytes == means.nbytes
    assert half.read_bytes == (x.nbytes + means.nbytes) / 2
    assert none.steps < half.steps < whole.steps
