"""scripts/bench_report.py: what is judged, and the page that is made of raw samples."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from laudc.pipeline import optional_passes


@pytest.fixture
def report(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("bench_report")


def bench(batch: int, **networks: dict[float, float]) -> dict[str, Any]:
    """What `laudc bench --json` prints; by network, milliseconds by rate. torch takes 10, laudc's static 5."""

    def network(name: str, times: dict[float, float]) -> dict[str, Any]:
        return {
            "file": f"/tmp/{name}.laud",
            "dynamic": [
                {
                    "rate": rate,
                    "executed_rate": rate,
                    "samples_ms": [ms] * 3,
                    "median_ms": ms,
                    "predicted_ms": ms,
                    "blocks_ms": {"layer1.0": {"measured": 1.0, "predicted": 1.25}},
                }
                for rate, ms in times.items()
            ],
            "break_even_rate": 0.75,
            "peak_bytes": 2_000_000,
            "verdict": "faster",
        }

    return {
        "target": "h200",
        "shape": [batch, 3, 224, 224],
        "dtype": "float16",
        "random": "images and masks",
        "versions": {"laudc": "0.1.0", "gpu": "a GPU"},
        "static_ms": {"laudc": [5.0] * 3, "CUDA graph": [10.0] * 3, "torch": [20.0] * 3},
        "static_peak_bytes": {"laudc": 1_000_000, "CUDA graph": 3_000_000, "torch": None},
        "not_run": {"torch.compile": "no compiler"},
        "fastest_third_party": "CUDA graph",
        "calibration": "calibrated",
        "networks": [network(name.replace("_", "-"), times) for name, times in networks.items()],
    }


def test_blocks_too_short_to_measure_are_told_and_compared_with_nothing(report: ModuleType) -> None:
    network = bench(128, net={1.0: 6.0, 0.5: 4.0})["networks"][0]
    for one, short in zip(network["dynamic"], (0.0, None), strict=True):
        one["blocks_ms"]["layer1.1"] = {"measured": short, "predicted": 0.01}
    words = "blocks predicted within 25% (median), at worst 25% (layer1.0); 2 of 4 too short to measure"
    assert report._block_words(network) == words
    network["dynamic"] = [{"blocks_ms": {"layer1.1": {"measured": None, "predicted": 0.01}}}]
    assert report._block_words(network) == "no block was measured; 1 of 1 too short to measure"


TRITON = {"device": "a GPU", "batch": 128, "layers": [
    {"layer": "a", "errors": {"laudc": 1e-4, "Triton": 1e-4}, "rates": {
        "1": {"samples_ms": {"laudc": [1.0], "laudc, best tile": [1.0], "Triton": [2.0], "cuDNN, dense": [1.0]}}}},
]}  # fmt: skip


def test_a_ratio_is_judged_by_its_bars(report: ModuleType) -> None:
    measured = bench(
        128, net_layer_b128={1.0: 6.0, 0.5: 4.0}, net_channel_8_b128={0.5: 3.5}, net_channel_16_b128={0.5: 3.0}
    )
    rows = [
        {"what": "layers", "file": "net-layer-*", "rate": 0.5, "over": "torch", "must": 0.5, "aim": 0.4},
        {"what": "layers", "file": "net-layer-*", "rate": 0.5, "over": "laudc", "must": 0.7, "aim": 0.6},
        {"what": "channels", "file": "net-channel-*", "rate": 0.5, "over": "torch", "must": 0.4, "aim": 0.2},
        {"what": "static", "batch": 128, "over": "torch"},
        {"what": "static", "batch": 1, "over": "torch"},
        {"what": "kernels", "over": "triton", "must": 0.6},
    ]
    found = report.judged(rows, [measured], TRITON)
    assert [one.ratio for one in found] == [0.4, 0.8, 0.3, 0.5, None, 0.5]
    assert [one.verdict for one in found] == ["aim", "MISSED", "met", "", "not measured", "met"]
    assert found[2].name == "net-channel-16-b128 over static by CUDA graph"


