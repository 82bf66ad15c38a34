"""One file is one plugin."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from laudc.errors import UnknownName
from laudc.plugins import Plugins


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Plugins[str]]:
    """A package of two goods, and what is not for sale."""
    folder = tmp_path / f"shop_{tmp_path.name.replace('-', '_')}"
    folder.mkdir()
    files = {"__init__": "", "base": "", "_shelf": "", "apple": "GOOD = 'red'", "pea_pod": "GOOD = 'green'"}
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text)
    (folder / "cellar").mkdir()
    (folder / "cellar" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder, Plugins(package=folder.name, attribute="GOOD", kind="good")


def test_names_are_the_stems_of_the_plain_files(shop: tuple[Path, Plugins[str]]) -> None:
    _, goods = shop
    assert list(goods) == ["apple", "pea-pod"]
    assert len(goods) == 2


def test_a_name_gives_the_object(shop: tuple[Path, Plugins[str]]) -> None:
    _, goods = shop
    assert dict(goods) == {"apple": "red", "pea-pod": "green"}


def test_a_dropped_file_is_found(shop: tuple[Path, Plugins[str]]) -> None:
    folder, goods = shop
    (folder / "plum.py").write_text("GOOD = 'blue'")
    importlib.invalidate_caches()
    assert goods["plum"] == "blue"


def test_a_file_of_another_folder_on_the_path_is_found(
    shop: tuple[Path, Plugins[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, goods = shop
    (tmp_path / "market").mkdir()
    (tmp_path / "market" / "fig.py").write_text("GOOD = 'violet'")
    package = importlib.import_module(folder.name)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "market")])
    assert goods["fig"] == "violet"


def test_listing_imports_nothing(shop: tuple[Path, Plugins[str]]) -> None:
    folder, goods = shop
    (folder / "bomb.py").write_text("raise RuntimeError('boom')")
    assert "bomb" in goods
    assert list(goods) == ["apple", "bomb", "pea-pod"]


def test_an_unknown_name_gets_a_near_miss(shop: tuple[Path, Plugins[str]]) -> None:
    _, goods = shop
    with pytest.raises(UnknownName, match="no good 'aple'; did you mean apple\\?"):
        goods["aple"]


def test_furniture_is_no_plugin(shop: tuple[Path, Plugins[str]]) -> None:
    _, goods = shop
    assert not {"base", "-shelf", "_shelf", "cellar", "pea_pod"} & set(goods)


def test_furniture_that_was_imported_is_no_plugin_either(shop: tuple[Path, Plugins[str]]) -> None:
    folder, goods = shop
    importlib.import_module(f"{folder.name}.base")
    with pytest.raises(UnknownName, match="no good 'base'"):
        goods["base"]


def test_the_mapping_is_read_only(shop: tuple[Path, Plugins[str]]) -> None:
    _, goods = shop
    assert isinstance(goods, Mapping)
    assert not hasattr(goods, "__setitem__")
