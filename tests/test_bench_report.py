"""scripts/bench_report.py: what is judged, and the page that is made of raw samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


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


TRITON = {"device": "a GPU", "batch": 128, "layers": [
    {"layer": "a", "errors": {"laudc": 1e-4, "Triton": 1e-4}, "rates": {
        "1": {"samples_ms": {"laudc": [1.0], "laudc, best tile": [1.0], "Triton": [2.0], "cuDNN, dense": [1.0]}}}},
]}  # fmt: skip


def test_a_ratio_is_judged_by_its_bars(report: ModuleType) -> None:
    run = bench(128, net_layer_b128={1.0: 6.0, 0.5: 4.0}, net_channel_8_b128={0.5: 3.5}, net_channel_16_b128={0.5: 3.0})
    rows = [
        {"what": "layers", "file": "net-layer-*", "rate": 0.5, "over": "torch", "must": 0.5, "aim": 0.4},
        {"what": "layers", "file": "net-layer-*", "rate": 0.5, "over": "laudc", "must": 0.7, "aim": 0.6},
        {"what": "channels", "file": "net-channel-*", "rate": 0.5, "over": "torch", "must": 0.4, "aim": 0.2},
        {"what": "static", "batch": 128, "over": "torch"},
        {"what": "static", "batch": 1, "over": "torch"},
        {"what": "kernels", "over": "triton", "must": 0.6},
    ]
    found = report.judged(rows, [run], TRITON)
    assert [one.ratio for one in found] == [0.4, 0.8, 0.3, 0.5, None, 0.5]
    assert [one.verdict for one in found] == ["aim", "MISSED", "met", "", "not measured", "met"]
    assert found[2].name == "net-channel-16-b128 over static by CUDA graph"


def test_the_page_and_its_plot_come_of_raw_files(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    for batch in (128, 1):
        name = f"resnet101-layer-r0.4-b{batch}"
        raw = bench(batch, **{name: {1.0: 6.0, 0.4: 3.0}})
        (tmp_path / f"b{batch}.json").write_text(json.dumps(raw))
    (tmp_path / "triton.json").write_text(json.dumps(TRITON))
    output = tmp_path / "page"
    monkeypatch.setattr(
        "sys.argv",
        [
            "report",
            f"{tmp_path}/b128.json",
            f"{tmp_path}/b1.json",
            "--triton",
            f"{tmp_path}/triton.json",
            "-o",
            str(output),
        ],
    )
    report.main()
    text = output.with_suffix(".md").read_text()
    assert "| layers at .4, batch 128 | torch | 0.30 |" in text
    assert "| static by laudc, batch 1 | torch | 0.50 |" in text
    assert "| patches 8-4-7-1 at .5, batch 128 | torch |  | 0.60 | 0.52 | not measured |" in text
    assert "- static by torch.compile was not run: no compiler" in text
    assert "blocks predicted within 25% (median), at worst 25% (layer1.0)" in text
    assert "## Gathered convolutions against Triton on a GPU" in text
    assert (tmp_path / "page-rates.svg").read_bytes().startswith(b"<?xml")
    assert len(json.loads((tmp_path / "page-bench.json").read_text())["benches"]) == 2


def test_what_is_judged_names_networks_that_are_made(report: ModuleType, script: Callable[[str], ModuleType]) -> None:
    import tomllib
    from fnmatch import fnmatch

    made = [str(case) for case in script("gpu_networks").JUDGED]
    patterns = [row["file"] for row in tomllib.loads(report.JUDGED.read_text())["row"] if "file" in row]
    assert all(any(fnmatch(name, pattern) for name in made) for pattern in patterns)
