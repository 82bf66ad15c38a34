"""Whose time is asked for, on which device: a network by name, a plan file, or a converted file.

What tells the question from every other is known before the network is opened, so that its answer can be remembered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laudc.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from laudc.latency.constants import Calibration
    from laudc.latency.planner import Search
    from laudc.plan import Plan
    from laudc.program import Program
    from laudc.targets import Target

_PARADIGM = "spatial"
_RATE = 0.5


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
    plans: Callable[[Program], Mapping[str, Plan]]
    """One, or for a comparison one a paradigm. PlanError where it does not fit."""
    fixed: bool = False
    """Whether a file says what is skipped."""
    target: str | None = None
    dtype: str | None = None
    batch: int = 1
    rate: float = _RATE


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
            program = self.asked.program()
            return make(program, self.asked.plans(program), self._search(program))

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
    from laudc.plan import check_rate

    checked = check_rate(asked.rate if rate is None else rate)
    device, kind = device_for(target or asked.target, dtype or (None if target else asked.dtype))
    return Question(
        asked=asked,
        target=device,
        calibration=calibration_for(device),
        dtype=kind,
        batch=batch or asked.batch,
        size=size,
        rate=checked,
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
        from laudc.paradigms import PARADIGMS

        return _by_name(model, size, tuple(PARADIGMS), None)
    return _by_name(model, size, (paradigm or _PARADIGM,), granularity)


def _by_name(model: str, size: tuple[int, int] | None, paradigms: tuple[str, ...], granularity: str | None) -> Asked:
    from laudc.plan import make_plan, parse_granularity, parse_paradigms

    for name in paradigms:
        parse_granularity(granularity, parse_paradigms(name))
    identity, program = _network(model, size)
    return Asked(
        name=model,
        how=" ".join([*paradigms, *([granularity] if granularity else [])]),
        key={**identity, "paradigms": paradigms, "granularity": granularity},
        program=program,
        plans=lambda found: {
            name: make_plan(found.blocks, paradigm=name, granularity=granularity) for name in paradigms
        },
    )


def _by_plan(model: str | None, path: Path, size: tuple[int, int] | None) -> Asked:
    from laudc.plan_file import check_fits, read_plan

    file = read_plan(path)

    def plans(found: Program) -> Mapping[str, Plan]:
        check_fits(file, found)
        return {str(path): file.plan()}

    basis = file.basis
    identity, program = _network(model or basis.model, size or basis.size)
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
        plans=lambda _: {plan.paradigm: plan},
        fixed=True,
        rate=_RATE if plan.rate is None else plan.rate,
    )


def _network(model: str, size: tuple[int, int] | None) -> tuple[dict[str, object], Callable[[], Program]]:
    """What tells the network from others, and how to capture it. One in a file of the user's own has to be opened
    for that: its name does not tell what is in it."""
    from laudc.commands._planning import wanted_network
    from laudc.models import check_name

    check_name(model)
    if ".py:" not in model:
        return {"model": model, "size": size}, lambda: wanted_network(model, size)[1]
    program = wanted_network(model, size)[1]
    return {"program": program.digest}, lambda: program
