"""`laudc run`: what it prints of real images, how it labels the masks, and images and files it cannot use."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from laudc.artifact import read
from laudc.compare import relative_error
from laudc.compiled import CompiledModel
from laudc.errors import ToolchainError
from laudc.static_network import in_laudc, in_torch

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""


def facts(cli: Cli, *arguments: str) -> dict[str, Any]:
    said = cli("run", *arguments, "--repeat", "2", "--json")
    assert (said.exit_code, said.err) == (0, "")
    return dict(json.loads(said.out))


def test_classes_rates_and_time(cli: Cli, compiled: Path) -> None:
    said = cli("run", str(compiled), "photo.png", "--repeat", "3")
    assert (said.exit_code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert sum(line.strip().startswith("class ") for line in lines) == 1 + 5  # a heading and the best five
    assert "maskers untrained: everything runs" in said.out
    assert re.fullmatch(r"[\d.]+ ms a call, 1 image, median of 3, on kernels for cpu", lines[-3])
    static = r"the static network: by laudc [\d.]+ ms; by torch [\d.]+ ms; by torch, channels_last [\d.]+ ms"
    assert re.fullmatch(static, lines[-2])
    compared = r"(faster than|as fast as|SLOWER than) static by (laudc|torch|torch, channels_last): ratio [\d.]+"
    assert re.fullmatch(rf"{compared}|no verdict: the machine is busy .*", lines[-1])


Clock = Callable[[Mapping[str, Sequence[float]]], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets what the calls of each variant take, in place of timing them on a machine that others use."""

    def set_ms(times_ms: Mapping[str, Sequence[float]]) -> None:
        def told(variants: Mapping[str, object], **_: object) -> dict[str, list[float]]:
            return {name: list(times_ms[name]) for name in variants}

        monkeypatch.setattr("laudc.timing.interleaved_ms", told)
        monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))

    return set_ms


TORCH = {"torch": (5.0, 5.0), "torch, channels_last": (6.0, 6.0)}


@pytest.mark.parametrize(
    ("ours_ms", "verdict"),
    [
        (2.0, "faster than static by laudc: ratio 0.50"),
        (4.008, "as fast as static by laudc: ratio 1.00"),
        (4.56, "SLOWER than static by laudc: ratio 1.14"),  # and faster than torch
    ],
)
def test_the_verdict_is_against_the_fastest_static_network(
    ours_ms: float, verdict: str, cli: Cli, compiled: Path, clock: Clock
) -> None:
    clock({"this network": (ours_ms, ours_ms), "laudc": (4.0, 4.0), **TORCH})
    lines = cli("run", str(compiled), "photo.png").out.splitlines()
    assert lines[-2:] == ["the static network: by laudc 4 ms; by torch 5 ms; by torch, channels_last 6 ms", verdict]
    found = facts(cli, str(compiled), "photo.png")
    assert (found["static"], found["static_ms"], found["verdict"]) == ("laudc", 4.0, verdict)
    assert [one["by"] for one in found["static_variants"]] == ["laudc", *TORCH]
    assert found["static_variants"][1] == {"by": "torch", "median_ms": 5.0, "middle_half_ms": [5.0, 5.0]}


