"""A network's plan for one device, worked out once: the file that `laudc plan` writes and what it tells of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from laudc.latency.remembered import remembered

if TYPE_CHECKING:
    from laudc.latency.constants import Calibration
    from laudc.program import Program
    from laudc.targets import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedBlock:
    """What was chosen for one block."""

    block: str
    decisions: Sequence[str]
    static_us: float
    ratio: float
    why: str
    weighed: Mapping[str, float]
    """Ratios by candidate, the best first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """The whole answer, plain data."""

    text: str
    """Of plan.toml."""
    hash: str
    static_us: float
    """Of the whole network; so is the next."""
    planned_us: float
    blocks: tuple[PlannedBlock, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Planned:
        """From what `asdict` makes, through JSON."""
        return cls(**{**values, "blocks": tuple(PlannedBlock(**one) for one in values["blocks"])})


def planned_for(
    model: str,
    identity: Mapping[str, object],
    program: Callable[[], Program],
    target: Target,
    calibration: Calibration,
    *,
    dtype: str,
    batch: int,
    rate: float,
    paradigm: str,
    margin: float,
) -> Planned:
    """The plan, remembered or made now; what is wrong with the question shows where it is made.

    identity: plain data that is the same for no other network.
    """
    options = {"dtype": dtype, "batch": batch, "rate": rate, "paradigm": paradigm, "margin": margin}
    written = {"model": model, "target": target.name, "calibration": calibration.words}
    answer = remembered(
        {"kind": "plan", "network": identity, "options": options, "written": written},
        target,
        calibration,
        lambda: asdict(_planned(model, program(), target, calibration, **options)),
    )
    return Planned.from_json(answer)


def _planned(model: str, program: Program, target: Target, calibration: Calibration, **options: Any) -> Planned:
    from laudc.latency.planner import Search, choose_blocks, plan_of, whole_network
    from laudc.plan_file import PlanFile

    search = replace(Search.of(program, target, **options), calibration=calibration)
    choices = choose_blocks(program, search)
    static, planned = whole_network(program, plan_of(choices, search), search)
    file = PlanFile(
        basis=search.basis(model),
        blocks={choice.block: choice.chosen.candidate if choice.chosen else () for choice in choices},
        reasons={choice.block: choice.why for choice in choices},
    )
    return Planned(
        text=file.text(),
        hash=file.hash,
        static_us=static.total_us,
        planned_us=planned.total_us,
        blocks=tuple(
            PlannedBlock(
                block=choice.block,
                decisions=[f"{name} {granularity}" for name, granularity in file.blocks[choice.block]],
                static_us=choice.static.total_us,
                ratio=choice.chosen.ratio if choice.chosen else 1.0,
                why=choice.why,
                weighed={one.words: one.ratio for one in choice.weighed},
            )
            for choice in choices
        ),
    )
