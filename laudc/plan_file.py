"""A plan as a small file that people read, compare and keep: `plan.toml`.

made_for = { model = "resnet50", target = "v100", batch = 128, ... }
hash = "..."                          of all of the file's facts; an edit has to take it out

[blocks]
"layer1.0" = ["spatial 4"]            # why
"layer4.2" = []                       # stays static
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from laudc.errors import PlanError
from laudc.paradigms import PARADIGMS, Paradigm
from laudc.plan import Basis, Decision, Plan
from laudc.program import Block, Program, input_type
from laudc.structure import structure_digest
from laudc.targets import TARGETS, Target, load_target

_FORMAT = 1
_SHOWN = 8
"""Digits of a digest that tell networks apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """Decisions by block (none: it stays static), with the reasons, and what they hold for."""

    basis: Basis
    blocks: Mapping[str, tuple[tuple[str, int], ...]]
    reasons: Mapping[str, str]

    @property
    def hash(self) -> str:
        """sha256 of everything but the reasons."""
        content = {
            "format": _FORMAT,
            "basis": asdict(self.basis),
            "blocks": {k: list(v) for k, v in self.blocks.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """The file."""
        basis = asdict(self.basis) | {"size": list(self.basis.size)}
        lines = [f"format = {_FORMAT}", f'hash = "{self.hash}"', "", "[made_for]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in basis.items()]
        lines += ["", "[blocks]"]
        for name, pairs in self.blocks.items():
            words = json.dumps([f"{paradigm} {size}" for paradigm, size in pairs])
            lines.append(f"{json.dumps(name)} = {words}  # {self.reasons.get(name, '')}".rstrip(" #"))
        return "\n".join(lines) + "\n"

    def plan(self, *, seed: int = 0, rate: float | None = None) -> Plan:
        """The decisions as the converter takes them, bound to what they were made for."""
        decisions = tuple(
            Decision(block=block, paradigm=paradigm, granularity=size)
            for block, pairs in self.blocks.items()
            for paradigm, size in pairs
        )
        return Plan(
            paradigm=self.basis.paradigm,
            decisions=decisions,
            target=self.basis.target,
            seed=seed,
            rate=rate,
            made_for=self.basis,
        )


def read_plan(path: Path) -> PlanFile:
    """The plan in a file. PlanError for one that is malformed, or was edited and still carries the old hash."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}", "name a plan that `laudc plan` wrote") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is no TOML: {error}", "make it again with `laudc plan`") from error
    found = _from(values, path)
    stated = values.get("hash")
    if stated is None:
        _check_device(found.basis, path)
    elif stated != found.hash:
        raise PlanError(
            f"{path} was changed after it was made", "take its line `hash` out if you mean it, or plan again"
        )
    return found


def _check_device(basis: Basis, path: Path) -> None:
    """PlanError unless an edited plan is for a device that there is, in a data type of its own."""
    name = basis.target
    device = TARGETS[name] if name in TARGETS else _in_a_file(name, path)
    if basis.dtype not in device.computes_in:
        raise PlanError(
            f"{path}: dtype = {basis.dtype!r}, in which {name} does not compute",
            f"write {' or '.join(device.computes_in)}",
        )


def _in_a_file(name: str, plan: Path) -> Target:
    """The target whose file lies here or beside the plan."""
    files = (folder / f"{name}.toml" for folder in (Path(), plan.parent))
    found = next((file for file in files if os.path.isfile(file)), None)
    if found is None:
        raise PlanError(
            f"{plan}: target = {name!r} is no target that `laudc targets` lists, and there is no file {name}.toml",
            "name one of those, or plan again",
        )
    return load_target(found.absolute())


def _from(values: Mapping[str, object], path: Path) -> PlanFile:
    match values:
        case {"format": 1, "made_for": dict(basis), "blocks": dict(blocks)}:
            return PlanFile(
                basis=Basis.from_json(basis),
                blocks={str(k): _pairs(str(k), v, path) for k, v in blocks.items()},
                reasons={},
            )
        case {"format": int(number)} if number > _FORMAT:
            raise PlanError(f"{path} has format {number}, this laudc reads {_FORMAT}", "update laudc")
        case _:
            raise PlanError(f"{path} lacks a part of a plan", "make it again with `laudc plan`")


def _pairs(block: str, words: object, path: Path) -> tuple[tuple[str, int], ...]:
    if isinstance(words, list):
        pairs = [str(word).split() for word in words]
        whole = all(len(pair) == 2 and pair[0] in PARADIGMS and re.fullmatch("[0-9]{1,9}", pair[1]) for pair in pairs)
        if whole and len({pair[0] for pair in pairs}) == len(pairs):
            return tuple((paradigm, int(size)) for paradigm, size in pairs)
    raise PlanError(
        f"{path}: {block} = {words!r} is no list of decisions", 'write [], ["layer 0"], ["spatial 4", "channel 16"]'
    )


def check_fits(file: PlanFile, program: Program) -> None:
    """PlanError, saying what differs, unless the plan is for this network at this size."""
    size = input_type(program).shape[2:]
    if size != file.basis.size:
        raise PlanError(
            f"the plan is for images of {_by(file.basis.size)}, the network reads {_by(size)}",
            "plan for that size, or convert at the plan's",
        )
    _check_structure(file.basis, program)
    names = {block.name for block in program.blocks}
    unknown, missing = sorted(file.blocks.keys() - names), sorted(names - file.blocks.keys())
    if unknown or missing:
        sides = (("it has no", unknown), ("the plan has no", missing))
        parts = [f"{side} {_some(found)}" for side, found in sides if found]
        raise PlanError(
            f"the plan of {file.basis.model} does not fit this network: {'; '.join(parts)}", "plan this network"
        )
    for block in program.blocks:
        _check_block(block, file.blocks[block.name])


def _check_structure(basis: Basis, program: Program) -> None:
    here = structure_digest(program)
    if here != basis.structure:
        name = program.source.get("model")
        this = f"this is {name or 'another network'} (digest {here[:_SHOWN]})"
        raise PlanError(
            f"the plan is for {basis.model} (digest {basis.structure[:_SHOWN]}), {this}",
            f"plan again for {basis.target}, batch {basis.batch}, rate {basis.rate:g}: laudc plan {name or 'MODEL'}",
        )


def _check_block(block: Block, pairs: Sequence[tuple[str, int]]) -> None:
    for paradigm, size in pairs:
        reason = _refusal(PARADIGMS[paradigm], block, size)
        if reason is not None:
            raise PlanError(f"{block.name} cannot be {paradigm} {size}: {reason}", "plan this network again")


def _refusal(way: Paradigm, block: Block, size: int) -> str | None:
    if not way.takes_granularity:
        return "it takes no granularity, which is written as 0" if size else way.refuse(block, size)
    if size == 0:
        return "a granularity is 1 or more"
    reason = way.refuse(block, size)
    if reason is None and size > way.whole(block):
        return f"{way.whole(block)} is the whole of the block already"
    return reason


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
