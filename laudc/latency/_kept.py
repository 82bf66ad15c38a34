"""Choices that were made before: kept in the user's cache under a key with everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any

import laudc.latency
import laudc.ops
import laudc.paradigms
import laudc.passes
import laudc.schedules
from laudc.kernels import cache
from laudc.latency._time import Time
from laudc.latency.constants import device_identity

if TYPE_CHECKING:
    from laudc.latency.planner import BlockChoice, Search
    from laudc.program import Program


def key_of(program: Program, search: Search) -> str:
    """sha256 of the network's structure, what is planned for, and the source of all that lowers and prices."""
    content = {
        "program": program.text(),
        "blocks": [asdict(block) for block in program.blocks],
        "target": device_identity(search.target),
        "constants": asdict(search.calibration.constants),
        "search": [search.batch, search.size, search.dtype, search.rate, search.paradigm, search.margin],
        "source": source_hash(),
    }
    return cache.key_of("choices 1", json.dumps(content, sort_keys=True))


def kept(key: str) -> tuple[BlockChoice, ...] | None:
    """The choices under the key."""
    found = cache.get(key)
    return None if found is None else tuple(_choice(values) for values in json.loads(found))


def keep(key: str, choices: Sequence[BlockChoice]) -> None:
    """Keep them."""
    cache.put(key, json.dumps([asdict(choice) for choice in choices]).encode())


def _choice(values: dict[str, Any]) -> BlockChoice:
    from laudc.latency.planner import BlockChoice, Weighed

    def weighed(one: dict[str, Any]) -> Weighed:
        candidate = tuple((str(paradigm), int(size)) for paradigm, size in one["candidate"])
        return Weighed(**{**one, "candidate": candidate, "time": Time(**one["time"])})

    chosen = values["chosen"]
    return BlockChoice(
        block=values["block"],
        static=Time(**values["static"]),
        chosen=None if chosen is None else weighed(chosen),
        weighed=tuple(map(weighed, values["weighed"])),
        why=values["why"],
    )


@once
def source_hash() -> str:
    """Of every file that a prediction depends on."""
    digest = hashlib.sha256()
    packages = (laudc.latency, laudc.schedules, laudc.passes, laudc.paradigms, laudc.ops)
    for folder in (path for package in packages for path in package.__path__):
        for file in sorted(Path(folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