def written(folder: Path, **raw: object) -> Path:
    folder.mkdir()
    for name, value in raw.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(value))
    return folder


def run(report: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """The page of what a folder holds."""
    pytest.importorskip("matplotlib")
    output = folder.parent / "page"
    monkeypatch.setattr("sys.argv", ["report", str(folder), "-o", str(output)])
    report.main()
    return output.with_suffix(".md").read_text()


def test_the_page_and_its_plots_come_of_raw_files(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {batch: bench(batch, **{f"resnet101-layer-r0.4-b{batch}": {1.0: 6.0, 0.4: 3.0}}) for batch in (128, 1)}
    folder = written(tmp_path / "raw", b128=layers[128], b1=layers[1], triton=TRITON, curves=layers[128])
    for name in ("latency-h200.md", "latency-h200.json"):
        (folder / name).write_text(name)
    text = run(report, monkeypatch, folder)
    assert "| layers at .4, batch 128 | torch | 0.30 |" in text
    assert "| static by laudc, batch 1 | torch | 0.50 |" in text
    assert "| patches 8-4-7-1 at .5, batch 128 | torch |  | 0.60 | 0.52 | not measured |" in text
    assert "- static by torch.compile was not run: no compiler" in text
    assert "blocks predicted within 25% (median), at worst 25% (layer1.0)" in text
    assert "## Gathered convolutions against Triton on a GPU" in text
    assert "[latency-h200.md](latency-h200.md)" in text
    assert text.count("Random weights, images and masks. ") == 3
    for plot in ("rates", "curves"):
        assert f"(page-{plot}.svg)" in text
        assert (tmp_path / f"page-{plot}.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "latency-h200.json").exists()
    raw = json.loads((tmp_path / "page-bench.json").read_text())
    assert list(raw["benches"]) == ["b128", "b1", "curves"]
    assert raw["triton"] == TRITON


def test_each_fusion_stands_beside_the_network_that_has_it(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {
        "net-layer-b128-without-conv-add": {0.5: 5.0},
        "net-layer-b128": {0.5: 4.0},
        "net-spatial-b128": {0.5: 3.0},
    }
    text = run(report, monkeypatch, written(tmp_path / "raw", fusion=bench(128, **named)))
    assert "| net-layer-b128 | conv-add | 0.5 | 5 | 1.25 | 5 | 1.25 |" in text
    assert "| net-spatial-b128 | nothing | 0.5 | 3 | 1.00 | 3 | 1.00 |" in text
    assert "not measured" in text  # what is judged was not run


def test_a_folder_without_a_bench_makes_no_page(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(report, monkeypatch, written(tmp_path / "raw"))
    assert "holds no bench; run scripts/gpu_all" in capsys.readouterr().err


def test_a_line_goes_from_rate_to_rate(script: Callable[[str], ModuleType]) -> None:
    lines = script("bench_figures").curve_lines(bench(128, net={1.0: 6.0, 0.5: 4.0}))
    assert lines == {
        "net": {
            "measured": [(0.5, 0.4), (1.0, 0.6)],
            "predicted": [(0.5, 0.4), (1.0, 0.6)],
            "static by laudc": [(0.0, 0.5), (1.0, 0.5)],
        }
    }


def test_what_is_judged_names_networks_that_are_made(report: ModuleType, script: Callable[[str], ModuleType]) -> None:
    made = [str(case) for part in report.TITLES for case in script("gpu_networks").PARTS[part]]
    patterns = [row["file"] for row in tomllib.loads(report.JUDGED.read_text())["row"] if "file" in row]
    assert all(any(fnmatch(name, pattern) for name in made) for pattern in patterns)


def test_every_part_has_its_place_on_the_page(report: ModuleType, script: Callable[[str], ModuleType]) -> None:
    networks = script("gpu_networks")
    assert set(networks.PARTS) == {*report.TITLES, *report.FURTHER_TITLES}
    cases = [case for part in networks.PARTS.values() for case in part]
    assert all(networks.Case.named(str(case)) == case for case in cases)
    assert {less for case in cases for less in case.left_out} <= set(optional_passes())
