"""Whose time is asked for, on which device: a network by name, a plan file, or a converted file.

What tells the question from every other is known before the network is opened, so that its answer can be remembered.
What is wrong with it shows only where it has no answer yet: a name or a number that was answered once is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laudc.defaults import AUTO, DEFAULT_PARADIGM, DEFAULT_RATE
from laudc.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from laudc.latency.constants import Calibration
    from laudc.latency.planner import Search
    from laudc.plan import Plan
    from laudc.program import Program
    from laudc.targets import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A network, what it skips, and what holds where no option says otherwise."""

    name: str
    how: str
    """What it skips, in words."""
    key: Mapping[str, object]
    """Plain data that is the same for nothing else."""
    program: Callable[[], Program]
    """Captured; or converted, for a converted file."""
    plans: Callable[[Program, Search], Mapping[str, Plan]]
    """One, or for a comparison one a paradigm. PlanError where it does not fit."""
    fixed: bool = False
    """Whether a file says what is skipped."""
    target: str | None = None
    dtype: str | None = None
    batch: int = 1
    rate: float = DEFAULT_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The network on a device."""

    asked: Asked
    target: Target
    calibration: Calibration
    dtype: str
    batch: int
    size: tuple[int, int] | None
    """None: the network's own."""
    rate: float

    @property
    def words(self) -> str:
        """For a title."""
        return (
            f"{self.asked.name}, {self.asked.how}, on {self.target.title}: batch {self.batch}, rate {self.rate:g}, "
            f"{self.dtype}"
        )

    def answer(
        self, kind: str, make: Callable[[Program, Mapping[str, Plan], Search], dict[str, Any]]
    ) -> dict[str, Any]:
        """What `make` returns, plain data; it is asked only once."""
        from laudc.latency.remembered import remembered

        def opened() -> dict[str, Any]:
            from laudc.plan import check_rate

            check_rate(self.rate)
            program = self.asked.program()
            search = self._search(program)
            return make(program, self.asked.plans(program, search), search)

        content = {
            "kind": kind, "network": self.asked.key, "dtype": self.dtype, "batch": self.batch, "size": self.size,
            "rate": self.rate,
        }  # fmt: skip
        return remembered(content, self.target, self.calibration, opened)

    def _search(self, program: Program) -> Search:
        from laudc.latency.planner import Search
        from laudc.program import input_type

        height, width = self.size or input_type(program).shape[2:]
        return Search(
            target=self.target,
            calibration=self.calibration,
            batch=self.batch,
            size=(height, width),
            dtype=self.dtype,
            rate=self.rate,
        )


def question_about(
    asked: Asked,
    *,
    target: str | None,
    dtype: str | None,
    batch: int | None,
    size: tuple[int, int] | None,
    rate: float | None,
) -> Question:
    """The options over what the network brings, checked."""
    from laudc.commands._planning import device_for
    from laudc.latency.constants import calibration_for

    device, kind = device_for(target or asked.target, dtype or (None if target else asked.dtype))
    return Question(
        asked=asked,
        target=device,
        calibration=calibration_for(device),
        dtype=kind,
        batch=batch or asked.batch,
        size=size,
        rate=asked.rate if rate is None else rate,
    )


def asked_for(
    model: str | None,
    plan_file: Path | None,
    *,
    paradigm: str | None,
    granularity: str | None,
    size: tuple[int, int] | None,
    compare: bool,
) -> Asked:
    """What the options name; InputError where they name nothing, or two things at once. compare: every paradigm where
    none is named."""
    if plan_file is None and model is None:
        raise InputError("there is nothing to predict", "name a network, a converted .laud file, or --plan FILE")
    if model is not None and model.endswith(".toml"):
        raise InputError(f"{model} is no network", f"give it as --plan {model}")
    file = plan_file or (Path(model) if model is not None and model.endswith(".laud") else None)
    if file is not None and (paradigm or granularity):
        option = "--paradigm" if paradigm else "--granularity"
        raise InputError(f"{file} says what is skipped", f"leave {option} out")
    if plan_file is not None:
        return _by_plan(model, plan_file, size)
    if file is not None:
        return _in_file(file)
    assert model is not None
    if compare and paradigm is None and granularity is None:
        return _by_name(model, size, None, None)
    if paradigm == AUTO:
        return _planned(model, size, granularity)
    return _by_name(model, size, paradigm or DEFAULT_PARADIGM, granularity)


def _by_name(model: str, size: tuple[int, int] | None, paradigm: str | None, granularity: str | None) -> Asked:
    """None: every paradigm, each alone."""
    from laudc.commands._planning import network_of

    identity, program = network_of(model, size)

    def checked() -> Program:
        from laudc.plan import parse_granularity, parse_paradigms

        if paradigm is not None:
            parse_granularity(granularity, parse_paradigms(paradigm))
        return program()

    def plans(found: Program, _: Search) -> Mapping[str, Plan]:
        from laudc.paradigms import PARADIGMS
        from laudc.plan import make_plan

        names = tuple(PARADIGMS) if paradigm is None else (paradigm,)
        return {name: make_plan(found.blocks, paradigm=name, granularity=granularity) for name in names}

    return Asked(
        name=model,
        how=" ".join([paradigm or "every paradigm", *([granularity] if granularity else [])]),
        key={**identity, "paradigm": paradigm, "granularity": granularity},
        program=checked,
        plans=plans,
    )


def _planned(model: str, size: tuple[int, int] | None, granularity: str | None) -> Asked:
    """Each block as `laudc plan` would have it."""
    from laudc.commands._planning import network_of

    if granularity is not None:
        raise InputError("the planner chooses the granularity, too", "leave --granularity out, or name a paradigm")
    identity, program = network_of(model, size)

    def plans(found: Program, search: Search) -> Mapping[str, Plan]:
        from laudc.latency.planner import choose_blocks, plan_of

        return {AUTO: plan_of(choose_blocks(found, search), search)}

    return Asked(name=model, how=AUTO, key={**identity, "paradigm": AUTO}, program=program, plans=plans)


def _by_plan(model: str | None, path: Path, size: tuple[int, int] | None) -> Asked:
    from laudc.commands._planning import network_of
    from laudc.plan_file import check_fits, read_plan

    file = read_plan(path)

    def plans(found: Program, _: Search) -> Mapping[str, Plan]:
        check_fits(file, found)
        return {str(path): file.plan()}

    basis = file.basis
    identity, program = network_of(model or basis.model, size or basis.size)
    return Asked(
        name=model or basis.model,
        how=str(path),
        key={**identity, "plan": file.hash},
        program=program,
        plans=plans,
        fixed=True,
        target=basis.target,
        dtype=basis.dtype,
        batch=basis.batch,
        rate=basis.rate,
    )


def _in_file(path: Path) -> Asked:
    from laudc.artifact import read_converted

    file = read_converted(path)
    plan = file.plan
    if plan is None:
        raise ArtifactError(f"{path} lacks its plan", "make it again")
    return Asked(
        name=str(path),
        how=plan.paradigm,
        key={"graph": hashlib.sha256(file.members["graph.json"]).hexdigest(), "plan": plan.to_json()},
        program=lambda: file.program,
        plans=lambda *_: {plan.paradigm: plan},
        fixed=True,
        rate=plan.expected_rate,
    )
