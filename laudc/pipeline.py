"""Order the passes, run them, check after each, and write down what each one did."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from laudc.errors import UnknownName
from laudc.passes import PASSES, Pass
from laudc.program import Program
from laudc.verify import verify


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one pass did."""

    name: str
    options: str
    changed: bool
    seconds: float
    op_change: Mapping[str, int]
    """How many more or fewer of each operation."""


Watcher = Callable[[Pass, Program, Program], None]
"""Called after each pass with the program before and after."""


def ordered(stage: str) -> tuple[str, ...]:
    """The passes of a stage in the order they run: each after those it names, else by name."""
    names = {name.replace("-", "_"): PASSES[name] for name in PASSES}
    chosen = {name: kind for name, kind in names.items() if kind.stage == stage}
    sorter = TopologicalSorter(
        {name: [other for other in chosen[name].after if other in chosen] for name in sorted(chosen)}
    )
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return tuple(order)


def lowering(options: Mapping[str, object] | None = None, *, without: Iterable[str] = ()) -> tuple[Pass, ...]:
    """The passes that lower a converted program. `without` names fusions to leave out, by the pass's name or its
    last words (`gather-conv`); an unknown one, or one that is not optional, is an InputError."""
    switched_off = {_optional_pass(name) for name in without}
    return tuple(_made(name, options or {}) for name in ordered("lower") if name not in switched_off)


def optional_passes() -> tuple[str, ...]:
    """The fusions that can be switched off, as `--no-fuse` spells them."""
    return tuple(sorted(name.removeprefix("fuse-") for name in PASSES if PASSES[name].optional))


def _optional_pass(name: str) -> str:
    for known in PASSES:
        if PASSES[known].optional and name.replace("_", "-") in (known, known.removeprefix("fuse-")):
            return known.replace("-", "_")
    raise UnknownName.among("fusion", name, optional_passes())


def _made(name: str, options: Mapping[str, object]) -> Pass:
    kind = PASSES[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in options.items() if key in fields})


def run(program: Program, passes: Sequence[Pass], *, watch: Watcher | None = None) -> tuple[Program, tuple[Step, ...]]:
    """The program after all passes, and what each one did. An error says which pass it came from."""
    steps = []
    for rewrite in passes:
        before, start = program, time.perf_counter()
        try:
            program = rewrite.run(before)
            if program is not before:
                verify(program)
        except Exception as error:
            error.add_note(f"in the pass {rewrite.name}, {rewrite}")
            raise
        if watch is not None:
            watch(rewrite, before, program)
        steps.append(_step(rewrite, before, program, time.perf_counter() - start))
    return program, tuple(steps)


def _step(rewrite: Pass, before: Program, after: Program, seconds: float) -> Step:
    counts = [_count(program) for program in (before, after)]
    names = sorted(counts[0].keys() | counts[1].keys())
    change = {name: counts[1].get(name, 0) - counts[0].get(name, 0) for name in names}
    return Step(
        name=rewrite.name,
        options=repr(rewrite),
        changed=after is not before,
        seconds=seconds,
        op_change={name: number for name, number in change.items() if number},
    )


def _count(program: Program) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, op in program.ops():
        counts[op.spec.name] = counts.get(op.spec.name, 0) + 1
    return counts
