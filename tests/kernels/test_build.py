"""Kernels built in worker processes: a schedule that is dropped in, a folder that is hostile, a missing linker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import laudc
import laudc.schedules
from laudc.compare import relative_error
from laudc.errors import ToolchainError
from laudc.testing import TinyNet, conditioned, random_images

HASH_BYTES = 32
"""What stands before the content of a file in the cache."""

NEW_SCHEDULE = '''
"""Pools without threads."""
from laudc.schedules.pooling import PoolingSchedule

class SerialPooling(PoolingSchedule):
    kind = "cpu"
    rank = 1

    def choices(self, work, target):
        return ({"parallel": 0},)

SCHEDULE = SerialPooling()
'''


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.Sequential(*(nn.MaxPool2d(size, stride=1) for size in (2, 3, 4, 5)), nn.AvgPool2d(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.pools(x)
        return y.flatten(1)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_a_dropped_file_is_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serial_pooling.py").write_text(NEW_SCHEDULE)
    monkeypatch.setattr(laudc.schedules, "__path__", [*laudc.schedules.__path__, str(tmp_path)])
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Pools())
    x = random_images(1, 3, 20, 24)
    try:
        compiled = laudc.compile(model, "cpu", size=(20, 24))
        schedules = [step.kernel.schedule for step in compiled.lowering.executable.steps]
        assert schedules.count("serial-pooling") == 5
        with torch.no_grad():
            assert relative_error(compiled(x), model(x)) <= 1e-5
    finally:
        sys.modules.pop("laudc.schedules.serial_pooling", None)


@pytest.mark.slow
def test_nothing_of_the_current_folder_is_imported(tmp_path: Path) -> None:
    for name in ("random", "json", "laudc", "torch", "numpy", "tvm"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('taken from the current folder')")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "net.py").write_text("from laudc.testing import TinyNet\n")
    laudc_command = str(Path(sys.executable).parent / "laudc")
    for arguments in (
        ("convert", "net/net.py:TinyNet", "--size", "32", "-o", "tiny.laud"),
        ("compile", "tiny.laud", "--target", "cpu", "-o", "tiny.cpu.laud"),
        ("verify", "tiny.cpu.laud", "--rates", ".5"),
    ):
        done = subprocess.run([laudc_command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_linker_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = laudc.transform(conditioned(TinyNet), random_images(1, 3, 32, 32))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"no C\+\+ compiler is here to link the kernels; install g\+\+ or clang"):
        laudc.compile(model, "cpu")
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    for path in kept:
        json.loads(path.read_bytes()[HASH_BYTES:])  # what was chosen, and no kernel
