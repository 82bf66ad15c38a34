"""What a kernel family is: it refuses, it offers tiles, it builds.

    work   = what is asked: a spec with the types that go in and out
    choice = the tile numbers, plain data, so they can be searched, stored and compared

A schedule is asked `refuse` first; a reason means the next one is asked. Its kernels take, in this order: the
operands, the packed weights, the workspaces, the results. Where a result shares an operand's buffer (a residual
that is updated in place) that operand is not passed: the result is it. Every kernel takes any batch (its size is
read from the arguments) and any content of a list, an empty one included; height and width are fixed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from laudc.ops.base import Spec
from laudc.schedules._demand import Active, Demand
from laudc.targets import Target
from laudc.types import TensorType

if TYPE_CHECKING:
    from tvm.ir import IRModule

Choice = Mapping[str, int]
"""Tile numbers by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One operation with the types it is used at."""

    spec: Spec
    operands: tuple[TensorType, ...]
    results: tuple[TensorType, ...]

    @property
    def dtype(self) -> str:
        """The type of the first operand: what the arithmetic reads."""
        return self.operands[0].dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowered:
    """TensorIR that only has to be compiled: one function, named `kernel`."""

    module: IRModule
    pipeline: str = "default"
    """"default" for TensorIR, "tirx" for TIRx."""
    config: Mapping[str, int] = field(default_factory=dict)
    """Options of TVM's PassContext."""


class Schedule(ABC):
    """One family of kernels."""

    ops: frozenset[str]
    """The operations it serves."""
    kind: str
    """The kind of target it serves: "cpu", "cuda" or "any"."""
    rank: int = 50
    """Lower is asked first; higher than this is a last resort."""

    @abstractmethod
    def refuse(self, work: Work, target: Target) -> str | None:
        """Why it will not do this work, or None."""

    def refuse_target(self, target: Target) -> str | None:
        """Why it does no work at all on this device, or None; `refuse` says it too."""
        return None

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        """The tiles worth trying, the default first."""
        return ({},)

    @abstractmethod
    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        """The kernel as TensorIR. TVM is imported inside."""

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        """What the kernel asks of the device in one call, phase by phase: here one step for each number it makes."""
        made = sum(type_.numel for type_ in work.results)
        moved = [float(sum(type_.nbytes for type_ in types)) for types in (work.operands, work.results)]
        return (Demand(steps=made, read_bytes=moved[0], written_bytes=moved[1], parallel=False),)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The weights as the kernel reads them, made once when the network is compiled."""
        return tuple(weights.values())

    def workspace(self, work: Work, choice: Choice) -> tuple[TensorType, ...]:
        """Scratch buffers the kernel needs, for the batch of `work`."""
        return ()
