"""`laudc compile`: which file it takes, what it writes and says, and every way to ask for something impossible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import laudc.api
import laudc.artifact
import laudc.targets
from laudc.artifact import read
from laudc.compiled import CompiledModel
from laudc.kernels.archive import read_archive

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""

CPU = Path(laudc.targets.__path__[0]) / "cpu.toml"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be compiled."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("something was compiled")

    monkeypatch.setattr(laudc.api, "compile", work)


def laud_files(folder: Path) -> list[str]:
    """The .laud files, unfinished ones too."""
    return sorted(path.name for path in folder.iterdir() if ".laud" in path.name)


def test_it_takes_the_one_converted_file_and_says_which(cli: Cli, converted: Path, folder: Path) -> None:
    (folder / "damaged.laud").write_text("not a file of ours")
    said = cli("compile", "--target", "cpu")
    assert (said.exit_code, said.err) == (0, "")
    assert said.out.startswith("compiling tiny-spatial.laud, the only converted file here\n")
    assert "wrote tiny-spatial.cpu.laud" in said.out
    model = read(folder / "tiny-spatial.cpu.laud").model()
    assert isinstance(model, CompiledModel)
    assert model.shape == (1, 3, 32, 32)
    assert cli("compile", "--target", "cpu", "--force").exit_code == 0  # the compiled one beside it is no candidate


def test_the_files_of_a_folder_are_read_once(
    cli: Cli, converted: Path, compiled: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(compiled, folder)
    done, opened = read(compiled).model(trust=True), list[str]()

    def counted(path: Path) -> object:
        opened.append(path.name)
        return read_archive(path)

    monkeypatch.setattr(laudc.artifact, "read_archive", counted)
    monkeypatch.setattr(laudc.api, "compile", lambda *_, **__: done)
    assert cli("compile", "--target", "cpu").exit_code == 0
    assert sorted(opened) == [compiled.name, str(converted)]


def test_the_summary_names_the_passes_and_counts_the_kernels(cli: Cli, converted: Path) -> None:
    said = cli("compile", str(converted), "--target", "cpu")
    lines = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line.split()}
    assert lines["fold_batchnorm"] == ["-4", "batch_norm"]
    assert lines["drop_dropout"] == ["nothing"]
    # the stem, two blocks of two, the projection, and the linear layer, which is a 1x1 convolution
    assert lines["conv-cpu"][1] == "7"


@pytest.mark.slow
def test_a_fusion_can_be_left_out(cli: Cli, converted: Path) -> None:
    said = cli("compile", str(converted), "--target", "cpu", "--no-fuse", "gather-conv", "--json")
    facts = json.loads(said.out)
    assert facts["without"] == ["gather-conv"]
    assert "fuse_gather_conv" not in [step["name"] for step in facts["passes"]]
    assert read(Path(facts["file"])).manifest["without"] == ["gather-conv"]


def test_a_batch_and_a_target_file_of_ones_own(cli: Cli, converted: Path, folder: Path) -> None:
    shutil.copy(CPU, folder / "my-board.toml")
    said = cli("compile", "--target", "./my-board.toml", "--batch", "2", "--json")
    facts = json.loads(said.out)
    assert (facts["file"], facts["input"]) == ("tiny-spatial.my-board.laud", [2, 3, 32, 32])
    assert "the only converted file" in said.err


@pytest.mark.slow
def test_another_size_than_it_was_converted_with(cli: Cli, converted: Path) -> None:
    facts = json.loads(cli("compile", "--target", "cpu", "--size", "24x36", "--json").out)
    assert facts["input"] == [1, 3, 24, 36]
    assert cli("run", facts["file"], "photo.png").exit_code == 0


@pytest.mark.slow
def test_a_file_in_bfloat16(cli: Cli, converted: Path) -> None:
    facts = json.loads(cli("compile", "--target", "a100", "--dtype", "bfloat16", "--json").out)
    assert facts["dtype"] == "bfloat16"
    assert all(kernel["spill_bytes"] == 0 for kernel in facts["kernels"])
    model = read(Path(facts["file"])).model(trust=True)
    assert isinstance(model, CompiledModel)
    assert (model.dtype, model.lowering.executable.output.type.dtype) == ("bfloat16", "bfloat16")
    assert cli("inspect", facts["file"]).exit_code == 0


@pytest.mark.slow
def test_a_gpu_that_is_not_here_gets_code_all_the_same(cli: Cli, converted: Path) -> None:
    said = cli("compile", "--target", "jetson-tx2", "--json")
    facts = json.loads(said.out)
    assert (facts["file"], facts["arch"]) == ("tiny-spatial.jetson-tx2.laud", "sm_62")
    assert all(kernel["spill_bytes"] == 0 for kernel in facts["kernels"])
    assert sum(name.endswith(".cu") for name in read_archive(Path(facts["file"]))[1]) == len(facts["kernels"])
    refused = cli("run", facts["file"], "photo.png")
    assert refused.error.startswith("no CUDA device is here to run what was compiled for jetson-tx2; ")
    assert refused.exit_code == 5


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("--target", "tx2"), 2, "no target 'tx2'; did you mean jetson-tx2"),
        (("--target", "./missing.toml"), 2, "missing.toml"),
        (("--target", "./ghz.toml"), 2, "check its unit"),
        (("--target", "cpu", "--no-fuse", "everything"), 2, "no fusion 'everything'; there are "),
        (("--target", "cpu", "--no-fuse", "GatherConv"), 2, "no fusion 'GatherConv'; did you mean gather-conv?"),
        (("--target", "cpu", "--no-fuse", "fold-batchnorm"), 2, "no fusion 'fold-batchnorm'; there are "),
        (("--target", "cpu", "--batch", "0"), 2, "invalid value for '--batch': 0 is not in the range x>=1"),
        (("--target", "cpu", "--size", "-3"), 2, "the size '-3' is not whole numbers above 0"),
        (("--target", "cpu", "-o", "taken.laud"), 2, "taken.laud exists; give another name"),
        (("--target", "cpu", "-o", "nowhere/a.laud"), 7, "there is no folder nowhere; make it first"),
        (("--target", "cpu", "-o", "/proc/a.laud"), 7, "/proc/a.laud cannot be written: "),
        (("missing.laud", "--target", "cpu"), 2, "there is no file missing.laud; make one with `laudc convert`"),
        (("taken.laud", "--target", "cpu"), 4, "taken.laud is cut, changed or no .laud file"),
        (("cut.laud", "--target", "cpu"), 4, "cut.laud is cut, changed or no .laud file"),
        ((), 2, "missing option '--target'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], exit_code: int, said: str, cli: Cli, converted: Path, folder: Path
) -> None:
    (folder / "taken.laud").write_text("mine")
    (folder / "cut.laud").write_bytes((folder / converted).read_bytes()[:-1000])
    (folder / "ghz.toml").write_text(CPU.read_text().replace("clock_mhz = { value = ", "clock_mhz = { value = 0.00"))
    before = laud_files(folder)
    named = () if not arguments or arguments[0].endswith(".laud") else (str(converted),)
    found = cli("compile", *named, *arguments)
    assert said in found.error
    assert found.exit_code == exit_code
    assert laud_files(folder) == before


def test_a_dtype_that_the_target_lacks(cli: Cli, converted: Path, folder: Path) -> None:
    found = cli("compile", str(converted), "--target", "cpu", "--dtype", "float64")
    assert found.error == "cpu does not compute in 'float64'; choose from float32"
    assert laud_files(folder) == [str(converted)]


def test_a_compiled_file_is_not_compiled_again(cli: Cli, compiled: Path, folder: Path) -> None:
    found = cli("compile", str(compiled), "--target", "cpu")
    assert found.error.endswith("is compiled already; give the file it was compiled from")
    assert (found.exit_code, laud_files(folder)) == (2, [])


def test_several_converted_files_are_listed(cli: Cli, converted: Path, folder: Path) -> None:
    shutil.copy(converted, "other.laud")
    found = cli("compile", "--target", "cpu")
    assert found.error.startswith("2 files here could be compiled: other.laud, tiny-spatial.laud; name one")
    assert (found.exit_code, laud_files(folder)) == (2, ["other.laud", "tiny-spatial.laud"])


def test_an_empty_folder_gets_the_next_step(cli: Cli) -> None:
    found = cli("compile", "--target", "cpu")
    assert found.error == "no converted .laud file is in this folder; make one: laudc convert resnet50"
    assert found.exit_code == 2


@pytest.mark.slow
def test_the_mission_from_any_folder(tmp_path: Path) -> None:
    program = "import laudc, torchvision; m = laudc.transform(torchvision.models.resnet50(weights=None)); print(m)"
    commands = [
        "laudc convert resnet50 --paradigm spatial",
        "laudc compile --target jetson-tx2",
        f'python -c "{program}"',
    ]
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "TORCH_HOME": str(tmp_path / "empty"),
        "https_proxy": "http://127.0.0.1:9",  # nobody answers there
    }
    said = [
        subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=True
        )
        for command in commands
    ]
    assert "16 of 16 blocks can skip work" in said[0].stdout
    assert said[0].stderr.startswith("the pretrained weights of resnet50 (IMAGENET1K_V2) cannot be had: no connection")
    assert said[1].stdout.startswith("compiling resnet50-spatial.laud, the only converted file here\n")
    assert said[2].stdout.startswith("DynamicModel(")
    assert laud_files(tmp_path) == ["resnet50-spatial.jetson-tx2.laud", "resnet50-spatial.laud"]