def test_a_static_network_that_is_not_compiled_here_is_said_and_torch_stays(
    cli: Cli, compiled: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ToolchainError("no C++ compiler is here to link the kernels", "install g++")

    monkeypatch.setattr("laudc.static_network.in_laudc", refused)
    clock({"this network": (2.0, 2.0), **TORCH})
    lines = cli("run", str(compiled), "photo.png", "--trust").out.splitlines()
    assert lines[-3:] == [
        "the static network by laudc cannot be timed here: no C++ compiler is here to link the kernels",
        "the static network: by torch 5 ms; by torch, channels_last 6 ms",
        "faster than static by torch: ratio 0.40",
    ]


def test_the_static_network_by_laudc_gives_the_numbers_of_torchs(compiled: Path) -> None:
    model = read(compiled).model()
    assert isinstance(model, CompiledModel)
    static = in_laudc(model)
    assert (static.plan, static.shape, static.target.name) == (None, model.shape, "cpu")
    image = torch.randn(model.shape, generator=torch.Generator().manual_seed(0))
    theirs = in_torch(model.lowering.converted, dtype=torch.float32, device="cpu")["torch"](image)
    assert relative_error(static(image), theirs) < 1e-5


def test_the_static_network_can_be_left_out(cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the static network was made")

    monkeypatch.setattr("laudc.static_network.in_torch", never)
    monkeypatch.setattr("laudc.static_network.in_laudc", never)
    found = facts(cli, str(compiled), "photo.png", "--no-static")
    assert (found["static"], found["static_ms"], found["static_variants"], found["verdict"]) == (None, None, [], None)
    last = cli("run", str(compiled), "photo.png", "--no-static").out.splitlines()[-1]
    assert last.endswith("on kernels for cpu")


def test_a_block_that_is_dynamic_in_two_ways_shows_its_cost_once(cli: Cli) -> None:
    converting = ("convert", "net.py:Tiny", "--paradigm", "spatial+channel", "--size", "32", "-o", "two.laud")
    assert cli(*converting).exit_code == 0
    rows = [line.split() for line in cli("run", "two.laud", "photo.png", "--repeat", "1").out.splitlines()]
    cells = {row[0]: len(row) for row in rows if row and row[0].startswith("blocks.")}
    both = {"spatial": 4, "channel": 2}
    assert cells == {f"blocks.{index}.{way}": count for index in (0, 1) for way, count in both.items()}


def test_times_that_vary_give_no_verdict(cli: Cli, compiled: Path, clock: Clock) -> None:
    clock({"this network": (0.3, 150.0), "laudc": (4.0, 4.0), **TORCH})
    assert (
        cli("run", str(compiled), "photo.png")
        .out.splitlines()[-1]
        .endswith("middle half of the calls: this network 37.73 to 112.6 ms; static by laudc 4 to 4 ms)")
    )


def test_a_machine_that_others_use_gives_no_verdict(
    cli: Cli, compiled: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock({"this network": (4.0, 4.0), "laudc": (4.0, 4.0), **TORCH})
    monkeypatch.setattr("os.getloadavg", lambda: (500.0, 0.0, 0.0))
    assert "no verdict: the machine is busy (load 500.0" in cli("run", str(compiled), "photo.png").out.splitlines()[-1]


def test_forced_masks_are_labelled_and_cost_less(cli: Cli, compiled: Path) -> None:
    found = facts(cli, str(compiled), "photo.png", "--rate", ".25")
    assert (found["nominal_rate"], found["executed_rate"], found["masks"]) == (0.25, 0.25, "random masks")
    assert found["rates"] == {"blocks.0.spatial": 0.25, "blocks.1.spatial": 0.25}
    assert found["executed_mmacs"] < 0.6 * found["static_mmacs"]
    said = cli("run", str(compiled), "photo.png", "--rate", ".25")
    assert "random masks: nominal rate 0.25, executed 0.25" in said.out
    assert "median of 10 (random masks)" in said.out


def test_the_converted_file_gives_the_same_classes_on_torch(cli: Cli, compiled: Path, converted: Path) -> None:
    theirs, ours = (facts(cli, str(path), "photo.png", "--rate", ".5") for path in (converted, compiled))
    assert theirs["runs_on"] == "torch, dense and masked"
    for one, other in zip(theirs["images"][0]["top"], ours["images"][0]["top"], strict=True):
        assert one["index"] == other["index"]
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-4)  # of 4 decimals
    assert "nothing is skipped there" in cli("run", str(converted), "photo.png").out


def test_the_last_batch_is_filled_and_said_so(cli: Cli, compiled: Path, compiled_for_two: Path) -> None:
    Image.new("RGB", (30, 30), "red").save("red.png")
    images = ("photo.png", "red.png", "photo.png")
    two, one = (facts(cli, str(path), *images) for path in (compiled_for_two, compiled))
    assert (two["batch"], two["padded"], one["padded"]) == (2, 1, 0)
    assert [found["image"] for found in two["images"]] == list(images)
    for in_two, alone in zip(two["images"], one["images"], strict=True):
        assert [best["index"] for best in in_two["top"]] == [best["index"] for best in alone["top"]]
    assert (
        "the last batch of 2 was filled up with the last image (x1)" in cli("run", str(compiled_for_two), *images).out
    )


def test_trusted_binaries_give_the_same(cli: Cli, compiled: Path) -> None:
    trusted, built = (facts(cli, str(compiled), "photo.png", *more)["images"] for more in (["--trust"], []))
    assert trusted == built


def test_a_cache_that_cannot_be_written_is_said_once(cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CACHE", "/proc/nowhere")
    said = cli("run", str(compiled), "photo.png", "--repeat", "1", "--trust", "--no-static")
    assert said.exit_code == 0
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("kernels are not kept: /proc/nowhere cannot be used, ")


def test_random_weights_are_said_to_mean_nothing(cli: Cli) -> None:
    assert cli("convert", "resnet18", "--size", "64", "--no-pretrained", "--rate", ".5").exit_code == 0
    said = cli("run", "resnet18-spatial.laud", "photo.png", "--repeat", "1")
    assert "weights: random, the classes mean nothing" in said.out
    assert "random masks: nominal rate 0.5" in said.out  # the rate it was converted with
    best = facts(cli, "resnet18-spatial.laud", "photo.png")["images"][0]["top"][0]
    assert isinstance(best["class"], str)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("compiled.laud",), 2, "missing argument 'IMAGES...'"),
        (("compiled.laud", "missing.png"), 2, "there is no image missing.png; check the path"),
        (("compiled.laud", "."), 2, ". is a folder; name the images in it"),
        (("compiled.laud", "net.py"), 2, "net.py cannot be read: not an image; give a JPEG, PNG or WebP file"),
        (("compiled.laud", "empty.png"), 2, "empty.png cannot be read: not an image"),
        (("compiled.laud", "cut.png"), 2, "cut.png cannot be read: image file is truncated"),
        (("compiled.laud", "photo.png", "cut.png"), 2, "cut.png cannot be read"),
        (("compiled.laud", "photo.png", "--rate", "2"), 2, "the rate 2.0 is not a number from 0 to 1"),
        (("compiled.laud", "photo.png", "--rate", "nan"), 2, "the rate nan is not a number from 0 to 1"),
        (("compiled.laud", "photo.png", "--repeat", "0"), 2, "invalid value for '--repeat'"),
        (("missing.laud", "photo.png"), 2, "there is no file missing.laud"),
        (("compiled", "photo.png"), 2, "there is no file compiled; did you mean compiled.laud?"),
        (("net.py", "photo.png"), 4, "net.py is cut, changed or no .laud file"),
        (("cut.laud", "photo.png"), 4, "cut.laud is cut, changed or no .laud file"),
        (("edited.laud", "photo.png"), 4, "edited.laud is cut, changed or no .laud file"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    arguments: tuple[str, ...], exit_code: int, said: str, cli: Cli, compiled: Path, folder: Path
) -> None:
    shutil.copy(compiled, "compiled.laud")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:-2000])
    whole = compiled.read_bytes()
    (folder / "cut.laud").write_bytes(whole[: len(whole) // 2])
    (folder / "edited.laud").write_bytes(whole.replace(b'"stride": 2', b'"stride": 1', 1))
    found = cli("run", *arguments)
    assert said in found.error
    assert found.exit_code == exit_code
