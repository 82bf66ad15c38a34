"""`laudc convert`: the file it writes, what it prints, and every way to ask for something impossible."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import laudc.models
from laudc.artifact import read
from laudc.dynamic_model import DynamicModel

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""
TINY = ("convert", "net.py:Tiny", "--size", "32")
LARGE = ("convert", "net.py:Tiny", "--size", "512")
"""Images on which skipping pays for its launches."""


def new_files(folder: Path) -> list[str]:
    """What the commands wrote, hidden files too."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("net.py", "photo.png", "__pycache__"))


def loaded(path: str) -> DynamicModel:
    model = read(Path(path)).model()
    assert isinstance(model, DynamicModel)
    return model


def test_it_writes_the_file_named_for_model_and_paradigm(cli: Cli, folder: Path) -> None:
    said = cli(*TINY)
    assert (said.exit_code, said.err) == (0, "")
    assert new_files(folder) == ["tiny-spatial.laud"]
    assert "wrote tiny-spatial.laud" in said.out
    assert loaded("tiny-spatial.laud").plan.paradigm == "spatial"


def test_a_size_that_was_assumed_is_said(cli: Cli) -> None:
    assert cli("convert", "net.py:Tiny", "--dry-run").err == "assumed 224x224; --size for another\n"
    assert cli("convert", "resnet18", "--no-pretrained", "--dry-run").err == ""  # its weights know


def test_a_size_that_leaves_one_pixel_of_every_map_is_said(cli: Cli) -> None:
    said = cli("convert", "net.py:Tiny", "--size", "2", "--dry-run")
    assert said.err == "every map is 1x1 at this size, one patch a block; --size for a larger one\n"
    assert cli("convert", "net.py:Tiny", "--size", "4", "--dry-run").err == ""


def test_the_block_table_says_what_each_block_costs(cli: Cli) -> None:
    lines = cli(*TINY, "--granularity", "4-2", "--dry-run").out.splitlines()
    row = next(line.split() for line in lines if line.strip().startswith("blocks.1"))
    # 64 positions x (9 x 16 x 32 + 9 x 32 x 32 + 16 x 32 for the projection) = .917 million
    assert row == ["blocks.1", "basic", "2", "8x8", "2", "spatial", "2", "0.9", "41.5"]
    assert "maskers untrained: everything runs" in lines
    assert "weights: as its own file makes them" in lines


def test_json_holds_the_same_facts(cli: Cli) -> None:
    said = cli(*TINY, "--paradigm", "layer+channel", "--granularity", "4-8", "--rate", ".5", "--json")
    facts = json.loads(said.out)
    assert facts["file"] == "tiny-layer+channel.laud"
    assert (facts["rate"], facts["weights"], facts["input"]) == (0.5, "own", [1, 3, 32, 32])
    assert [block["dynamic_in"] for block in facts["blocks"]] == ["layer + channel 4", "layer + channel 8"]
    assert sum(block["share"] for block in facts["blocks"]) == pytest.approx(0.949, abs=1e-3)


def test_the_granularity_is_planned_for_this_machine_and_holds_for_any(cli: Cli) -> None:
    cli(*TINY)
    plan = loaded("tiny-spatial.laud").plan
    assert [decision.block for decision in plan.decisions] == ["blocks.0", "blocks.1"]
    assert (plan.target, plan.made_for) == (None, None)


def test_a_named_target_is_planned_for_and_binds(cli: Cli, folder: Path) -> None:
    facts = json.loads(cli(*LARGE, "--target", "jetson-nano", "--json").out)
    assert facts["file"] == "tiny-auto.laud"  # every paradigm is weighed
    made_for = facts["made_for"]
    assert (made_for["target"], made_for["batch"], made_for["rate"]) == ("jetson-nano", 1, 0.5)
    (folder / "tiny-auto.jetson-tx2.laud").write_text("mine")
    found = cli("compile", "tiny-auto.laud", "--target", "jetson-tx2")
    assert found.exit_code == 2
    assert "the network was planned for target jetson-nano, not jetson-tx2" in found.error
    found = cli("compile", "tiny-auto.laud", "--target", "jetson-nano", "--batch", "3")
    assert "planned for batch 1, not 3; compile it for that, or plan again" in found.error


