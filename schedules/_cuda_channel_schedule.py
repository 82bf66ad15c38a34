"""What the two tensor-core schedules for channel lists share: which work fits them, their tiles, how weights lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from laudc.schedules._cuda_channel_tile import MOST_PIECES, PADDING_TAP, ChannelTile, most_steps
from laudc.schedules._cuda_demand import channel_demand
from laudc.schedules._cuda_problem import Problem, meaningless, problem_of
from laudc.schedules._cuda_tensor_schedule import (
    ENOUGH_WARPS,
    FEW_STEPS,
    TensorCoreSchedule,
    has_room,
    packed_matrix,
    refuse_type,
)
from laudc.schedules._cuda_tiles import FIRST_HOPPER_ARCH, WIDEST, Candidate, TensorTile, ranked
from laudc.schedules._demand import Active, Demand
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import DTYPE_BYTES

if TYPE_CHECKING:
    from laudc.targets import Target

_WIDTHS = 4
"""How many there are to choose from where a count cuts a block's columns: each has code of its own."""


_NARROWEST = 64
"""Rows and columns of the tiles that there are for any work."""

_TALLEST = 256
"""Rows of a tile that reads the weights once for a whole sample."""


def table(names: tuple[str, ...], *rows: tuple[int, ...]) -> tuple[Candidate, ...]:
    """A candidate a row: the numbers of its choice, by these names, and its speed."""
    return tuple(Candidate(choice=dict(zip(names, row[:-1], strict=True)), speed=row[-1]) for row in rows)


class ChannelSchedule(Schedule):
    ops = frozenset({"conv2d"})
    kind = "cuda"
    plain: TensorCoreSchedule
    """The schedule of the same instructions for work without channel lists."""
    candidates: tuple[Candidate, ...]

    def refuse_target(self, target: Target) -> str | None:
        return self.plain.refuse_target(target)

    def refuse(self, work: Work, target: Target) -> str | None:
        return self.refuse_target(target) or meaningless(work) or _refuse_problem(problem_of(work))

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        p = problem_of(work)

        def tile_of(choice: Choice) -> ChannelTile:
            return self.tile(p, choice, target)

        fitted = (Candidate(choice=_fitted(p, c.choice), speed=c.speed) for c in self.candidates)
        useful = (c for c in fitted if has_room(p, tile_of(c.choice).tensor) and _is_useful(p, c.choice))
        return ranked(p, useful, tile_of, target, columns=p.columns, enough_warps=ENOUGH_WARPS)

    def tile(self, p: Problem, choice: Choice, target: Target) -> ChannelTile:
        """The choice as the kernel's tile on this chip."""
        bn, core = choice["bn"], self.plain.core
        plain: dict[str, Any] = {name: number for name, number in choice.items() if name != "walk"}
        cut = core == "wgmma" and p.channels_out > 0 and most_steps(p) > 1
        return ChannelTile(
            tensor=TensorTile(
                core=core,
                stmatrix=target.capability >= FIRST_HOPPER_ARCH,
                sums=int(p.sums),
                size=DTYPE_BYTES[p.dtype],
                **plain,
            ),
            most_steps=most_steps(p),
            widths=tuple(range(bn // _WIDTHS, bn + 1, bn // _WIDTHS)) if cut else (bn,),
            listed=p.decisions,
            walk=choice["walk"] * (p.columns // bn),
        )

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        p = problem_of(work)
        speed = next(c.speed for c in self.candidates if dict(_fitted(p, c.choice)) == dict(choice))
        return channel_demand(p, self.tile(p, choice, target), speed, active)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cuda_tensor_channels import channel_module

        p = problem_of(work)
        return Lowered(module=channel_module(p, self.tile(p, choice, target)), pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """One row a column of the result."""
        packed = packed_matrix(problem_of(work), work, weights)
        return (packed, weights["bias"].float().contiguous()) if "bias" in weights else (packed,)


def _refuse_problem(p: Problem) -> str | None:
    if not p.per_sample:
        return "without channel lists every tile is as deep and as wide as the next"
    if p.samples:
        return "tensor-core tiles with channel lists read lists of rows, not decisions on samples"
    wrong_type = refuse_type(p)
    if wrong_type:
        return wrong_type
    if p.groups != 1:
        return f"tensor-core tiles take one group, not {p.groups}"
    if p.prologue is not None or p.gain:
        return "tensor-core tiles with channel lists take no prologue and no gain"
    for size, most, what in (
        (p.channels, p.piece, "channels"),
        (p.columns, 8, "columns"),
        (p.channels_in, p.piece, "listed channels of x"),
    ):
        if size % most:
            return f"copies take {most} {what} at a time, and {size} is no multiple"
    if p.taps > PADDING_TAP:
        return f"tensor-core tiles with channel lists take {PADDING_TAP} taps at most, not {p.taps}"
    if p.depth > MOST_PIECES * p.piece:
        return f"shared memory tells about sums of {MOST_PIECES * p.piece} numbers at most, not {p.depth}"
    return None


def _fitted(p: Problem, choice: Choice) -> Choice:
    """The tile for this depth: no more stages than steps, but a walker goes on to the next tile's. A narrow tile reads
    its residual early: late, the reads would come between its sums, and wgmma would wait for each of them."""
    if choice["walk"]:
        return choice
    early = int(p.residual != "none" and choice["bn"] == _NARROWEST)
    return {**choice, "stages": min(most_steps(p), choice["stages"]), "early": early}


def _is_useful(p: Problem, choice: Choice) -> bool:
    """No tile of which half would be idle. One that is alone on its multiprocessor, so that no other hides its start
    and its end, only where sums are long and no residual is waited for; the tall one only where it holds a sample.
    Walkers have room for few steps of x."""
    short = most_steps(p) <= FEW_STEPS
    tall = choice["bm"] == _TALLEST
    lonely = (tall or choice["bn"] == WIDEST) and (short or p.residual != "none" or (tall and p.pixels > _TALLEST))
    idle = any(choice[side] > max(size, _NARROWEST) * 2 - 1 for side, size in (("bm", p.pixels), ("bn", p.columns)))
    walks = short and not p.channels_out and p.columns % choice["bn"] == 0 and p.columns >= 2 * choice["bn"]
    return not lonely and not idle and (walks or not choice["walk"])
