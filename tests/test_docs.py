"""What the documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from laudc.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    named = set(re.findall(r"`((?:laudc|passes|schedules|targets|scripts|docs|examples|tests)/[\w./-]*\w)`", text))
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [path for path in named if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    named = set(re.findall(r"(?:`|^)laudc ([a-z]+)", document.read_text(), re.MULTILINE))
    assert named <= set(COMMANDS)