def test_a_target_is_planned_for_at_the_batch_and_rate_that_are_given(cli: Cli) -> None:
    facts = json.loads(cli(*LARGE, "--target", "jetson-nano", "--batch", "4", "--rate", ".25", "--json").out)
    assert (facts["made_for"]["batch"], facts["made_for"]["rate"], facts["rate"]) == (4, 0.25, 0.25)
    plan = loaded("tiny-auto.laud").plan
    assert (plan.made_for and plan.made_for.batch, plan.expected_rate) == (4, 0.25)
    assert cli(*LARGE, "--target", "jetson-nano", "--paradigm", "layer").exit_code == 0
    assert loaded("tiny-layer.laud").plan.paradigm == "layer"
    said = cli(*TINY, "--target", "jetson-nano", "--granularity", "4", "--json")
    assert json.loads(said.out)["file"] == "tiny-spatial.laud"


def test_a_plan_for_another_network_is_refused_and_a_renamed_one_is_not(cli: Cli, folder: Path) -> None:
    assert cli("plan", "net.py:Tiny", "--size", "512", "--target", "jetson-nano", "--rate", ".25").exit_code == 0
    (folder / "wider.py").write_text((folder / "net.py").read_text().replace("outputs, 3, 1, 1", "outputs, 5, 1, 2"))
    found = cli("convert", "wider.py:Tiny", "--plan", "plan.toml")
    assert found.exit_code == 2
    assert "the plan is for net.py:Tiny (digest " in found.error
    assert "), this is wider.py:Tiny (digest " in found.error
    assert found.error.endswith("; plan again for jetson-nano, batch 1, rate 0.25: laudc plan wider.py:Tiny")
    assert cli("convert", "net.py:make_tiny", "--plan", "plan.toml").exit_code == 0
    plan = loaded("make_tiny-auto.laud").plan
    assert (plan.rate, plan.expected_rate) == (None, 0.25)


def test_a_target_on_which_nothing_gains_is_said(cli: Cli, folder: Path) -> None:
    found = cli(*TINY, "--target", "jetson-nano", "--rate", "0.9")
    assert "no block is predicted to gain on jetson-nano at rate 0.9" in found.error
    assert found.exit_code == 2
    rarely = ("--size", "32", "--target", "jetson-nano", "--rate", "0.9")
    assert cli("plan", "net.py:Tiny", *rarely).exit_code == 0
    assert "the plan leaves every block static" in cli("convert", "net.py:Tiny", "--plan", "plan.toml").error
    assert new_files(folder) == ["plan.toml"]


def test_a_plan_is_obeyed_or_refused_with_what_differs(cli: Cli, folder: Path) -> None:
    assert cli("plan", "net.py:Tiny", "--size", "512", "--target", "jetson-nano", "--batch", "2").exit_code == 0
    text = (folder / "plan.toml").read_text()
    assert cli("convert", "net.py:Tiny", "--plan", "plan.toml").exit_code == 0
    plan = loaded("tiny-auto.laud").plan
    assert plan.made_for is not None
    assert (plan.made_for.batch, plan.made_for.size) == (2, (512, 512))
    for option in (("--paradigm", "layer"), ("--granularity", "4"), ("--target", "v100"), ("--batch", "2")):
        said = "a plan says paradigm, granularity, target and batch; leave those options out beside the plan"
        assert cli("convert", "net.py:Tiny", "--plan", "plan.toml", *option).error == said
    (folder / "plan.toml").write_text(text.replace('"blocks.0"', '"blocks.9"'))
    assert "plan.toml was changed after it was made" in cli("convert", "net.py:Tiny", "--plan", "plan.toml").error
    lines = [line for line in text.splitlines() if not line.startswith("hash")]
    (folder / "plan.toml").write_text("\n".join(lines).replace('"blocks.0"', '"blocks.9"'))
    found = cli("convert", "net.py:Tiny", "--plan", "plan.toml", "--force")
    assert "it has no blocks.9; the plan has no blocks.0" in found.error


def test_a_dry_run_writes_nothing(cli: Cli, folder: Path) -> None:
    (folder / "tiny-spatial.laud").write_text("mine")
    assert "nothing was written" in cli(*TINY, "--dry-run").out
    assert (folder / "tiny-spatial.laud").read_text() == "mine"


