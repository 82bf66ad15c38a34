"""What a network is predicted to take, static and dynamic, block by block: nothing runs, no weight matters.

Both sides are lowered and their kernels bound as the compiler does it for the rate that matters, then priced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laudc.latency.constants import Calibration
    from laudc.latency.network import NetworkModel
    from laudc.latency.planner import Search
    from laudc.plan import Plan
    from laudc.program import Program

OUTSIDE = ""
"""The name of what belongs to no block."""
_HALVINGS = 10
"""Of the interval in which the break-even rate lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One network, static and dynamic, ready to be priced."""

    static: NetworkModel
    dynamic: NetworkModel
    decisions: Mapping[str, str]
    """What each block decides, in words; "" for one that stays static."""
    stages: Mapping[str, int]
    """By block, counted from 0."""

    @property
    def shown(self) -> tuple[str, ...]:
        """One block of each stage, the last: not one that changes the map."""
        return tuple({stage: block for block, stage in self.stages.items()}.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPrediction:
    """One block; microseconds a call."""

    block: str
    decisions: str
    static_us: float
    dynamic_us: float
    bound: str
    """What most of the dynamic block's time is spent on."""
    break_even: float | None
    """The largest rate at which it is faster than static: 1.0 means always, None never."""

    @property
    def ratio(self) -> float:
        return self.dynamic_us / self.static_us


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A whole network at one rate of all its maskers; microseconds a call."""

    size: tuple[int, int]
    """Of the images: height, width."""
    blocks: tuple[BlockPrediction, ...]
    static_us: float
    """Blocks and all else."""
    dynamic_us: float
    outside_us: float
    """Of the dynamic network, what belongs to no block."""

    @property
    def ratio(self) -> float:
        return self.dynamic_us / self.static_us

    @property
    def slower(self) -> tuple[str, ...]:
        """The blocks that are predicted to take more time than static."""
        return tuple(one.block for one in self.blocks if one.dynamic_us > one.static_us)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Prediction:
        """The inverse of `to_json`."""
        height, width = values["size"]
        blocks = tuple(BlockPrediction(**one) for one in values["blocks"])
        return cls(**{**values, "size": (height, width), "blocks": blocks})


def pair_of(program: Program, plan: Plan, search: Search, *, without: Iterable[str] = ()) -> Pair:
    """Both sides of a captured network, or of one that is converted by that plan.

    without: fusions to leave out of the dynamic side. PlanError and BuildError as converting and compiling do.
    """
    from laudc.latency._frame import weightless
    from laudc.latency.planner import bound, converted, typed_for, words_of
    from laudc.static_network import static_program

    typed = typed_for(program, search)
    dynamic = converted(typed, plan) if plan.decisions else weightless(typed)
    return Pair(
        static=bound(static_program(dynamic), search),
        dynamic=bound(dynamic, search, without=without),
        decisions={
            block.name: words_of(tuple((one.paradigm, one.granularity) for one in plan.of(block.name)))
            for block in program.blocks
        },
        stages={block.name: block.stage for block in program.blocks},
    )


def predict(pair: Pair, search: Search) -> Prediction:
    """The prediction at the rate of the search."""
    static = pair.static.expected(search.calibration, search.rate)
    dynamic = pair.dynamic.expected(search.calibration, search.rate)
    return Prediction(
        size=search.size,
        blocks=tuple(
            BlockPrediction(
                block=block,
                decisions=words,
                static_us=static.blocks[block].total_us,
                dynamic_us=dynamic.blocks[block].total_us,
                bound=dynamic.blocks[block].bound,
                break_even=break_even_rate(pair, block, search.calibration) if words else None,
            )
            for block, words in pair.decisions.items()
        ),
        static_us=static.total_us,
        dynamic_us=dynamic.total_us,
        outside_us=dynamic.blocks[OUTSIDE].total_us if OUTSIDE in dynamic.blocks else 0.0,
    )


def break_even_rate(pair: Pair, block: str, calibration: Calibration) -> float | None:
    """The largest rate at which the block is faster than static, to a thousandth; None if there is none.

    The tiles stay those of the rate that the network was bound for. The time never falls as the rate grows.
    """
    static = pair.static.only(block).expected(calibration, 1.0).total_us
    dynamic = pair.dynamic.only(block)

    def gains(rate: float) -> bool:
        return dynamic.expected(calibration, rate).total_us < static

    if gains(1.0):
        return 1.0
    if not gains(0.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if gains(middle) else (low, middle)
    return low
