"""A compiled network as data: an ordered list of kernel calls over planned, static buffers.

There is one place where memory is planned, this one. A value is a view of a buffer; a result that is updated in
place, an element of several results and a flatten of one pixel share the buffer of what they come from. Buffers
whose values are dead are used again; those of the input, the output, the decisions and the logits are kept.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.kernels.kernel import Kernel
from laudc.ops._masker import Masker
from laudc.ops.base import Op
from laudc.program import Program, block_of, input_type, is_view, types_of
from laudc.types import TensorType

_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A typed view of the arena."""

    type: TensorType
    offset: int
    """Bytes from the arena's beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One kernel call. Its arguments: operands, packed weights, workspaces, results."""

    name: str
    block: str
    kernel: Kernel
    op: Op
    operands: tuple[Value, ...]
    workspaces: tuple[Value, ...]
    results: tuple[Value, ...]
    masker: str = ""
    """The name of the decisions it makes, where it makes some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Executable:
    """The calls in order, and where things lie."""

    steps: tuple[Step, ...]
    arena_bytes: int
    image: Value
    output: Value
    decided: dict[str, tuple[Value, Value]]
    """By masker: its decisions and its keep logits. They lie at the arena's beginning."""
    decided_bytes: int
    """Of the arena, until the last of them."""

    @property
    def batch(self) -> int:
        return self.image.type.shape[0]


def make_executable(program: Program) -> Executable:
    """Plan a program whose kernels are bound."""
    planner = _Planner(program)
    return planner.plan()