def test_a_rate_is_told_and_kept(cli: Cli) -> None:
    said = cli(*TINY, "--rate", "0.25", "--seed", "3")
    assert "random masks at rate 0.25 stand in for the maskers" in said.out
    plan = loaded("tiny-spatial.laud").plan
    assert (plan.rate, plan.seed) == (0.25, 3)


def test_keeping_first_blocks_that_are_all_there_are_is_refused(cli: Cli) -> None:
    found = cli(*TINY, "--keep-first")
    assert found.error == "only first blocks of stages can skip work here; leave keep_first out"


def test_force_replaces_a_file(cli: Cli, folder: Path) -> None:
    (folder / "tiny-spatial.laud").write_text("old")
    assert cli(*TINY, "--force").exit_code == 0
    assert loaded("tiny-spatial.laud").plan.paradigm == "spatial"


def test_a_function_that_makes_the_network_will_do(cli: Cli, folder: Path) -> None:
    assert cli("convert", "net.py:make_tiny", "--size", "20x28").exit_code == 0
    assert loaded("make_tiny-spatial.laud").program.source["model"] == "net.py:make_tiny"


def test_random_weights_are_conditioned_and_recorded(cli: Cli) -> None:
    said = cli("convert", "resnet18", "--size", "64", "--no-pretrained")
    assert "weights: random" in said.out
    model = loaded("resnet18-spatial.laud")
    assert model.program.source["weights"] == "random"
    scales = {name: value for name, value in model.state_dict().items() if name.endswith(("bn1.weight", "bn2.weight"))}
    for name, scale in scales.items():
        expected = 0.2 if name.endswith("bn2.weight") else 1.0
        assert torch.equal(scale, torch.full_like(scale, expected)), name


def test_the_same_seed_draws_the_same_weights(cli: Cli) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        cli("convert", "timm/resnet10t", "--size", "64", "--no-pretrained", "--seed", seed, "-o", f"{name}.laud")
    first, same, other = (loaded(f"{name}.laud").state_dict() for name in "abc")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["graph.conv1.0.weight"], other["graph.conv1.0.weight"])


def test_timm_names_become_file_names(cli: Cli, folder: Path) -> None:
    assert cli("convert", "timm/resnet10t", "--size", "64", "--no-pretrained").exit_code == 0
    assert new_files(folder) == ["timm-resnet10t-spatial.laud"]


