"""Which block skips what, at which granularity: decided before any training, obeyed by everything after.

    --paradigm spatial+channel --granularity 4-4-2-1+16

One number holds for all blocks; several are one a stage, or one a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

from laudc.defaults import DEFAULT_RATE
from laudc.errors import InputError, PlanError
from laudc.paradigms import PARADIGMS, Paradigm
from laudc.program import Block, Refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One way in which one block is dynamic."""

    block: str
    paradigm: str
    granularity: int

    @property
    def key(self) -> str:
        """The name its masks go by."""
        return f"{self.block}.{self.paradigm}"


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Field:
    """What a field of a basis can be."""

    plausible: Callable[[object], bool]
    words: str


_FIELDS = {
    "batch": _Field(plausible=_is_count, words="a whole number above 0, such as 8"),
    "size": _Field(
        plausible=lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_count, value)),
        words="two whole numbers above 0, height and width, such as [224, 224]",
    ),
    "rate": _Field(
        plausible=lambda value: type(value) in (int, float) and 0 <= cast(float, value) <= 1,
        words="a number from 0 to 1, such as 0.5",
    ),
}
_TEXT = _Field(plausible=lambda value: isinstance(value, str), words="a text in quotes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What a plan was made for."""

    model: str
    structure: str
    """Digest of the network."""
    target: str
    target_hash: str
    dtype: str
    batch: int
    size: tuple[int, int]
    rate: float
    paradigm: str
    """Paradigms joined by +, or "auto"."""
    calibration: str
    """How far the predictions were to be trusted."""

    @classmethod
    def from_json(cls, values: object) -> Basis:
        """From plain data; anything malformed is a PlanError that names the field."""
        if not isinstance(values, Mapping):
            raise PlanError("the plan does not say what it was made for", "make it again with `laudc plan`")
        read = {field.name: _stated(field.name, values) for field in fields(cls)}
        height, width = cast("Sequence[int]", read["size"])
        return cls(**cast("dict[str, Any]", {**read, "size": (height, width), "rate": check_rate(read["rate"])}))

    def refuse(self, *, target_hash: str, target: str, batch: int, size: tuple[int, ...], dtype: str) -> None:
        """PlanError, saying what differs, for anything but what it was made for."""
        same = self.target_hash == target_hash
        pairs = (
            ("target", self.target, target if self.target != target or same else f"a changed {target}"),
            ("batch", self.batch, batch),
            ("image size", "x".join(map(str, self.size)), "x".join(map(str, size))),
            ("data type", self.dtype, dtype),
        )
        differ = [f"{what} {mine}, not {other}" for what, mine, other in pairs if mine != other]
        if differ:
            raise PlanError(f"the network was planned for {'; '.join(differ)}", "compile it for that, or plan again")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The decisions for a whole network. `rate` set: random masks at that rate stand in for the maskers."""

    paradigm: str
    decisions: tuple[Decision, ...]
    refusals: tuple[Refusal, ...] = ()
    rate: float | None = None
    keep_first: bool = False
    """The first block of each stage stays static."""
    target: str | None = None
    """The device it is meant for, where one was named."""
    seed: int = 0
    made_for: Basis | None = None
    """What the decisions were chosen for, where a device was named: it is compiled for nothing else."""

    @property
    def expected_rate(self) -> float:
        """The rate to compile for: that of the random masks, or else the one it was planned at."""
        if self.rate is not None:
            return self.rate
        return DEFAULT_RATE if self.made_for is None else self.made_for.rate

    def of(self, block: str) -> tuple[Decision, ...]:
        """The decisions for one block, in the order of the paradigms."""
        return tuple(decision for decision in self.decisions if decision.block == block)

    def to_json(self) -> dict[str, object]:
        """Plain data; `from_json` reads it back."""
        return {
            "paradigm": self.paradigm,
            "decisions": [[d.block, d.paradigm, d.granularity] for d in self.decisions],
            "rate": self.rate,
            "keep_first": self.keep_first,
            "target": self.target,
            "seed": self.seed,
            "made_for": None if self.made_for is None else asdict(self.made_for) | {"size": list(self.made_for.size)},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Plan:
        """The inverse of `to_json`; anything malformed is a PlanError."""
        match values:
            case {
                "paradigm": str(paradigm),
                "decisions": list(rows),
                "rate": rate,
                "keep_first": bool(first),
                "target": str() | None as target,
                "seed": int(seed),
                **others,
            }:
                basis = others.get("made_for")
                decisions = tuple(_decision_from(row) for row in rows)
                checked = None if rate is None else check_rate(rate)
                return cls(
                    paradigm=paradigm,
                    decisions=decisions,
                    rate=checked,
                    keep_first=first,
                    target=target,
                    seed=seed,
                    made_for=None if basis is None else Basis.from_json(basis),
                )
            case _:
                raise PlanError("the plan lacks a field", "make the file again")


def _stated(name: str, values: Mapping[str, object]) -> object:
    """A field of a basis, checked."""
    if name not in values:
        raise PlanError(f"the plan does not say what {name} it was made for", "make it again with `laudc plan`")
    value, field = values[name], _FIELDS.get(name, _TEXT)
    if not field.plausible(value):
        raise PlanError(f"the plan is made for {name} = {value!r}", f"give {field.words}, or plan again")
    return value


def _decision_from(row: object) -> Decision:
    match row:
        case [str(block), str(paradigm), int(granularity)] if granularity >= 0:
            return Decision(block=block, paradigm=paradigm, granularity=granularity)
        case _:
            raise PlanError(f"the plan holds {row!r} where a decision belongs", "make the file again")


def check_rate(rate: object) -> float:
    """A rate as a number in [0, 1], or an InputError."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or math.isnan(rate) or not 0 <= rate <= 1:
        raise InputError(
            f"the rate {rate!r} is not a number from 0 to 1", "give the share of units that stay on, such as 0.5"
        )
    return float(rate)


def check_seed(seed: object) -> int:
    """A seed as torch takes it, or an InputError."""
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise InputError(f"the seed {seed!r} is not a whole number from 0 to 2^63 - 1", "give one, such as 0")
    return seed


def parse_paradigms(text: str) -> dict[str, Paradigm]:
    """`spatial+channel` -> its paradigms by name."""
    names = text.split("+")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the paradigm {name!r} is named twice", "name each once, such as spatial+channel")
    return {name: PARADIGMS[name] for name in names}


def make_plan(
    blocks: Sequence[Block],
    *,
    paradigm: str = "spatial",
    granularity: str | None = None,
    rate: float | None = None,
    target: str | None = None,
    seed: int = 0,
) -> Plan:
    """The plan that the options describe; what a paradigm refuses for a block is noted, with the reason."""
    paradigms = parse_paradigms(paradigm)
    parsed = parse_granularity(granularity, paradigms)
    wanted = {name: _per_block(numbers, blocks) for name, numbers in parsed.items()}
    decisions: list[Decision] = []
    refusals: list[Refusal] = []
    for index, block in enumerate(blocks):
        for name, way in paradigms.items():
            given = wanted.get(name)
            size = given[index] if given else way.default_granularity(block)
            reason = way.refuse(block, size)
            if reason is None:
                decisions.append(Decision(block=block.name, paradigm=name, granularity=size))
            else:
                refusals.append(Refusal(where=f"{block.name}.{name}", reason=reason))
    if not decisions:
        reason = refusals[0].reason if refusals else "it has no residual block"
        raise PlanError(f"nothing can become dynamic: {reason}", "try another granularity or paradigm")
    checked = None if rate is None else check_rate(rate)
    return Plan(
        paradigm=paradigm,
        decisions=tuple(decisions),
        refusals=tuple(refusals),
        rate=checked,
        target=target,
        seed=seed,
    )


def first_kept(plan: Plan, blocks: Sequence[Block]) -> Plan:
    """The plan with the first block of each stage left static, always on. PlanError where nothing else is dynamic."""
    first = {block.stage: block.name for block in reversed(blocks)}.values()
    kept = tuple(decision for decision in plan.decisions if decision.block not in first)
    dropped = dict.fromkeys(decision.block for decision in plan.decisions if decision.block in first)
    if not kept:
        raise PlanError("only first blocks of stages can skip work here", "leave keep_first out")
    stays = tuple(Refusal(where=block, reason="the first block of each stage is kept on") for block in dropped)
    return replace(plan, decisions=kept, refusals=(*plan.refusals, *stays), keep_first=True)


def parse_granularity(text: str | None, paradigms: Mapping[str, Paradigm]) -> dict[str, list[int]]:
    """`4-4-2-1+16` -> the numbers for each paradigm that takes some."""
    if text is None:
        return {}
    takers = [name for name, way in paradigms.items() if way.takes_granularity]
    if not takers:
        raise InputError(f"{'+'.join(paradigms)} takes no granularity", "leave the granularity out")
    parts = text.split("+")
    if len(parts) != len(takers):
        which = "+".join(takers)
        raise InputError(
            f"the granularity {text!r} has {len(parts)} part(s) for {len(takers)} paradigm(s) that take one ({which})",
            "give one part for each, joined by +, such as 4-4-2-1+16",
        )
    return {name: _numbers(part) for name, part in zip(takers, parts, strict=True)}


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split("-")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise InputError(f"the granularity {text!r} is not whole numbers above 0", "write it like 4-4-2-1, one a stage")
    return numbers


def _per_block(numbers: list[int], blocks: Sequence[Block]) -> list[int]:
    stages = 1 + max((block.stage for block in blocks), default=0)
    if len(numbers) == 1:
        return numbers * len(blocks)
    if len(numbers) == stages:
        return [numbers[block.stage] for block in blocks]
    if len(numbers) == len(blocks):
        return numbers
    raise InputError(
        f"the granularity {'-'.join(map(str, numbers))!r} has {len(numbers)} numbers",
        f"give 1, {stages} (one a stage) or {len(blocks)} (one a block)",
    )
