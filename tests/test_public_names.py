"""The names people write after `laudc.`: adding one here is a decision."""

from __future__ import annotations

import re

import pytest

import laudc


def test_the_public_names_are_these() -> None:
    assert laudc.__all__ == ["LaudcError", "__version__", "compile", "load", "save", "transform"]


@pytest.mark.parametrize("name", laudc.__all__)
def test_a_public_name_leads_somewhere(name: str) -> None:
    assert getattr(laudc, name) is not None
    assert name in dir(laudc)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'laudc' has no attribute 'optimize'"):
        _ = laudc.optimize  # type: ignore[attr-defined]


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", laudc.__version__)
