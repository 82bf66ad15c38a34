"""The network while it is being worked on: an fx graph whose leaves are ops, typed, printable, runnable on a CPU.

    %layer1_0_conv1 = conv2d(in_channels=64, ...)(%maxpool) : float32[1, 64, 56, 56]

A Program is never changed: a pass takes a clone (which shares the weights), edits that, and hands it on. Nodes that
laudc has no operation for stay as torch wrote them; they run, but they do not compile.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor, fx, nn

from laudc.errors import CaptureError, InputError
from laudc.ops.base import Op
from laudc.types import TensorType

Decided = dict[str, tuple[Tensor, Tensor]]
"""By masker: decisions and keep logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A residual region with one entry and one exit, by the names of its nodes."""

    name: str
    pattern: str
    stage: int
    """Counted from 0; a new one begins where the map's size or width changes."""
    entry: str
    """The value that both paths read."""
    branch: tuple[str, ...]
    """The path that can be skipped, in order, up to the add."""
    shortcut: tuple[str, ...]
    """The nodes of the projection; none for an identity."""
    add: str
    exit: str
    """The add, or the activation after it."""
    inner: tuple[str, ...]
    """The values of the branch whose channels may be masked."""
    width: int
    """Channels of those values."""
    group_width: int
    """Channels of one group of the widest-grouped inner convolution; 1 where none is grouped."""
    stride: int
    out_size: tuple[int, int]
    out_channels: int

    @property
    def nodes(self) -> tuple[str, ...]:
        exits = (self.add,) if self.exit == self.add else (self.add, self.exit)
        return (*self.branch, *self.shortcut, *exits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A residual region, or a part of one, that is left as it is, and why."""

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """A typed graph with what was found in it."""

    graph: fx.GraphModule
    blocks: tuple[Block, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    """Where it came from: the model's name, its weights, ..."""

    def __call__(self, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Decided]:
        """The reference: what the network computes, and the decisions it took."""
        out = self.graph(x, masks) if self.takes_masks else self.graph(x)
        return cast(tuple[Tensor, Decided], out) if isinstance(out, tuple) else (cast(Tensor, out), {})

    @property
    def takes_masks(self) -> bool:
        """Whether maskers were inserted."""
        return any(node.op == "placeholder" and node.target == "masks" for node in self.graph.graph.nodes)

    def clone(self) -> Program:
        """A copy whose graph may be edited; ops and weights are shared."""
        graph = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(self.graph.graph, copied)
        graph.output(result)
        return replace(self, graph=_module(self.graph, graph))

    def finished(self) -> Program:
        """After editing: dead nodes and ops removed, the graph checked and ready to run."""
        self.graph.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self.graph.graph.lint()
        return replace(self, graph=_module(self.graph, self.graph.graph))

    @property
    def nodes(self) -> Iterator[fx.Node]:
        return iter(self.graph.graph.nodes)

    def node(self, name: str) -> fx.Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def op(self, node: object) -> Op | None:
        """The op a node calls; None for anything else."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        module = self.graph.get_submodule(cast(str, node.target))
        return module if isinstance(module, Op) else None

    def ops(self) -> Iterator[tuple[fx.Node, Op]]:
        """The nodes that call an op, in order."""
        for node in self.nodes:
            op = self.op(node)
            if op is not None:
                yield node, op

    def text(self) -> str:
        """The stable form that golden files hold."""
        return "\n".join(self._line(node) for node in self.nodes) + "\n"

    @property
    def digest(self) -> str:
        """sha256 of the text form."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def _line(self, node: fx.Node) -> str:
        operands = ", ".join(_show(argument) for argument in node.args)
        op = self.op(node)
        if node.op == "output":
            return f"return {operands}"
        if node.op == "placeholder":
            what = "input"
        elif op is not None:
            what = f"{op.spec}({operands})"
        elif node.op == "call_module":
            what = f"torch {type(self.graph.get_submodule(cast(str, node.target))).__name__}({operands})"
        else:
            target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
            what = f"{target}({operands})"
        made = " x ".join(map(str, types_of(node)))
        return f"%{node.name} = {what}" + (f" : {made}" if made else "")


def types_of(node: fx.Node) -> tuple[TensorType, ...]:
    """The types a node makes; none where it makes no tensor."""
    return cast(tuple[TensorType, ...], node.meta.get("types", ()))


def type_of(node: object) -> TensorType:
    """The one type a node makes (an element, where the node is an element of several)."""
    assert isinstance(node, fx.Node), node
    (found,) = types_of(node)
    return found


def block_of(node: fx.Node) -> str:
    """The block a node belongs to, or ''."""
    return cast(str, node.meta.get("block", ""))


def elements(node: fx.Node, *names: str) -> tuple[fx.Node, ...]:
    """The results of a node that has several, each a value of its own right behind it."""
    made: list[fx.Node] = []
    for index, name in enumerate(names):
        made.append(element(node, index, name, behind=made[-1] if made else node))
    return tuple(made)


def element(node: fx.Node, index: int, name: str, *, behind: fx.Node | None = None) -> fx.Node:
    """One result of a node that has several as a value of its own, right behind the node or another one."""
    with node.graph.inserting_after(behind or node):
        made = node.graph.create_node("call_function", operator.getitem, (node, index), name=f"{node.name}_{name}")
    made.meta = {**node.meta, "types": types_of(node)[index : index + 1]}
    return made


def insert_op(program: Program, name: str, op: Op, operands: tuple[fx.Node, ...], *, block: str = "") -> fx.Node:
    """A call of a new op at the graph's insertion point, typed."""
    graph = program.graph.graph
    target = name
    while target in dict(program.graph.named_modules()):
        target += "_"
    op.train(program.graph.training)
    program.graph.add_submodule(target, op)
    node = graph.call_module(target, operands)
    node.meta["block"] = block
    retype(node, op)
    return node


def retype(node: fx.Node, op: Op) -> None:
    """Set the node's types, and its elements', from its spec and the types of what it reads."""
    operands = node.args[: len(op.spec.operands)]
    made = op.spec.results(tuple(type_of(operand) for operand in operands))
    node.meta["types"] = made
    for user in node.users:
        if user.target is operator.getitem:
            user.meta["types"] = (made[cast(int, user.args[1])],)


def set_op(program: Program, node: fx.Node, op: Op, operands: tuple[fx.Node, ...]) -> None:
    """Let a node call another op on other values, under its own name and in the mode of the one before."""
    before = program.op(node)
    op.train(program.graph.training if before is None else before.training)
    target = cast(str, node.target)
    shared = sum(1 for other in program.nodes if other.target == target) > 1
    if shared:
        target = f"{target}_{node.name}"
    program.graph.add_submodule(target, op)
    node.target, node.args = target, operands
    retype(node, op)


def _show(argument: object) -> str:
    if isinstance(argument, fx.Node):
        return f"%{argument.name}"
    if isinstance(argument, dict):
        return "{" + ", ".join(f"{key}: {_show(value)}" for key, value in argument.items()) + "}"
    if isinstance(argument, tuple | list):
        return "(" + ", ".join(map(_show, argument)) + ")"
    return repr(argument)


def _module(root: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """A GraphModule with just the submodules that the graph calls (the objects are shared)."""
    attributes: dict[str, object] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            attributes[node.target] = root.get_submodule(node.target)
        elif node.op == "get_attr":
            attributes[node.target] = _attribute(root, node.target)
    made = fx.GraphModule(attributes, graph)
    made.training = root.training
    return made


def _attribute(root: nn.Module, path: str) -> object:
    *parents, leaf = path.split(".")
    return getattr(root.get_submodule(".".join(parents)), leaf)


def input_type(program: Program) -> TensorType:
    """The type of the image batch."""
    first = next(node for node in program.nodes if node.op == "placeholder")
    return type_of(first)


def program_for(program: Program, shape: tuple[int, ...], *, dtype: str = "float32") -> Program:
    """The same network for another input (B, C, H, W) or data type, every value typed anew. InputError if it does
    not fit, CaptureError if a torch operation stands in the way."""
    clone = program.clone()
    for node in clone.nodes:
        op = clone.op(node)
        if node.op == "placeholder" and types_of(node):
            channels = type_of(node).shape[1]
            if len(shape) != 4 or shape[1] != channels or min(shape) < 1:
                raise InputError(f"an input of {list(shape)} does not fit", f"the network reads (B, {channels}, H, W)")
            node.meta["types"] = (TensorType(shape=shape, dtype=dtype),)
        elif op is not None:
            retype(node, op)
        elif node.target is operator.getitem:
            source, index = cast(tuple[fx.Node, int], node.args)
            node.meta["types"] = types_of(source)[index : index + 1]
        elif node.op not in ("placeholder", "output"):
            raise CaptureError(
                f"%{node.name} is {getattr(node.target, '__name__', node.target)}, which laudc has no operation for",
                "capture the model again with an example of that shape",
            )
    return replace(clone, blocks=tuple(_resized(clone, block) for block in clone.blocks))


def _resized(program: Program, block: Block) -> Block:
    """The block at the map size it now has; as it was where its add is gone. InputError where an output pixel no
    longer stands for `stride` x `stride` pixels of the entry."""
    nodes = {node.name: node for node in program.nodes}
    if block.add not in nodes:
        return block
    height, width = type_of(nodes[block.add]).shape[2:]
    before = type_of(nodes[block.entry]).shape[2:]
    if (height, width) != tuple(-(-extent // block.stride) for extent in before):
        raise InputError(
            f"{block.name} makes {height}x{width} of {before[0]}x{before[1]} at stride {block.stride}: decisions would "
            "not line up at this size",
            "choose another size, such as the one it was converted with",
        )
    return replace(block, out_size=(height, width))


def in_evaluation(program: Program, *, copy_weights: bool = False) -> Program:
    """The same network in evaluation mode. Its ops are new, so the modes of the given one stay as they are; the
    weights are shared, or copied as they are now."""
    clone = program.clone()
    made: dict[Op, Op] = {}
    for node, op in list(clone.ops()):
        if op not in made:
            made[op] = _copied(op.replaced()) if copy_weights else op.replaced()
        clone.graph.add_submodule(cast(str, node.target), made[op].eval())
    clone.graph.training = False
    return clone


def _copied(op: Op) -> Op:
    for name, parameter in list(op.named_parameters(recurse=False)):
        op.register_parameter(name, nn.Parameter(parameter.detach().clone()))
    for name, buffer in list(op.named_buffers(recurse=False)):
        op.register_buffer(name, buffer.clone())
    return op


def is_view(program: Program, node: fx.Node) -> bool:
    """Whether a node is a flatten of a map of one pixel: the same bytes."""
    op = program.op(node)
    return op is not None and op.spec.name == "flatten" and type_of(node.all_input_nodes[0]).shape[2:] == (1, 1)