class _Planner:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._nodes = [node for node in program.nodes if types_of(node)]
        self._output = program.graph.graph.output_node()

    def plan(self) -> Executable:
        self._assign_roots()
        offsets, arena_bytes = self._pack()
        self._offsets = offsets
        steps = tuple(self._step(node) for node in self._nodes if "kernel" in node.meta)
        result = self._output.args[0]
        decided: dict[str, tuple[Value, Value]] = {}
        if isinstance(result, tuple):
            result, found = result
            for key, (mask, logits) in cast("dict[str, tuple[fx.Node, fx.Node]]", found).items():
                decided[key] = (self._value(mask), self._value(logits))
        image = Value(type=input_type(self._program), offset=offsets[(self._nodes[0].name, 0)])
        return Executable(
            steps=steps,
            arena_bytes=arena_bytes,
            image=image,
            output=self._value(cast(fx.Node, result)),
            decided=decided,
            decided_bytes=max((v.offset + v.type.nbytes for pair in decided.values() for v in pair), default=0),
        )

    # ---- which buffer a value lies in

    def _assign_roots(self) -> None:
        """For every result (node, index) the buffer it lies in, named by the result that began it."""
        self._root: dict[tuple[str, int], tuple[str, int]] = {}
        self._bytes: dict[tuple[str, int], int] = {}
        for node in self._nodes:
            for index, type_ in enumerate(types_of(node)):
                key, shared = (node.name, index), self._shared_with(node, index)
                if shared is not None:
                    self._root[key] = self._root[shared]
                else:
                    self._root[key] = key
                    self._bytes[key] = type_.nbytes
            for index, space in enumerate(self._workspace_types(node)):
                key = (node.name, -1 - index)
                self._root[key] = key
                self._bytes[key] = space.nbytes

    def _shared_with(self, node: fx.Node, index: int) -> tuple[str, int] | None:
        """The value whose buffer a result of this node is."""
        if node.target is operator.getitem:
            return cast(fx.Node, node.args[0]).name, cast(int, node.args[1])
        if is_view(self._program, node):
            return (node.all_input_nodes[0].name, 0)
        op = self._program.op(node)
        if op is not None:
            for name, updated in op.spec.in_place.items():
                if updated == index:
                    return cast(fx.Node, node.args[op.spec.operands.index(name)]).name, 0
        return None

    def _workspace_types(self, node: fx.Node) -> tuple[TensorType, ...]:
        kernel = cast("Kernel | None", node.meta.get("kernel"))
        return () if kernel is None else kernel.plan.workspace(kernel.work, kernel.choice)

    # ---- when a buffer lives, and where it lies

    def _lifetimes(self) -> dict[tuple[str, int], tuple[int, int]]:
        when = {node.name: index for index, node in enumerate(self._nodes)}
        end = len(self._nodes)
        kept = {node.name for node in self._output.all_input_nodes} | {self._nodes[0].name}
        lives: dict[tuple[str, int], tuple[int, int]] = {}
        for key, root in self._root.items():
            node = next(node for node in self._nodes if node.name == key[0]) if key[1] >= 0 else None
            uses = [when[key[0]]]
            if node is not None:
                uses += [when[user.name] for user in node.users if user.name in when]
                uses += [end] if key[0] in kept else []
            first, last = lives.get(root, (uses[0], uses[0]))
            lives[root] = (min(first, *uses), max(last, *uses))
        return lives

    def _pack(self) -> tuple[dict[tuple[str, int], int], int]:
        """An offset for every root: first those of the decisions, then first fit, the largest buffers first."""
        lives = self._lifetimes()
        placed: list[tuple[int, int, tuple[int, int]]] = []
        offsets: dict[tuple[str, int], int] = {}
        decided = [self._root[(node.name, 0)] for node in self._decided_nodes()]
        for root in decided:
            offsets[root] = max((offset + size for offset, size, _ in placed), default=0)
            placed.append((offsets[root], _aligned(self._bytes[root]), (0, len(self._nodes))))
        for root in sorted(self._bytes.keys() - set(decided), key=lambda root: (-self._bytes[root], root)):
            size, life = _aligned(self._bytes[root]), lives[root]
            taken = sorted((o, o + s) for o, s, other in placed if other[0] <= life[1] and life[0] <= other[1])
            offsets[root] = _first_gap(taken, size)
            placed.append((offsets[root], size, life))
        return offsets, max((offset + size for offset, size, _ in placed), default=0)

    def _decided_nodes(self) -> list[fx.Node]:
        """The decisions and keep logits among the outputs, in order."""
        result = self._output.args[0]
        if not isinstance(result, tuple):
            return []
        found = cast("dict[str, tuple[fx.Node, fx.Node]]", result[1])
        return list(dict.fromkeys(node for pair in found.values() for node in pair))

    # ---- the calls

    def _value(self, node: fx.Node, index: int = 0) -> Value:
        return Value(type=types_of(node)[index], offset=self._offsets[self._root[(node.name, index)]])

    def _step(self, node: fx.Node) -> Step:
        op, kernel = self._program.op(node), cast(Kernel, node.meta["kernel"])
        assert op is not None
        operands = [self._value(cast(fx.Node, value)) for value in self._operands(node, op)]
        spaces = enumerate(self._workspace_types(node))
        return Step(
            name=node.name,
            block=block_of(node),
            kernel=kernel,
            op=op,
            operands=tuple(operands),
            workspaces=tuple(Value(type=type_, offset=self._offsets[(node.name, -1 - i)]) for i, type_ in spaces),
            results=tuple(self._value(node, index) for index in range(len(types_of(node)))),
            masker=op.key if isinstance(op, Masker) else "",
        )

    @staticmethod
    def _operands(node: fx.Node, op: Op) -> Iterator[object]:
        """What is passed: an operand that is updated in place is the result itself."""
        for name, value in zip(op.spec.operands, node.args, strict=False):
            if name not in op.spec.in_place:
                yield value


def _aligned(size: int) -> int:
    return -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT


def _first_gap(taken: list[tuple[int, int]], size: int) -> int:
    offset = 0
    for begin, end in taken:
        if begin - offset >= size:
            return offset
        offset = max(offset, end)
    return offset
