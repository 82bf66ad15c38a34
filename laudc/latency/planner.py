"""Which paradigm and which granularity each block gets on one device, before any training.

Every candidate is lowered as the compiler would lower it and priced at the rate that matters, against the same block
in the static network. Of the candidates whose predicted ratio lies within a margin of the best one, the one with the
most decisions is taken: the more freely a block can choose, the less accuracy a rate costs. A block for which none is
predicted to gain stays static.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from laudc import pipeline
from laudc.defaults import AUTO
from laudc.errors import InputError, PlanError
from laudc.latency import _kept
from laudc.latency._frame import Frame, frame_of, weightless
from laudc.latency._time import Time
from laudc.latency.constants import Calibration, calibration_for, device_identity
from laudc.latency.network import NetworkModel, NetworkTime, network_model
from laudc.latency.remembered import remembered
from laudc.paradigms import PARADIGMS
from laudc.passes.bind_kernels import BindKernels
from laudc.passes.insert_maskers import InsertMaskers
from laudc.plan import Basis, Decision, Plan, check_rate, parse_paradigms
from laudc.program import Block, Program, Refusal, input_type, program_for
from laudc.static_network import static_program
from laudc.structure import structure_digest
from laudc.targets import Target
from laudc.types import in_memory

MARGIN = 0.05
"""How far from the best predicted ratio a finer candidate may lie."""

Candidate = tuple[tuple[str, int], ...]
"""Paradigms with their granularities, together in one block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighed:
    """A candidate for one block, with its price."""

    candidate: Candidate
    decisions: int
    """Of one sample."""
    time: Time
    ratio: float
    """Of the static block."""

    @property
    def words(self) -> str:
        return words_of(self.candidate)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockChoice:
    """What was decided for one block, and what it was decided among."""

    block: str
    static: Time
    chosen: Weighed | None
    """None: the block stays static."""
    weighed: tuple[Weighed, ...]
    """The best first."""
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What to plan for."""

    target: Target
    calibration: Calibration
    batch: int
    size: tuple[int, int]
    dtype: str
    rate: float
    paradigm: str = AUTO
    """Paradigms joined by +, or "auto": each alone, block by block."""
    margin: float = MARGIN
    structure: str = ""
    """Digest of the network, for the plan to name."""

    @classmethod
    def of(
        cls,
        program: Program,
        target: Target,
        *,
        batch: int,
        rate: float,
        dtype: str | None = None,
        paradigm: str = AUTO,
        margin: float = MARGIN,
    ) -> Search:
        """For a network at its own size, on a device with the calibration that it has."""
        height, width = input_type(program).shape[2:]
        return cls(
            target=target,
            calibration=calibration_for(target),
            batch=batch,
            size=(height, width),
            dtype=dtype or target.default_dtype,
            rate=rate,
            paradigm=paradigm,
            margin=margin,
            structure=structure_digest(program),
        )

    def basis(self, model: str) -> Basis:
        """What the plan of a network is made for."""
        return Basis(
            model=model,
            structure=self.structure,
            target=self.target.name,
            target_hash=device_identity(self.target),
            dtype=self.dtype,
            batch=self.batch,
            size=self.size,
            rate=self.rate,
            paradigm=self.paradigm,
            calibration=self.calibration.words,
        )

    def __post_init__(self) -> None:
        check_rate(self.rate)
        if not 0 <= self.margin < 1:
            raise InputError(f"the margin {self.margin} is no share from 0 to 1", "give one such as 0.05")


def choose_blocks(program: Program, search: Search) -> tuple[BlockChoice, ...]:
    """The choice for every block of a captured program, as it was kept or made now. BuildError as compiling does."""
    asked = _kept.question(program, search)
    found = remembered(asked, search.target, search.calibration, lambda: _kept.plain(_choices(program, search)))
    return _kept.choices_of(found)


def _choices(program: Program, search: Search) -> tuple[BlockChoice, ...]:
    frame = frame_of(typed_for(program, search))
    static = price(static_program(weightless(frame.program)), search).blocks
    weighed: dict[str, list[Weighed]] = {block.name: [] for block in frame.program.blocks}
    for taken in _rounds(frame.program.blocks, search.paradigm):
        for name, one in _weigh(frame, taken, static, search):
            weighed[name].append(one)
    return tuple(
        _choose(block.name, static[frame.stands_for[block.name]], weighed[frame.stands_for[block.name]], search.margin)
        for block in program.blocks
    )


def plan_of(choices: Sequence[BlockChoice], search: Search, *, seed: int = 0) -> Plan:
    """The choices as a plan; the blocks that stay static are its refusals."""
    decisions = tuple(
        Decision(block=choice.block, paradigm=paradigm, granularity=granularity)
        for choice in choices
        if choice.chosen
        for paradigm, granularity in choice.chosen.candidate
    )
    static = tuple(Refusal(where=choice.block, reason=choice.why) for choice in choices if choice.chosen is None)
    return Plan(paradigm=search.paradigm, decisions=decisions, refusals=static, target=search.target.name, seed=seed)


def planned(
    program: Program,
    search: Search,
    *,
    binding: bool,
    seed: int = 0,
    rate: float | None = None,
) -> Plan:
    """The plan for a captured program.

    binding: the device was named, so blocks may stay static and the plan holds for that device alone. Without, every
    block that can be dynamic is, with the finest granularity within the margin of its fastest.
    PlanError where nothing is left to be dynamic.
    """
    choices = choose_blocks(program, search)
    if not binding:
        choices = tuple(_dynamic_anyway(choice, search.margin) for choice in choices)
    plan = plan_of(choices, search, seed=seed)
    if not plan.decisions:
        nearest = min(choices, key=lambda choice: choice.weighed[0].ratio if choice.weighed else math.inf)
        raise PlanError(
            f"no block is predicted to gain on {search.target.name} at rate {search.rate:g}: {nearest.block} comes "
            f"nearest, {nearest.why}",
            "name another target, or say what you want: a paradigm with a granularity",
        )
    made_for = search.basis(program.source.get("model", "unknown")) if binding else None
    target = search.target.name if binding else None
    return replace(plan, rate=rate, made_for=made_for, target=target)


def _dynamic_anyway(choice: BlockChoice, margin: float) -> BlockChoice:
    if choice.chosen is not None or not choice.weighed:
        return choice
    return replace(choice, chosen=_finest(choice.weighed, choice.weighed[0].ratio * (1 + margin)))


def _finest(weighed: Sequence[Weighed], most: float) -> Weighed:
    """Of those whose ratio is at most that, the one with the most decisions; of equals the fastest."""
    return max((one for one in weighed if one.ratio <= most), key=lambda one: (one.decisions, -one.ratio))


def bound(program: Program, search: Search, *, without: Iterable[str] = ()) -> NetworkModel:
    """A program (converted, or static) lowered and bound for the rate that matters, ready to be priced at any.

    without: fusions to leave out.
    """
    target, rate, calibration = search.target, search.rate, search.calibration
    options = {"target": target, "dtype": search.dtype, "expected_rate": rate, "calibration": calibration}
    passes = (
        *pipeline.lowering(options, without=without),
        BindKernels(target=target, expected_rate=rate, calibration=calibration),
    )
    lowered, _ = pipeline.run(program, passes)
    return network_model(lowered)


def price(program: Program, search: Search) -> NetworkTime:
    """The same, priced at that rate."""
    return bound(program, search).expected(search.calibration, search.rate)


def converted(program: Program, plan: Plan) -> Program:
    """A captured program (or one that has them already) with its maskers, without weights."""
    return weightless(program if program.takes_masks else InsertMaskers(plan=plan).run(program))


def typed_for(program: Program, search: Search) -> Program:
    """The network at the batch, size and data type that are asked for."""
    channels = input_type(program).shape[1]
    return program_for(program, (search.batch, channels, *search.size), dtype=in_memory(search.dtype))


def _rounds(blocks: Sequence[Block], paradigm: str) -> Iterator[Mapping[str, Candidate]]:
    """One candidate for each block at a time, until every block has had all of its own."""
    waiting = {block.name: list(_candidates(block, paradigm)) for block in blocks}
    for index in range(max((len(found) for found in waiting.values()), default=0)):
        yield {name: found[index] for name, found in waiting.items() if index < len(found)}


def _candidates(block: Block, paradigm: str) -> Iterator[Candidate]:
    together = [[name] for name in PARADIGMS] if paradigm == AUTO else [list(parse_paradigms(paradigm))]
    for names in together:
        sizes = [PARADIGMS[name].granularities(block) for name in names]
        for chosen in product(*sizes):
            pairs = tuple(zip(names, chosen, strict=True))
            if not any(PARADIGMS[name].refuse(block, size) for name, size in pairs):
                yield pairs


def _weigh(
    frame: Frame, taken: Mapping[str, Candidate], static: Mapping[str, Time], search: Search
) -> Iterator[tuple[str, Weighed]]:
    decisions = tuple(
        Decision(block=block, paradigm=paradigm, granularity=size)
        for block, candidate in taken.items()
        for paradigm, size in candidate
    )
    plan = Plan(paradigm=search.paradigm, decisions=decisions)
    times = price(converted(frame.program, plan), search).blocks
    by_name = {block.name: block for block in frame.program.blocks}
    for name, candidate in taken.items():
        units = (PARADIGMS[paradigm].units(by_name[name], size) for paradigm, size in candidate)
        yield (
            name,
            Weighed(
                candidate=candidate,
                decisions=sum(map(math.prod, units)),
                time=times[name],
                ratio=times[name].total_us / static[name].total_us,
            ),
        )


def _choose(block: str, static: Time, weighed: Sequence[Weighed], margin: float) -> BlockChoice:
    ranked = tuple(sorted(weighed, key=lambda one: one.ratio))
    if not ranked:
        return BlockChoice(block=block, static=static, chosen=None, weighed=(), why="no paradigm takes it")
    best = ranked[0]
    if best.ratio >= 1:
        why = f"static: the best, {best.words}, is predicted at {best.ratio:.2f} of it ({best.time.bound} bound)"
        return BlockChoice(block=block, static=static, chosen=None, weighed=ranked, why=why)
    chosen = _finest(ranked, min(1.0, best.ratio * (1 + margin)))
    why = f"{chosen.words}: {chosen.ratio:.2f} of static with {chosen.decisions} decisions"
    if chosen is not best:
        why += f"; fastest {best.words}, {best.ratio:.2f} with {best.decisions}"
    return BlockChoice(block=block, static=static, chosen=chosen, weighed=ranked, why=why)


def words_of(candidate: Candidate) -> str:
    """(("spatial", 4), ("channel", 16)) -> spatial 4 + channel 16; "" for none."""
    return " + ".join(f"{paradigm} {size}" if size else paradigm for paradigm, size in candidate)


def whole_network(program: Program, plan: Plan, search: Search) -> tuple[NetworkTime, NetworkTime]:
    """The static and the planned network, priced as a whole."""
    typed = typed_for(program, search)
    static = price(static_program(weightless(typed)), search)
    return static, price(converted(typed, plan), search) if plan.decisions else replace(static)