def test_weights_that_cannot_be_had_are_one_sentence(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str) -> None:
        raise ConnectionError("no connection to there")

    monkeypatch.setattr(laudc.models, "_probe", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    said = cli("convert", "resnet18", "--size", "64", "--json")
    assert said.exit_code == 0
    assert said.err == (
        "the pretrained weights of resnet18 (IMAGENET1K_V1) cannot be had: no connection to there; "
        "going on with random ones\n"
    )
    assert json.loads(said.out)["weights"] == "random"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("resnet5o",), 2, "no model 'resnet5o'; did you mean resnet50"),
        (("timm/resnet5o",), 2, "no model 'timm/resnet5o'; did you mean timm/resnet50"),
        (("timm/resnet50.nonsense",), 2, "no model 'timm/resnet50.nonsense'; did you mean timm/resnet50."),
        (("vit_small_patch16_224",), 2, "did you mean timm/vit_small_patch16_224"),
        (("nothing.py:Tiny",), 2, "there is no file nothing.py; a network of your own is path/file.py:Class"),
        (("net.py",), 2, "net.py names no class; write net.py:Class"),
        (("photo.png",), 2, "photo.png is a file and names no class; a model is a name of torchvision"),
        (
            ("gameboy",),
            2,
            "no model 'gameboy'; a model is a name of torchvision (resnet50) or timm (timm/resnet50), or",
        ),
        (("net.py:Tini",), 2, "no class in net.py 'Tini'; did you mean Tiny"),
        (("net.py:Needy",), 2, "Needy of net.py needs width; give them defaults"),
        (("net.py:Broken",), 2, "Broken() of net.py raises RuntimeError: no such dataset; make it work"),
        (("net.py:make_text",), 2, "make_text() of net.py is a str; return a torch.nn.Module"),
        (("bad.py:Tiny",), 2, "importing bad.py raises SyntaxError: "),
        (("leaves.py:Tiny",), 2, "importing leaves.py raises SystemExit: 3"),
        (("net.py:Plain",), 3, "Plain has no residual block that laudc understands"),
        (("net.py:Branching", "--size", "32"), 3, "the forward of Branching cannot be traced: "),
        (
            ("net.py:Gated", "--size", "32"),
            3,
            "the blocks of Gated are of no kind that laudc knows: they hold squeeze-",
        ),
        (
            ("net.py:HeadGated", "--size", "32"),
            3,
            "net.py:HeadGated holds what laudc has no operation for: squeeze-and-",
        ),
        (
            ("net.py:Attentive", "--size", "32"),
            3,
            "the blocks of Attentive are of no kind that laudc knows: they hold L",
        ),
        (("squeezenet1_1", "--size", "64", "--no-pretrained"), 3, "SqueezeNet has no residual block"),
        (("net.py:Tiny", "--paradigm", "spatial+spatial"), 2, "the paradigm 'spatial' is named twice"),
        (("net.py:Tiny", "--paradigm", "spatal"), 2, "no paradigm 'spatal'; did you mean spatial"),
        (("net.py:Tiny", "--granularity", "4-4-2"), 2, "the granularity '4-4-2' has 3 numbers; give 1, 2"),
        (("net.py:Tiny", "--granularity", "0"), 2, "the granularity '0' is not whole numbers above 0"),
        (("net.py:Tiny", "--granularity", "4--2"), 2, "the granularity '4--2' is not whole numbers above 0"),
        (("net.py:Tiny", "--granularity", "1.5"), 2, "the granularity '1.5' is not whole numbers above 0"),
        (("net.py:Tiny", "--rate", "1.5"), 2, "the rate 1.5 is not a number from 0 to 1"),
        (("net.py:Tiny", "--rate", "-0.1"), 2, "the rate -0.1 is not a number from 0 to 1"),
        (("net.py:Tiny", "--rate", "nan"), 2, "the rate nan is not a number from 0 to 1"),
        (("net.py:Tiny", "--batch", "4"), 2, "a batch is planned for only on a named target"),
        (
            ("net.py:Tiny", "--target", "v100", "--granularity", "4", "--batch", "4"),
            2,
            "only on a named target, without a granularity; name a target, or leave the batch out",
        ),
        (("net.py:Tiny", "--target", "v100", "--batch", "0"), 2, "invalid value for '--batch': 0"),
        (("net.py:Tiny", "--paradigm", "auto", "--granularity", "4"), 2, "auto chooses the granularity too"),
        (("net.py:Tiny", "--plan", "none.toml"), 2, "none.toml cannot be read: No such file or directory"),
        (("net.py:Tiny", "--size", "0"), 2, "the size '0' is not whole numbers above 0"),
        (("net.py:Tiny", "--size", "32x"), 2, "the size '32x' is not whole numbers above 0"),
        (("net.py:Tiny", "-o", "taken.laud"), 2, "taken.laud exists; give another name"),
        (("net.py:Tiny", "-o", "."), 7, ". is a folder; name a file in it"),
        (("net.py:Tiny", "-o", "nowhere/a.laud"), 7, "there is no folder nowhere; make it first"),
        ((), 2, "missing argument 'MODEL'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], exit_code: int, said: str, cli: Cli, folder: Path
) -> None:
    (folder / "bad.py").write_text("class Tiny(\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "taken.laud").write_text("mine")
    found = cli("convert", *arguments)
    assert said in found.error
    assert found.exit_code == exit_code
    assert new_files(folder) == ["bad.py", "leaves.py", "taken.laud"]


def test_a_file_that_exists_or_cannot_be_written_is_refused_before_any_work(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(laudc.models, "open_model", work)
    (folder / "resnet50-spatial.laud").write_text("mine")
    assert cli("convert", "resnet50").error.startswith("resnet50-spatial.laud exists; ")
    assert cli("convert", "resnet50", "-o", "/proc/a.laud").error.startswith("/proc/a.laud cannot be written: ")
