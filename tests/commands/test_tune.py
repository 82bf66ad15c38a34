"""`laudc tune`: what it says and keeps, what it refuses, and how the other commands show what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import laudc
import laudc.compiled
from laudc.artifact import read
from laudc.compiled import CompiledModel
from laudc.latency import tuning
from laudc.latency.constants import tuned_path
from laudc.latency.machine import here
from laudc.targets import TARGETS

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CALIBRATION", str(tmp_path / "kept"))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second tile of each kernel is the fastest, without a clock; and no tile is built for it."""
    monkeypatch.setattr(tuning, "right_calls", lambda task, step, binaries: {0: None, 1: None})
    monkeypatch.setattr(tuning, "side_by_side_us", lambda calls, kind, rounds: {"0": 10.0, "1": 8.0})
    monkeypatch.setattr(tuning, "build_all", lambda kernels: {})


@pytest.mark.usefixtures("timed")
def test_it_says_what_it_timed_and_compile_and_inspect_say_what_they_took(cli: Cli, converted: Path) -> None:
    said = cli("tune", str(converted), "--rates", ".5")
    assert (said.exit_code, said.err) == (0, "")
    path = tuned_path(here(TARGETS["cpu"]))
    count = len(json.loads(path.read_text())["tiles"])
    assert f"{count} kernels timed, {count} of them faster than their default; 0 were known" in said.out
    assert f"wrote {path}; the next `laudc compile` takes what it holds" in said.out
    assert max(map(len, (line.rstrip() for line in said.out.splitlines() if "conv2d" in line))) <= 80

    again = cli("tune", str(converted), "--rates", ".5")
    assert again.out == f"0 kernels timed, 0 of them faster than their default; {count} were known\n"

    facts = json.loads(cli("compile", str(converted), "--target", "cpu", "--json").out)
    origins = {kernel["symbol"]: kernel["origin"] for kernel in facts["kernels"]}
    assert {origin for symbol, origin in origins.items() if symbol.startswith("conv2d")} == {"tuned"}
    compiled = cli("compile", str(converted), "--target", "cpu", "--force").out
    tuned = list(origins.values()).count("tuned")
    assert f"tiles of {len(origins)} kernels: {len(origins) - tuned} default, {tuned} tuned" in compiled

    shown = {line.split()[0]: line.split() for line in cli("inspect", facts["file"]).out.splitlines() if line.split()}
    assert {symbol: shown[symbol][3] for symbol in origins} == origins
    steps = json.loads(cli("inspect", facts["file"], "--json").out)["steps"]
    assert {step["kernel"]: step["origin"] for step in steps} == origins


@pytest.mark.usefixtures("timed")
def test_a_compiled_file_keeps_its_tiles_and_where_they_came_from(cli: Cli, converted: Path, folder: Path) -> None:
    assert cli("tune", str(converted), "--rates", ".5").exit_code == 0
    assert cli("compile", str(converted), "--target", "cpu", "-o", "tuned.laud").exit_code == 0
    tuned_path(here(TARGETS["cpu"])).unlink()
    loaded = laudc.load("tuned.laud")
    assert isinstance(loaded, CompiledModel)
    steps = read(Path("tuned.laud")).manifest["steps"]
    found = {step.name: (step.kernel.choice, step.kernel.origin) for step in loaded.lowering.executable.steps}
    assert found == {step["name"]: (step["choice"], step["origin"]) for step in steps}
    assert "tuned" in {origin for _, origin in found.values()}
    laudc.save(loaded, "again.laud")
    assert read(Path("again.laud")).manifest["steps"] == steps


@pytest.mark.usefixtures("timed")
def test_json_tells_every_kernel(cli: Cli, converted: Path) -> None:
    facts = json.loads(cli("tune", str(converted), "--rates", ".5", "--batch", "2", "--json").out)
    assert (facts["shape"], facts["dtype"], facts["target"]) == ([2, 3, 32, 32], "float32", "cpu")
    assert (facts["known"], facts["unsure"], facts["left"]) == (0, 0, 0)
    assert {"op", "types", "band", "schedule", "choice", "us", "default_us", "candidates"} <= facts["timed"][0].keys()


@pytest.mark.usefixtures("timed")
def test_a_network_by_name_and_a_short_time(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laudc.compiled, "build_all", lambda kernels, built: {})
    said = cli("tune", "net.py:Tiny", "--size", "32", "--paradigm", "channel", "--minutes", "1e-9")
    assert said.exit_code == 0
    assert "the time is up: " in said.out
    assert "wrote" not in said.out


@pytest.mark.usefixtures("timed")
def test_of_a_default_that_is_not_right_it_tells(cli: Cli, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "right_calls", lambda task, step, binaries: {})
    assert "kernels keep their default: it does not agree with the reference" in cli("tune", str(converted)).out


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["no-such-net"], 2, "no model 'no-such-net'"),
        (["tiny-spatial.laud", "--target", "v100"], 5, "v100 is not here to be measured; run it on the device"),
        (["tiny-spatial.laud", "--rates", "2"], 2, "the rate 2.0 is not a number from 0 to 1"),
        (["tiny-spatial.laud", "--paradigm", "layer"], 2, "tiny-spatial.laud says what is skipped; leave --paradigm"),
        (["tiny-spatial.laud", "--minutes", "0"], 2, "invalid value for '--minutes'"),
        ([], 2, "missing argument 'MODEL'; see 'laudc tune --help'"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_one_line(
    arguments: list[str], exit_code: int, said: str, cli: Cli, converted: Path
) -> None:
    found = cli("tune", *arguments)
    assert found.error.startswith(said)
    assert found.exit_code == exit_code


def test_a_busy_machine_is_left_alone(cli: Cli, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (50.0, 50.0, 50.0))
    found = cli("tune", str(converted))
    assert found.error.startswith("the machine is busy (load 50.0 on ")
    assert found.error.endswith("; leave it alone and run `laudc tune` again")


def test_a_damaged_store_stops_tuning_and_compiling_with_one_line(cli: Cli, converted: Path) -> None:
    path = tuned_path(here(TARGETS["cpu"]))
    path.parent.mkdir()
    path.write_text("{")
    for command in (["tune", str(converted)], ["compile", str(converted), "--target", "cpu"]):
        found = cli(*command)
        assert found.error == f"{path} holds no tiles of this laudc; remove it, and run `laudc tune` again"
        assert found.exit_code == 7
