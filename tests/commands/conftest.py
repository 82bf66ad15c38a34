"""A small network as a user's file, made into .laud files once, and the command line run in a folder of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laudc.cli import main

NETWORK = '''
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Tiny(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Plain(nn.Module):
    """No residual block."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Branching(Tiny):
    """Control flow on a value."""

    def forward(self, x):
        if x.sum() > 0:
            return super().forward(x)
        return super().forward(-x)


class HeadGated(Tiny):
    """Squeeze-and-excitation behind the blocks."""

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head((x * torch.sigmoid(x.mean((2, 3), keepdim=True))).mean((2, 3)))


class Gated(Tiny):
    """Squeeze-and-excitation in the only block."""

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.blocks[0].conv1(x))
        x = x + y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.head(torch.cat([x, x], 1).mean((2, 3)))


class Attentive(Tiny):
    """A transformer's block."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(torch.cat([x, x], 1).mean((2, 3)))


class Needy(Tiny):
    def __init__(self, width):
        super().__init__()


class Broken(nn.Module):
    def __init__(self):
        raise RuntimeError("no such dataset\\nsecond line")


def make_tiny():
    return Tiny()


def make_text():
    return "Tiny"
'''


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    exit_code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failure, which is all there is."""
        assert self.out == "", self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test; it holds net.py and photo.png."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


@pytest.fixture
def cli(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command line there."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        exit_code = main(arguments)
        said = capsys.readouterr()
        return Said(exit_code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny-spatial.laud and, for batches of 1 and 2, what it compiles to on this CPU."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # all workers share it: one makes the files, the others wait
    made = root / "laud-files"
    with (root / "laud-files.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make_files(root / "laud-files-unfinished")
            (root / "laud-files-unfinished").rename(made)
    return made


def make_files(folder: Path) -> None:
    folder.mkdir()
    (folder / "net.py").write_text(NETWORK)
    converted = str(folder / "tiny-spatial.laud")
    assert main(["convert", f"{folder}/net.py:Tiny", "--size", "32", "--granularity", "2-1", "-o", converted]) == 0
    for batch in (1, 2):
        compiled = str(folder / f"tiny-spatial.cpu{batch}.laud")
        assert main(["compile", converted, "--target", "cpu", "--batch", str(batch), "-o", compiled]) == 0


@pytest.fixture
def converted(files: Path, folder: Path) -> Path:
    """tiny-spatial.laud, alone in the test's folder."""
    return Path(shutil.copy(files / "tiny-spatial.laud", folder)).relative_to(folder)


@pytest.fixture
def compiled(files: Path) -> Path:
    """A file compiled for this CPU, batch 1."""
    return files / "tiny-spatial.cpu1.laud"


@pytest.fixture
def compiled_for_two(files: Path) -> Path:
    """A file compiled for this CPU, batch 2."""
    return files / "tiny-spatial.cpu2.laud"
