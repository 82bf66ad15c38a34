"""`laudc bench`: which variants are timed, and what is said of how they compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""
TORCH = {"torch": [8.0] * 3, "torch, channels_last": [4.0] * 3}
APART = {f"{name}, norms apart": [9.0] * 3 for name in TORCH}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Sequence[float]]], None]:
    """Sets what the calls of each variant take, in place of timing them on a machine that others use."""

    def set_ms(times_ms: Mapping[str, Sequence[float]]) -> None:
        def told(variants: Mapping[str, object], **_: object) -> dict[str, list[float]]:
            return {name: list(times_ms[_short(name)]) for name in variants}

        monkeypatch.setattr("laudc.benchmark.interleaved_ms", told)
        monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))

    return set_ms


def _short(variant: str) -> str:
    """laudc for a static variant by laudc; at rate 1 for any network at rate 1."""
    return (
        variant.removeprefix("static by ") if variant.startswith("static by ") else variant[variant.index("at rate") :]
    )


def at(**rates: float) -> dict[str, list[float]]:
    return {f"at rate {name.removeprefix('r').replace('_', '.')}": [ms] * 3 for name, ms in rates.items()}


def test_every_variant_is_timed_in_one_run(cli: Cli, compiled: Path) -> None:
    said = cli("bench", str(compiled), "--quick", "--rounds", "3", "--rates", "0,.5", "--json")
    assert said.exit_code == 0, said.err
    facts = json.loads(said.out)
    assert list(facts["static_ms"]) == ["laudc", *TORCH, *APART]
    (network,) = facts["networks"]
    dynamic = network["dynamic"]
    assert [one["rate"] for one in dynamic] == [1.0, 0.0, 0.5]
    assert [one["executed_rate"] for one in dynamic][:2] == [1.0, 0.0]
    assert dynamic[2]["executed_rate"] == pytest.approx(0.5, abs=0.1)
    every = [*facts["static_ms"].values(), *(one["samples_ms"] for one in dynamic)]
    assert all(len(times) == 3 and min(times) > 0 for times in every)
    assert all(one["predicted_ms"] > 0 and len(one["executed_rates"]) == 2 for one in dynamic)
    blocks = [times for one in dynamic for times in one["blocks_ms"].values()]
    assert len(blocks) == 6
    assert all(times["measured"] > 0 and times["predicted"] > 0 for times in blocks)
    assert list(facts["static_blocks_ms"]) == list(dynamic[0]["blocks_ms"])
    assert facts["random"] == "images and masks"
    assert facts["not_run"] == {}


def test_the_verdict_parts_what_kernels_gain_from_what_skipping_gains(cli: Cli, compiled: Path, clock: Any) -> None:
    clock({"laudc": [2.0] * 3, **TORCH, **APART, **at(r1=5.0, r0_5=1.0)})
    said = cli("bench", str(compiled), "--quick", "--rounds", "3")
    assert said.exit_code == 0
    lines = said.out.splitlines()
    assert lines[-1] == (
        "at rate 0.5 faster than static by laudc: ratio 0.50; laudc's kernels alone: 0.50 of static by torch, "
        "channels_last; skipping alone: 0.50 of static by laudc; at worst, with everything on: 1.25 of static by "
        "torch, channels_last"
    )
    facts = json.loads(cli("bench", str(compiled), "--quick", "--rounds", "3", "--json").out)
    rate = facts["networks"][0]["break_even_rate"]
    assert rate == pytest.approx(0.5 + 0.5 * (4 - 1) / (5 - 1), abs=0.05)
    assert f"at an executed rate of {rate:.2f}" in said.out


def test_slower_is_called_slower(cli: Cli, compiled: Path, clock: Any) -> None:
    clock({"laudc": [2.0] * 3, **TORCH, **APART, **at(r1=5.0, r0_5=3.0)})
    said = cli("bench", str(compiled), "--quick", "--rounds", "3")
    assert "at rate 0.5 SLOWER than static by laudc: ratio 1.50" in said.out


@pytest.mark.parametrize(("required", "code"), [("1.9", 0), ("2.1", 1)])
def test_a_speedup_can_be_required(cli: Cli, compiled: Path, clock: Any, required: str, code: int) -> None:
    clock({"laudc": [2.0] * 3, **TORCH, **APART, **at(r1=5.0, r0_5=1.0)})
    said = cli("bench", str(compiled), "--quick", "--rounds", "3", "--require-speedup", required)
    assert said.exit_code == code
    assert said.err == ("" if code == 0 else f"the speedup of {compiled} is 2.00, required are 2.1\n")


def test_a_variant_that_cannot_be_run_is_named(cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr("laudc.baselines._compiled", broken)
    said = cli("bench", str(compiled), "--rounds", "3")
    assert said.exit_code == 0
    assert "static by torch.compile was not run: RuntimeError: no compiler\n" in said.out


def test_what_the_compiler_behind_torch_raised_is_said(cli: Cli, compiled: Path, monkeypatch: Any) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def broken(*_: object) -> None:
        raise BackendCompilerFailed(lambda: None, ValueError("no\nroom"), None)

    monkeypatch.setattr("laudc.baselines._compiled", broken)
    said = cli("bench", str(compiled), "--rounds", "3")
    assert "static by torch.compile was not run: ValueError: no\n" in said.out


def test_only_some_static_variants_are_timed(cli: Cli, compiled: Path) -> None:
    said = cli("bench", str(compiled), "--rounds", "3", "--static", "laudc", "--static", "torch", "--json")
    assert list(json.loads(said.out)["static_ms"]) == ["laudc", "torch"]


def test_a_static_variant_is_known_and_one_is_torchs(cli: Cli, compiled: Path, monkeypatch: Any) -> None:
    assert cli("bench", str(compiled), "--static", "torhc").error == ("no static variant 'torhc'; did you mean torch?")
    none = "no static network by torch is there to compare with"
    assert cli("bench", str(compiled), "--static", "laudc").error == f"{none}; let torch be among them"

    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("laudc.baselines._compiled", broken)
    assert cli("bench", str(compiled), "--static", "torch.compile").error == (
        f"{none} (torch.compile: RuntimeError: no compiler); let torch be among them"
    )


def test_masks_are_copied_before_the_calls_that_are_timed(
    cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laudc.kernels.run import Runner

    given: list[bool] = []
    called = Runner.__call__

    def watched(self: Runner, x: Any, masks: Any) -> Any:
        given.append(masks is not None)
        return called(self, x, masks)

    def timed(variants: Mapping[str, Callable[[int], object]], **_: object) -> dict[str, list[float]]:
        at_one, at_none = (call for name, call in variants.items() if "at rate" in name)
        given.clear()
        for call, number in ((at_one, 0), (at_none, 0), (at_one, 1)):
            call(number)  # which nobody times
            call(number)
        assert given == [True, False] * 3
        return dict.fromkeys(variants, [1.0] * 3)

    monkeypatch.setattr(Runner, "__call__", watched)
    monkeypatch.setattr("laudc.benchmark.interleaved_ms", timed)
    assert cli("bench", str(compiled), "--quick", "--rounds", "3", "--rates", "0").exit_code == 0


def test_what_is_not_compiled_is_refused(cli: Cli, converted: Path) -> None:
    said = cli("bench", str(converted))
    assert said.error == f"{converted} is converted, not compiled; run laudc compile {converted}"
    assert said.exit_code == 2


def test_rates_are_checked_before_anything_runs(cli: Cli, compiled: Path) -> None:
    said = cli("bench", str(compiled), "--rates", ".5,2")
    assert said.error.startswith("the rate 2")
    assert said.exit_code == 2


def test_several_networks_share_one_run(cli: Cli, compiled: Path, folder: Path, clock: Any) -> None:
    clock({"laudc": [2.0] * 3, **TORCH, **APART, **at(r1=5.0, r0_5=1.0)})
    second = Path(shutil.copy(compiled, folder / "again.laud"))
    said = cli("bench", str(compiled), str(second), "--quick", "--rounds", "3", "--json", "--require-speedup", "2.1")
    facts = json.loads(said.out)
    assert [one["file"] for one in facts["networks"]] == [str(compiled), str(second)]
    assert said.exit_code == 1
    assert len(said.err.splitlines()) == 2
    said = cli("bench", str(compiled), str(second), "--quick", "--rounds", "3")
    assert "again, rate 0.5" in said.out
    assert "again: at rate 0.5 faster than static by laudc" in said.out


def test_networks_that_differ_are_not_benched_together(cli: Cli, compiled: Path, compiled_for_two: Path) -> None:
    said = cli("bench", str(compiled), str(compiled_for_two), "--quick")
    assert said.error == (
        f"{compiled} and {compiled_for_two} differ in the input (1x3x32x32, 2x3x32x32); bench them one by one"
    )


def test_blocks_are_printed_when_asked_for(cli: Cli, compiled: Path, clock: Any) -> None:
    clock({"laudc": [2.0] * 3, **TORCH, **APART, **at(r1=5.0, r0_5=1.0)})
    said = cli("bench", str(compiled), "--quick", "--rounds", "3", "--blocks")
    rows = [line.split() for line in said.out.splitlines() if line.startswith(" blocks.")]
    assert [len(row) for row in rows] == [5, 5]


def test_blocks_too_short_to_measure_are_called_so(cli: Cli, compiled: Path, clock: Any, monkeypatch: Any) -> None:
    clock({"laudc": [2.0] * 3, **TORCH, **APART, **at(r1=5.0, r0_5=1.0)})
    us = {"blocks.0": 0.0, "blocks.1": 12.0}
    monkeypatch.setattr("laudc.benchmark.block_us", lambda *_, **__: us)
    args = ("bench", str(compiled), "--quick", "--rounds", "3", "--blocks")
    first, second = (line for line in cli(*args).out.splitlines() if line.startswith(" blocks."))
    assert first.split()[:5] == ["blocks.0", "too", "short", "too", "short"]
    assert second.split()[1:3] == ["0.012", "0.012"]
    facts = json.loads(cli(*args, "--json").out)
    assert facts["static_blocks_ms"] == {"blocks.0": None, "blocks.1": 0.012}
    assert {one["blocks_ms"]["blocks.0"]["measured"] for one in facts["networks"][0]["dynamic"]} == {None}
