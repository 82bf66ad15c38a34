"""plan.toml: read back as it was written, and every way in which it can be wrong or not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

import laudc.targets
from laudc.convert import read_blocks
from laudc.errors import InputError, LaudcError, PlanError
from laudc.plan import Basis, Decision
from laudc.plan_file import PlanFile, check_fits, read_plan
from laudc.program import Program, program_for
from laudc.structure import structure_digest
from laudc.testing import TinyNet

STRUCTURE = structure_digest(read_blocks(TinyNet().eval(), torch.zeros(1, 3, 64, 48)))
BASIS = Basis(
    model="tiny", structure=STRUCTURE, target="v100", target_hash="ab" * 32, dtype="float32", batch=8, size=(64, 48),
    rate=0.5, paradigm="auto", calibration="uncalibrated",
)  # fmt: skip
FILE = PlanFile(
    basis=BASIS,
    blocks={
        "stage1.0.branch": (("spatial", 4),),
        "stage2.0.branch": (("layer", 0), ("channel", 8)),
        "stage2.1.branch": (),
        "stage3.0.branch": (("channel", 4),),
        "stage3.1.branch": (("layer", 0),),
        "stage4.0.branch": (("spatial", 1),),
    },
    reasons={"stage1.0.branch": "spatial 4: 0.61 of static", "stage2.1.branch": "static: nothing gains"},
)


@pytest.fixture(scope="module")
def program() -> Program:
    return read_blocks(TinyNet().eval(), torch.zeros(1, 3, 64, 48))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.toml"


def test_a_plan_is_read_back_as_it_was_written(path: Path) -> None:
    path.write_text(FILE.text())
    assert read_plan(path) == replace(FILE, reasons={})
    assert replace(read_plan(path), reasons=FILE.reasons).text() == FILE.text()


def test_it_reads_like_this() -> None:
    lines = FILE.text().splitlines()
    assert lines[:2] == ["format = 1", f'hash = "{FILE.hash}"']
    assert "size = [64, 48]" in lines
    assert '"stage1.0.branch" = ["spatial 4"]  # spatial 4: 0.61 of static' in lines
    assert '"stage2.0.branch" = ["layer 0", "channel 8"]' in lines
    assert '"stage2.1.branch" = []  # static: nothing gains' in lines


def test_the_plan_holds_the_decisions_and_what_they_were_made_for() -> None:
    plan = FILE.plan(seed=5, rate=0.25)
    assert plan.decisions[:3] == (
        Decision(block="stage1.0.branch", paradigm="spatial", granularity=4),
        Decision(block="stage2.0.branch", paradigm="layer", granularity=0),
        Decision(block="stage2.0.branch", paradigm="channel", granularity=8),
    )
    assert (plan.made_for, plan.target, plan.seed, plan.rate) == (BASIS, "v100", 5, 0.25)


def test_the_hash_is_of_the_facts_and_not_of_the_reasons() -> None:
    assert replace(FILE, reasons={}).hash == FILE.hash
    assert replace(FILE, basis=replace(BASIS, rate=0.4)).hash != FILE.hash
    assert replace(FILE, blocks={**FILE.blocks, "stage2.1.branch": (("layer", 0),)}).hash != FILE.hash


@pytest.mark.parametrize(
    ("old", "new"), [("spatial 4", "spatial 2"), ("batch = 8", "batch = 16"), ("rate = 0.5", "rate = 0.4")]
)
def test_an_edit_is_refused_until_the_hash_is_taken_out(path: Path, old: str, new: str) -> None:
    text = FILE.text().replace(f'"{old}"' if " = " not in old else old, f'"{new}"' if " = " not in new else new, 1)
    assert text != FILE.text()
    path.write_text(text)
    with pytest.raises(PlanError, match=r"plan.toml was changed after it was made; take its line `hash` out if you"):
        read_plan(path)
    path.write_text(re.sub(r'(?m)^hash = ".*"\n', "", text))
    assert read_plan(path).hash != FILE.hash


def test_a_comment_may_be_edited(path: Path) -> None:
    path.write_text(FILE.text().replace("# static: nothing gains", "# I know why") + "# mine\n")
    assert read_plan(path) == replace(FILE, reasons={})


WRONG = {
    "no TOML": ("format = 1", "format ="),
    "another format": ("format = 1", "format = 2"),
    "a word for the format": ("format = 1", 'format = "one"'),
    "no basis": ("[made_for]", "[made]"),
    "no blocks": ("[blocks]", "[parts]"),
    "no model": ('model = "tiny"\n', ""),
    "a batch of none": ("batch = 8", "batch = 0"),
    "half a batch": ("batch = 8", "batch = 8.5"),
    "one size": ("size = [64, 48]", "size = 64"),
    "a rate above one": ("rate = 0.5", "rate = 1.5"),
    "a rate that is none": ("rate = 0.5", "rate = nan"),
    "a rate in words": ("rate = 0.5", 'rate = "half"'),
    "no list": ('["spatial 4"]', '"spatial 4"'),
    "no granularity": ('["spatial 4"]', '["spatial"]'),
    "an unknown paradigm": ('["spatial 4"]', '["spacial 4"]'),
    "a negative granularity": ('["spatial 4"]', '["spatial -4"]'),
    "a granularity of no digits": ('["spatial 4"]', '["spatial \u00b2"]'),
    "a granularity without end": ('["spatial 4"]', f'["spatial {"9" * 5000}"]'),
    "a number": ('["spatial 4"]', "[4]"),
    "no structure": (f'structure = "{STRUCTURE}"\n', ""),
    "a structure of no text": (f'structure = "{STRUCTURE}"', "structure = 7"),
    "one paradigm twice": ('["spatial 4"]', '["spatial 4", "spatial 2"]'),
}


@pytest.mark.parametrize("what", WRONG)
def test_whatever_is_malformed_is_refused_in_one_line(path: Path, what: str) -> None:
    old, new = WRONG[what]
    text = re.sub(r'(?m)^hash = ".*"\n', "", FILE.text())
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises((PlanError, InputError)) as caught:
        read_plan(path)
    assert isinstance(caught.value, LaudcError)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "no text"])
def test_a_file_that_cannot_be_read_is_refused(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError, match=r"plan.toml (cannot be read|is no TOML)"):
        read_plan(path)
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        read_plan(path.parent)


def test_a_plan_fits_the_network_it_was_made_for(program: Program) -> None:
    check_fits(FILE, program)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            replace(FILE, basis=replace(BASIS, size=(224, 224))),
            "the plan is for images of 224x224, the network reads 64x48",
        ),
        (
            replace(FILE, blocks={**FILE.blocks, "layer9.9": ()}),
            "the plan of tiny does not fit this network: it has no layer9.9",
        ),
        (
            replace(FILE, blocks={name: FILE.blocks[name] for name in list(FILE.blocks)[:3]}),
            "the plan has no stage3.0.branch and 2 more",
        ),
        (
            replace(FILE, blocks={"a": (("layer", 0),)}),
            "it has no a; the plan has no stage1.0.branch and 5 more",
        ),
        (
            replace(FILE, blocks={**FILE.blocks, "stage1.0.branch": (("channel", 5),)}),
            "stage1.0.branch cannot be channel 5: 5 adjacent channels do not divide the inner width of 16",
        ),
        (
            replace(FILE, blocks={**FILE.blocks, "stage1.0.branch": (("spatial", 0),)}),
            "stage1.0.branch cannot be spatial 0: a granularity is 1 or more",
        ),
        (
            replace(FILE, blocks={**FILE.blocks, "stage1.0.branch": (("spatial", 500),)}),
            "stage1.0.branch cannot be spatial 500: 32 is the whole of the block already",
        ),
        (
            replace(FILE, blocks={**FILE.blocks, "stage1.0.branch": (("layer", 3),)}),
            "stage1.0.branch cannot be layer 3: it takes no granularity, which is written as 0",
        ),
        (
            replace(FILE, basis=replace(BASIS, structure="ab" * 32)),
            f"this is another network (digest {STRUCTURE[:8]}); plan again for v100, batch 8, rate 0.5: laudc plan",
        ),
    ],
    ids=["size", "one more", "three fewer", "other names", "width", "none", "above", "layer", "another network"],
)  # fmt: skip
def test_a_plan_that_does_not_fit_is_refused_saying_what_differs(program: Program, file: PlanFile, said: str) -> None:
    with pytest.raises(PlanError, match=re.escape(said)):
        check_fits(file, program)


def test_a_patch_as_large_as_the_map_is_still_a_patch(program: Program) -> None:
    side = max(program.blocks[0].out_size)
    check_fits(replace(FILE, blocks={**FILE.blocks, "stage1.0.branch": (("spatial", side),)}), program)


def test_a_network_is_its_structure_and_not_its_name_weights_batch_mode_or_data_type(program: Program) -> None:
    other = read_blocks(TinyNet().train(), torch.zeros(4, 3, 64, 48), source={"model": "renamed"})
    check_fits(FILE, other)
    assert structure_digest(program_for(program, (4, 3, 64, 48), dtype="float16")) == STRUCTURE
    assert structure_digest(program_for(program, (1, 3, 48, 64))) != STRUCTURE


@pytest.mark.parametrize(
    "made",
    [
        models.resnet34,
        *(pytest.param(made, marks=pytest.mark.slow) for made in (models.resnext50_32x4d, models.wide_resnet50_2)),
    ],
)
def test_networks_with_blocks_of_the_same_names_differ(made: Callable[..., nn.Module]) -> None:
    example = torch.zeros(1, 3, 64, 64)
    resnet50 = read_blocks(models.resnet50().eval(), example)
    other = read_blocks(made().eval(), example)
    assert [block.name for block in other.blocks] == [block.name for block in resnet50.blocks]
    assert structure_digest(other) != structure_digest(resnet50)


UNLIKELY = {
    'batch = "x"': ("batch = 8", "the plan is made for batch = 'x'; give a whole number above 0"),
    "batch = -3": ("batch = 8", "the plan is made for batch = -3; give a whole number above 0"),
    "batch = true": ("batch = 8", "the plan is made for batch = True; give a whole number above 0"),
    "size = [224]": ("size = [64, 48]", "the plan is made for size = [224]; give two whole numbers above 0, height"),
    "size = [0, 48]": ("size = [64, 48]", "the plan is made for size = [0, 48]; give two whole numbers"),
    "rate = 2": ("rate = 0.5", "the plan is made for rate = 2; give a number from 0 to 1"),
    "model = 3": ('model = "tiny"', "the plan is made for model = 3; give a text in quotes"),
    "modem = 3": ('model = "tiny"', "the plan does not say what model it was made for"),
    'dtype = "float99"': ('dtype = "float32"', "dtype = 'float99', in which v100 does not compute; write float32 or"),
    f'target = "{"n" * 5000}"': ('target = "v100"', "is no target that `laudc targets` lists, and there is no file"),
    'target = "nosuch"': ('target = "v100"', "target = 'nosuch' is no target that `laudc targets` lists, and there"),
}


@pytest.mark.parametrize("new", UNLIKELY)
def test_what_it_is_made_for_is_checked_by_field(path: Path, new: str) -> None:
    old, said = UNLIKELY[new]
    text = re.sub(r'(?m)^hash = ".*"\n', "", FILE.text())
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PlanError, match=re.escape(said)):
        read_plan(path)


def test_an_edited_plan_may_be_for_a_target_in_a_file(path: Path) -> None:
    file = replace(FILE, basis=replace(BASIS, target="my-board"))
    path.write_text(file.text())
    assert read_plan(path).basis.target == "my-board"  # as it was made, wherever its target's file is
    path.write_text(re.sub(r'(?m)^hash = ".*"\n', "", file.text()))
    with pytest.raises(PlanError, match=r"there is no file my-board\.toml; name one of those"):
        read_plan(path)
    (path.parent / "my-board.toml").write_text((Path(*laudc.targets.__path__) / "v100.toml").read_text())
    assert read_plan(path).basis.target == "my-board"


def test_a_granularity_of_none_is_no_channel_paradigm(program: Program) -> None:
    with pytest.raises(PlanError, match="a granularity is 1 or more"):
        check_fits(replace(FILE, blocks={**FILE.blocks, "stage3.0.branch": (("channel", 0),)}), program)


def test_what_a_plan_was_not_made_for_is_refused_item_by_item() -> None:
    same = {"target_hash": BASIS.target_hash, "target": "v100", "batch": 8, "size": (64, 48), "dtype": "float32"}
    BASIS.refuse(**same)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="planned for target v100, not a100; batch 8, not 1; image size 64x48, not 9x9"):
        BASIS.refuse(**{**same, "target": "a100", "target_hash": "c", "batch": 1, "size": (9, 9)})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="planned for target v100, not a changed v100; compile it for that"):
        BASIS.refuse(**{**same, "target_hash": "c"})  # type: ignore[arg-type]
