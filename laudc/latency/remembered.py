"""Answers of the model that were worked out before, kept in the user's cache.

The key holds everything that an answer depends on: what was asked, the target's facts, the constants, the versions of
the libraries that make the networks, and the source of all that captures, lowers and prices them. An answer is found
without importing any of that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from laudc.kernels import cache as disk
from laudc.latency.constants import Calibration, device_identity
from laudc.targets import Target

_LIBRARIES = ("torch", "torchvision", "timm")
_PACKAGES = ("laudc", "laudc.ops", "laudc.paradigms", "laudc.passes", "laudc.schedules")
_UNSEEN = ("commands", "report")
"""Folders that only show what was found."""


def remembered(
    asked: Mapping[str, object], target: Target, calibration: Calibration, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `make` returns, plain data, or what it returned when the same was asked before."""
    content = {
        "asked": asked,
        "target": device_identity(target),
        "constants": asdict(calibration.constants),
        "versions": [_version(library) for library in _LIBRARIES],
        "source": source_hash(),
    }
    key = disk.key_of("answer 1", json.dumps(content, sort_keys=True))
    kept = disk.get(key)
    if kept is not None:
        known: dict[str, Any] = json.loads(kept)
        return known
    made = make()
    disk.put(key, json.dumps(made).encode())
    return made


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # copied, not installed, or not needed for this network
        return ""


@cache
def source_hash() -> str:
    """sha256 of the source that stands between a network's name and its predicted time, plugins included."""
    folders = dict.fromkeys(folder for package in _PACKAGES for folder in _folders(package))
    digest = hashlib.sha256()
    for folder in folders:
        for file in _sources(Path(folder)):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _folders(package: str) -> Sequence[str]:
    loaded = sys.modules.get(package)
    if loaded is not None:
        return loaded.__path__
    spec = find_spec(package)
    return (spec and spec.submodule_search_locations) or ()


def _sources(folder: Path) -> list[Path]:
    found = []
    for here, below, files in os.walk(folder):  # links to folders are not followed: they are packages of their own
        below[:] = [name for name in below if name not in _UNSEEN]
        found += [Path(here, name) for name in files if name.endswith(".py")]
    return sorted(found)
