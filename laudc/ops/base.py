"""A leaf of the graph: a frozen spec, its weights, and a plain torch reference of what it computes.

    y = op(x, rows, ...)          operands by position, in the order of `spec.operands`

The spec alone says which operands come, which types go out and how much arithmetic is done, so the passes, the
schedules, the latency model and the printer read the same record. A torch module or call becomes an op through
`from_torch` (see `laudc.capture`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import nn

from laudc.errors import ArtifactError
from laudc.types import TensorType

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
Operands = tuple[TensorType, ...]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What one operation is. Every field is a number, a string, a flag, or a tuple of numbers."""

    name: ClassVar[str]
    """The operation's name: the stem of its file."""

    @property
    def operands(self) -> tuple[str, ...]:
        """The names of the values it reads, in order."""
        return ("x",)

    @property
    def in_place(self) -> Mapping[str, int]:
        """The operands whose own buffer becomes a result, and which."""
        return {}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        """The types it makes; one, unless the operation says otherwise."""
        raise NotImplementedError(type(self).__name__)

    def macs(self, operands: Operands) -> int:
        """Multiply-accumulates when nothing is skipped, whole batch."""
        return 0

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of its parameters."""
        return {}

    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of its tensors that no gradient reaches."""
        return {}

    def to_json(self) -> dict[str, Json]:
        """The fields that differ from their defaults."""
        changed = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                changed[field.name] = list(value) if isinstance(value, tuple) else value
        return changed

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> Self:
        """The inverse of `to_json`; a field that is unknown or missing is an ArtifactError."""
        clean = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            return cls(**cast(dict[str, Any], clean))
        except (TypeError, ValueError) as error:
            raise ArtifactError(
                f"a {cls.name} does not hold: {error}", "make the artifact again with this laudc"
            ) from error

    def __str__(self) -> str:
        fields = (f"{key}={_short(value)}" for key, value in self.to_json().items())
        return f"{self.name}({', '.join(fields)})"


def _short(value: Json) -> str:
    if isinstance(value, list):
        same = len(set(map(str, value))) == 1
        return f"{value[0]}" if same else "-".join(map(str, value))
    return str(value)


class Op(nn.Module):
    """An operation in a graph: its spec, its weights, its reference."""

    spec_type: ClassVar[type[Spec]]
    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    @classmethod
    def empty(cls, spec: Spec) -> Op:
        """The operation with weights allocated but not set, for loading."""
        op = cls(spec)
        for name, shape in spec.weights().items():
            op.register_parameter(name, nn.Parameter(torch.empty(shape)))
        for name, shape in spec.buffers().items():
            op.register_buffer(name, torch.empty(shape))
        return op

    @classmethod
    def with_weights_of(cls, other: Op, spec: Spec) -> Self:
        """An operation of that spec with another one's weights, which are shared, not copied, and in its mode."""
        op = cls(spec)
        for name, parameter in other.named_parameters(recurse=False):
            op.register_parameter(name, parameter)
        for name, buffer in other.named_buffers(recurse=False):
            op.register_buffer(name, buffer)
        op.train(other.training)
        return op

    def replaced(self, **changes: Any) -> Self:
        """The same weights under a changed spec (the weights are shared, not copied)."""
        return type(self).with_weights_of(self, dataclasses.replace(self.spec, **changes))

    def extra_repr(self) -> str:
        return str(self.spec)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A torch module or function at the moment it is read: what an importer sees."""

    module: nn.Module | None
    """The module that is called, or None for a function or a tensor method."""
    tensors: tuple[str, ...]
    """The names of the tensor operands, in order."""
    types: Operands
    """The types of those operands."""
    arguments: Mapping[str, object]
    """Every other argument, by its name in torch (tensor operands too, as None)."""
    result: TensorType | None
    """The type of what it returns, where that is one tensor."""


Importer = Callable[[Call], Op | None]
"""Makes the op for a call; None means: not mine, leave it as a torch operation."""

Imports = Mapping[object, Importer]
"""Importers by torch module type or torch function."""
