"""What the maskers share: which types they decide on, how a logit becomes a decision, one sum for each unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._reduce import TEAMS, Term, add_run, add_share, over_lanes, over_team, zeros
from laudc.schedules._spread import spread
from laudc.schedules.base import Work
from laudc.types import FLOATS


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """Where a masker's decisions come from and go to."""

    given: Memory
    """What stands in for its own; below zero where nothing does."""
    mask: Memory
    logits: Memory


Finish: TypeAlias = Callable[[Any, Any, Any], None]
"""What becomes of the total of a sample's unit."""

Add: TypeAlias = Callable[[Any, Term], None]
"""Adds the terms of so many vectors to the sum of a unit."""


def refuse_type(work: Work) -> str | None:
    """Why it cannot decide on this type, or None."""
    if work.dtype not in FLOATS:
        return f"it decides on {', '.join(FLOATS)}, not on {work.dtype}"
    return None


def given_to(kernel: Kernel, work: Work) -> Memory:
    """The argument behind the operands: the decisions that are given from outside."""
    return kernel.operand("given", work.results[0])


def decisions_of(kernel: Kernel, work: Work, given: Memory) -> Decisions:
    """The next two arguments, which are written."""
    mask, logits = (kernel.operand(name, type_) for name, type_ in zip(("mask", "logits"), work.results, strict=False))
    return Decisions(given=given, mask=mask, logits=logits)


def decide(decisions: Decisions, at: tuple[Any, ...], logit: Any) -> None:
    """Write the logit and what it decides."""
    decisions.logits[at] = logit
    decisions.mask[at] = decided(decisions.given[at], logit)


def decided(given: Any, logit: Any) -> Any:
    """As it is given, else on from zero upwards; float32."""
    from tvm import tirx

    zero, one = tirx.const(0, "float32"), tirx.const(1, "float32")
    return tirx.Select(given >= zero, given, tirx.Select(logit >= zero, one, zero))


@contextmanager
def unit_sums(
    kernel: Kernel, units: int, finish: Finish, *, vector: int, team: int, parallel: bool
) -> Iterator[tuple[Any, Any, Add]]:
    """One turn for each unit of each sample: its index, and what adds to its sum. A GPU gives each to a team."""
    if not kernel.on_gpu:
        with spread(kernel, (units, 1), vector=1, parallel=parallel) as (b, unit, _):
            sums = zeros(kernel, "sums", vector)
            yield b, unit, lambda steps, term: add_run(kernel, sums, vector, steps, term)
            finish(b, unit, over_lanes(sums, vector))
        return
    abreast = TEAMS // team
    with (
        kernel.thread("blockIdx.y", kernel.batch) as b,
        kernel.thread("blockIdx.x", -(-units // abreast)) as block,
        kernel.thread("threadIdx.y", abreast) as which,
        kernel.thread("threadIdx.x", team) as thread,
    ):
        unit = block * abreast + which
        sums = zeros(kernel, "sums", vector)
        with kernel.when(unit < units):
            yield b, unit, lambda steps, term: add_share(kernel, sums, vector, steps, term, thread=thread, team=team)
        total = over_team(kernel, over_lanes(sums, vector), thread=thread, which=which, team=team)
        with kernel.when(thread == 0, unit < units):
            finish(b, unit, total)
