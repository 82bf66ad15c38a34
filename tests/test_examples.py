"""Every example runs, in a folder of its own; so does the part of the demo that draws."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import laudc
from laudc.artifact import read
from laudc.convert import convert
from laudc.dynamic_model import DynamicModel
from laudc.preprocess import Preprocessing
from laudc.testing import tiny

ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = {"convert_and_compile": ("resnet18", "64")}
LEAVES = {
    "add_a_gpu": {"my-gpu.toml", "small-net.my-gpu.laud"},
    "convert_and_compile": set(),
    "your_own_network": {"wave-net.laud", "wave-net.cpu.laud"},
}


def test_every_example_is_tried() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == LEAVES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAVES)
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *ARGUMENTS.get(name, ())]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert said.returncode == 0, said.stderr
    assert said.stdout
    assert {path.name for path in tmp_path.iterdir()} == LEAVES[name]
    for path in tmp_path.glob("*.laud"):
        assert read(path).kind == ("compiled" if path.name.count(".") > 1 else "converted")


@pytest.fixture
def demo() -> Any:
    pytest.importorskip("skimage")
    spec = importlib.util.spec_from_file_location("demo", ROOT / "scripts" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_measures_the_static_network_by_laudc_and_gives_no_verdict_on_a_busy_machine(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "OUTPUT", tmp_path)
    monkeypatch.setattr(demo, "CALLS", 2)
    monkeypatch.setattr("os.getloadavg", lambda: (500.0, 0.0, 0.0))
    Image.new("RGB", (32, 32)).save(tmp_path / "photograph.png")
    source = {"preprocessing": Preprocessing(size=(32, 32), resize=32).to_json(), "model": "tiny", "weights": "random"}
    model = convert(tiny(), torch.randn(1, 3, 32, 32), source=source).eval()

    demo.measure(laudc.compile(model), model.plan)

    facts = json.loads((tmp_path / "table.json").read_text())
    assert facts["verdict"].startswith("no verdict: the machine is busy (load 500.0")
    assert facts["verdict"] in (tmp_path / "table.txt").read_text()
    assert facts["rows"][0]["what"] == "static, laudc"
    assert (tmp_path / "skipped.png").is_file()


def test_the_demo_paints_what_was_computed_and_what_was_skipped(demo: Any) -> None:
    model = laudc.transform(tiny(), torch.randn(1, 3, 32, 32))
    assert isinstance(model, DynamicModel)
    model(torch.randn(1, 3, 32, 32))
    decisions = {key: torch.zeros_like(mask) for key, mask in model.decisions.items()}
    first = next(iter(decisions))
    decisions[first][..., 0] = 1.0  # the left column of patches, in one block of the first stage

    heat = demo.computed_share(decisions, model.program, model.plan, 0)

    blocks = [block for block in model.program.blocks if block.stage == 0]
    size = next(decision.granularity for decision in model.plan.decisions if decision.key == first)
    assert tuple(heat.shape) == blocks[0].out_size
    assert torch.allclose(heat[:, :size], torch.tensor(1 / len(blocks)))
    assert float(heat[:, size:].abs().max()) == 0.0
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    painted = np.asarray(demo.overlay(grey, torch.tensor([[1.0, 0.0]])))
    assert painted[0, 0].tolist() == [191, 134, 64]
    assert painted[0, -1].tolist() == [64, 84, 139]
    assert demo.picture(grey, decisions, model.program, model.plan).size[1] == demo.SIDE + 2 * demo.CAPTION
