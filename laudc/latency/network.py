"""The time of a compiled network, kernel by kernel: the same specs, tiles and order that the compiler emits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, fx

from laudc.kernels.kernel import Kernel
from laudc.latency._lists import Lists, lists_of
from laudc.latency._time import Time, added
from laudc.latency.constants import Calibration
from laudc.latency.kernel import EVERYTHING, expected_time
from laudc.ops._masker import Masker
from laudc.program import Program, block_of
from laudc.schedules import Active


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """One kernel call of a network."""

    name: str
    block: str
    kernel: Kernel
    lists: Lists | None
    """What decides how much of it runs; None where all does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkTime:
    """A network's time and where it goes."""

    steps: Mapping[str, Time]
    """By call."""
    blocks: Mapping[str, Time]
    """By block; what belongs to none is under ''."""

    @property
    def total_us(self) -> float:
        return sum(time.total_us for time in self.blocks.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkModel:
    """A bound program, ready to be priced for any rates or masks."""

    calls: tuple[Priced, ...]
    maskers: tuple[str, ...]
    """The keys of its decisions."""

    def only(self, block: str) -> NetworkModel:
        """The calls of one block."""
        return replace(self, calls=tuple(call for call in self.calls if call.block == block))

    def expected(self, calibration: Calibration, rates: float | Mapping[str, float]) -> NetworkTime:
        """The mean time when every unit is on with its masker's rate, independently of the others."""
        by_key = dict.fromkeys(self.maskers, rates) if isinstance(rates, float | int) else dict(rates)
        return self._time(calibration, lambda lists: lists.expected(by_key))

    def given(self, calibration: Calibration, masks: Mapping[str, Tensor]) -> NetworkTime:
        """The time for these decisions, one (B, ...) by masker."""
        return self._time(calibration, lambda lists: lists.given(masks))

    def _time(
        self, calibration: Calibration, cases_of: Callable[[Lists], tuple[tuple[float, Active], ...]]
    ) -> NetworkTime:
        steps: dict[str, Time] = {}
        blocks: dict[str, list[Time]] = {}
        for call in self.calls:
            cases = EVERYTHING if call.lists is None else cases_of(call.lists)
            kernel = call.kernel
            steps[call.name] = expected_time(
                kernel.schedule, kernel.work, kernel.choice, kernel.target, calibration.constants, cases
            )
            blocks.setdefault(call.block, []).append(steps[call.name])
        return NetworkTime(steps=steps, blocks={name: added(times) for name, times in blocks.items()})


CasesOf = Callable[[fx.Node], tuple[tuple[float, Active], ...]]
"""What of an operation is on, with the probability of each case."""


def lists_at(lowered: Program, rate: float) -> CasesOf:
    """What is on in each operation of a lowered program when every masker keeps its units with that rate."""
    rates = {op.key: rate for _, op in lowered.ops() if isinstance(op, Masker)}

    def cases(node: fx.Node) -> tuple[tuple[float, Active], ...]:
        lists = _lists(lowered, node)
        return EVERYTHING if lists is None else lists.expected(rates)

    return cases


def network_model(lowered: Program) -> NetworkModel:
    """The model of a program whose kernels are bound."""
    calls, maskers = [], []
    for node in lowered.nodes:
        kernel = cast("Kernel | None", node.meta.get("kernel"))
        if kernel is not None:
            calls.append(Priced(name=node.name, block=block_of(node), kernel=kernel, lists=_lists(lowered, node)))
        op = lowered.op(node)
        if isinstance(op, Masker):
            maskers.append(op.key)
    return NetworkModel(calls=tuple(calls), maskers=tuple(maskers))


def _lists(program: Program, node: fx.Node) -> Lists | None:
    op = program.op(node)
    assert op is not None
    return lists_of(program, node) if {"rows", "channels", "touched"} & set(op.spec.operands) else None
