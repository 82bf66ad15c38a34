"""A masker behind each entry, the mask where it acts, a second input and a second result."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from laudc.capture import capture
from laudc.errors import PlanError
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.insert_maskers import InsertMaskers
from laudc.plan import Decision, Plan, make_plan
from laudc.program import Program
from laudc.testing import Residual, change_text, random_images, random_masks_like, same_output, tiny
from laudc.verify import verify


class Plain(nn.Module):
    """A stem and one basic block, no norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.block = Residual(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.stem(x))
        return out


def found(model: nn.Module | None = None) -> Program:
    return FindBlocks().run(capture(model or Plain().eval(), random_images(2, 3, 9, 7)))


def inserted(program: Program, paradigm: str, granularity: str | None = None) -> Program:
    return InsertMaskers(plan=make_plan(program.blocks, paradigm=paradigm, granularity=granularity)).run(program)


def test_spatial_and_channel_maskers_stand_behind_the_entry(golden: Callable[[str], None]) -> None:
    before = found()
    after = inserted(before, "spatial+channel", "2+4")
    verify(after)
    golden(change_text(before, after))


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "channel+layer+spatial"])
def test_with_all_masks_on_it_computes_the_same(paradigm: str) -> None:
    before = found()
    after = inserted(before, paradigm)
    x = random_images(2, 3, 9, 7)
    out, _ = after(x, random_masks_like(after, rate=1, batch=2))
    assert out.equal(before(x)[0])


def test_masks_are_an_input_that_may_be_left_out() -> None:
    after = inserted(found(), "spatial")
    x = random_images(2, 3, 9, 7)
    _, decided = after(x)
    same_output(after, after, x, {key: mask for key, (mask, _) in decided.items()}, tolerance=0)
    assert list(decided) == ["block.branch.spatial"]


def test_the_program_that_was_given_stays_static() -> None:
    before = found()
    text = before.text()
    inserted(before, "spatial+channel")
    assert before.text() == text
    assert not before.takes_masks


def test_only_the_planned_blocks_become_dynamic() -> None:
    program = found(tiny())
    plan = Plan(
        paradigm="layer",
        decisions=(Decision(block="stage2.1.branch", paradigm="layer", granularity=0),),
    )
    _, decided = InsertMaskers(plan=plan).run(program)(random_images(2, 3, 9, 7))
    assert list(decided) == ["stage2.1.branch.layer"]


def test_what_the_plan_refused_is_noted() -> None:
    program = found(tiny())
    after = inserted(program, "spatial+channel", "1+24")
    assert [refusal.where for refusal in after.refusals][:2] == ["stage1.0.branch.channel", "stage2.1.branch.channel"]
    assert program.refusals == ()


def test_a_plan_of_another_network_is_refused() -> None:
    plan = Plan(paradigm="layer", decisions=(Decision(block="layer1.0", paradigm="layer", granularity=0),))
    with pytest.raises(PlanError, match=r"the plan names the block 'layer1\.0', which the network lacks"):
        InsertMaskers(plan=plan).run(found())
