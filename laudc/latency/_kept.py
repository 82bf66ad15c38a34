"""The choices for a network's blocks as plain data, in which they are remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from laudc.latency._time import Time

if TYPE_CHECKING:
    from laudc.latency.planner import BlockChoice, Search, Weighed
    from laudc.program import Program


def question(program: Program, search: Search) -> dict[str, object]:
    """A network's structure, and what is planned for it."""
    return {
        "kind": "choices",
        "program": program.text(),
        "blocks": [asdict(block) for block in program.blocks],
        "search": [search.batch, search.size, search.dtype, search.rate, search.paradigm, search.margin],
    }


def plain(choices: Sequence[BlockChoice]) -> dict[str, Any]:
    """The choices as JSON holds them; `choices_of` reads them back."""
    return {"choices": [asdict(choice) for choice in choices]}


def choices_of(values: Mapping[str, Any]) -> tuple[BlockChoice, ...]:
    """The inverse of `plain`."""
    return tuple(map(_choice, values["choices"]))


def _choice(values: dict[str, Any]) -> BlockChoice:
    from laudc.latency.planner import BlockChoice

    chosen = values["chosen"]
    return BlockChoice(
        block=values["block"],
        static=Time(**values["static"]),
        chosen=None if chosen is None else _weighed(chosen),
        weighed=tuple(map(_weighed, values["weighed"])),
        why=values["why"],
    )


def _weighed(one: dict[str, Any]) -> Weighed:
    from laudc.latency.planner import Weighed

    candidate = tuple((str(paradigm), int(size)) for paradigm, size in one["candidate"])
    return Weighed(**{**one, "candidate": candidate, "time": Time(**one["time"])})
