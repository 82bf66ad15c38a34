"""`laudc inspect`: a file's contents as tables, as JSON, as program text and as kernel source."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import laudc
import laudc.artifact
from laudc.artifact import read, read_converted
from laudc.targets import TARGETS

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""


def test_a_converted_file(cli: Cli, converted: Path) -> None:
    said = cli("inspect", str(converted))
    assert (said.exit_code, said.err) == (0, "")
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["tiny-spatial.laud:", "converted"]
    assert ["maskers", "untrained"] in lines
    images = next(line for line in said.out.splitlines() if line.split()[:1] == ["images"])
    assert "32x32: shorter side to 37, centre cut, bilinear, mean 0.485 0.456 0.406, std" in images
    assert ["plan", "spatial,", "the", "maskers", "decide,", "seed", "0"] in lines
    assert any(line[:2] == ["blocks.0", "basic"] for line in lines)
    assert any(line[:1] == ["weights.safetensors"] for line in lines)


def test_random_weights_are_random_until_others_are_loaded(cli: Cli) -> None:
    assert cli("convert", "resnet18", "--size", "32", "--no-pretrained", "-o", "net.laud").exit_code == 0
    assert json.loads(cli("inspect", "net.laud", "--json").out)["weights"] == "random"
    assert json.loads(cli("run", "net.laud", "photo.png", "--repeat", "1", "--json").out)["weights"] == "random"

    model = read_converted(Path("net.laud")).dynamic()
    others = {name: torch.ones_like(value) for name, value in model.state_dict().items() if name.endswith("fc.bias")}
    model.load_state_dict(others, strict=False)
    laudc.save(model, "net.laud", force=True)
    ran = cli("run", "net.laud", "photo.png", "--repeat", "1")
    assert ran.exit_code == 0
    assert "the classes mean nothing" not in ran.out
    shown = next(line for line in cli("inspect", "net.laud").out.splitlines() if line.split()[:1] == ["weights"])
    assert shown.split(maxsplit=1)[1].strip() == "changed since they were random"


def test_a_compiled_file_shows_passes_and_kernels(cli: Cli, compiled: Path) -> None:
    said = cli("inspect", str(compiled))
    lines = [line.split() for line in said.out.splitlines()]
    assert ["fold_batchnorm", "-4", "batch_norm"] in lines
    kernels = read(compiled).manifest["kernels"]
    shown = {line[0]: line for line in lines if line and line[0] in kernels}
    assert shown.keys() == kernels.keys()
    assert all(int(line[-1]) > 100 for line in shown.values())  # bytes of source
    assert "registers" not in said.out  # a CPU's kernels state none


@pytest.mark.parametrize("target", ["cpu", "v100"])
def test_the_kernels_stand_on_one_line_each_at_80_columns(
    target: str, cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(compiled)
    manifest = {**found.manifest, "target": TARGETS[target].to_json()}
    monkeypatch.setattr(laudc.artifact, "read", lambda _: replace(found, manifest=manifest))
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("inspect", str(compiled)).out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.endswith(" kernels"))
    kernels = [line for line in lines[start:] if line.split()[:1] and line.split()[0] in manifest["kernels"]]
    assert len(kernels) == len(manifest["kernels"])
    assert max(map(len, lines[start:])) <= 80


def test_the_targets_fit_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("targets").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["LLVM,", "in", "TVM", "cpu"] for line in lines)


def test_kernels_for_a_gpu_show_their_registers(cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(compiled)
    manifest = {**found.manifest, "target": TARGETS["v100"].to_json()}
    monkeypatch.setattr(laudc.artifact, "read", lambda _: replace(found, manifest=manifest))
    assert "registers" in cli("inspect", str(compiled)).out


def test_json_holds_it_all(cli: Cli, compiled: Path) -> None:
    facts = json.loads(cli("inspect", str(compiled), "--json").out)
    assert facts["kind"] == "compiled"
    assert facts["target"]["name"] == "cpu"
    assert facts["shape"] == [1, 3, 32, 32]
    assert facts["maskers"] == "untrained"
    assert [block["dynamic_in"] for block in facts["blocks"]] == ["spatial 2", "spatial 1"]
    assert facts["bytes"] == compiled.stat().st_size
    assert facts["members"].keys() >= facts["hashes"].keys()
    assert facts["versions"]["laudc"]


def test_the_graph_is_the_program(cli: Cli, converted: Path, compiled: Path) -> None:
    assert cli("inspect", str(converted), "--graph").out == read_converted(converted).dynamic().program.text()
    assert cli("inspect", str(compiled), "--graph").out == read(compiled).lowered


def test_a_kernel_shows_its_source(cli: Cli, compiled: Path) -> None:
    symbol = next(name for name in read(compiled).manifest["kernels"] if name.startswith("conv2d"))
    assert "def kernel" in cli("inspect", str(compiled), "--kernel", symbol).out


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("compiled.laud", "--kernel", "conv"), 2, "no kernel 'conv'; "),
        (("tiny-spatial.laud", "--kernel", "conv"), 2, "tiny-spatial.laud holds no kernels; give a file"),
        (("tiny-spatial.laud", "--graph", "--json"), 2, "--graph, --kernel and --json are three answers; ask for one"),
        (("missing.laud",), 2, "there is no file missing.laud"),
        (("net.py",), 4, "net.py is cut, changed or no .laud file"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    arguments: tuple[str, ...], exit_code: int, said: str, cli: Cli, converted: Path, compiled: Path, folder: Path
) -> None:
    (folder / "compiled.laud").symlink_to(compiled)
    found = cli("inspect", *arguments)
    assert said in found.error
    assert found.exit_code == exit_code
