"""What every test may use: golden files, and hypothesis without surprises."""

from __future__ import annotations

import gc
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from laudc import torchvision_repair

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = Path(__file__).parent.parent / "scripts"

torchvision_repair.install()  # before any test imports torchvision or timm

# A program's graph is many small objects that know each other, the libraries are half a million that stay: looked
# through as often as usual, they take a tenth of the tests' time.
gc.set_threshold(50_000, 20, 20)

# The same examples on every machine, and none fails for being slow.
settings.register_profile("laudc", derandomize=True, deadline=None, database=None)
settings.load_profile("laudc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """The workers share the cores: torch's threads would only wait for each other."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist gives its workers a COLUMNS, which tables would obey."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of scripts/, by name, beside which it finds its neighbours."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(SCRIPTS)
        return importlib.import_module(name)

    return load


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compares a text with tests/golden/<name of the test>.txt."""
    path = GOLDEN / (re.sub(r"\W+", "_", request.node.name).strip("_") + ".txt")

    def compare(text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert path.exists(), f"there is no {path.name}; run pytest --update-golden and read what it wrote"
        assert text == path.read_text()

    return compare
