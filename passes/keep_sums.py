"""The layer masker reads sums, not the map: who writes the map keeps its channel sums up to date.

    %y = conv2d(...)(..., %i)                        %s = zero_sums(%i)
    %m, %l = patch_masker(%y)                        %y, %t = conv2d(sums, ...)(..., %i, %s)
    ...                                      ->      %m, %l, %u = sums_masker(%t)
    %z = conv2d(samples, in_place)(%a, %m, %y)       %z, %v = conv2d(samples, in_place, sums)(%a, %m, %y, %u)
    %n, %k = patch_masker(%z)                        %n, %k, %w = sums_masker(%v)

What is skipped has the sums it had. Where no convolution that keeps sums wrote the map, they are taken from it
(`channel_sums`), once.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.ops.activation import Activation
from laudc.ops.channel_sums import ChannelSums, ChannelSumsSpec
from laudc.ops.conv2d import Conv2d
from laudc.ops.patch_masker import PatchMasker
from laudc.ops.sums_masker import SumsMasker, SumsMaskerSpec
from laudc.ops.zero_sums import ZeroSums, ZeroSumsSpec
from laudc.passes.base import Pass
from laudc.program import Program, block_of, elements, insert_op, set_op, type_of, types_of
from laudc.targets import TARGETS, Target
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class KeepSums(Pass):
    after = ("whole_samples",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        clone, left = program.clone(), dict[fx.Node, _Left]()
        for node in list(clone.nodes):
            if can_read_sums(clone, node, self.target):
                x = cast(fx.Node, node.args[0])
                sums = _sums_of(clone, x, node, left, self.target)
                left[node] = _Left(of=written_by(clone, x), sums=_decide_on(clone, node, sums))
        return clone.finished() if left else program


@dataclass(frozen=True, kw_only=True, slots=True)
class _Left:
    """What a masker leaves of the sums of a map, by the node that writes the map."""

    of: fx.Node
    sums: fx.Node


def can_read_sums(program: Program, node: fx.Node, target: Target) -> bool:
    """Whether this is a masker with one decision on a whole map, of a kind whose sums the target has kernels for."""
    from laudc.latency.search import has_kernel

    if not isinstance(program.op(node), PatchMasker) or types_of(node)[0].shape[1:] != (1, 1):
        return False
    return has_kernel(ChannelSumsSpec(), (type_of(node.args[0]),), target)


def written_by(program: Program, value: fx.Node) -> fx.Node:
    """The node that wrote what this value is, itself or a copy of it."""
    op = program.op(value)
    if value.target is operator.getitem or (isinstance(op, Activation) and op.spec.function == "none"):
        return written_by(program, value.all_input_nodes[0])
    return value


def _sums_of(program: Program, x: fx.Node, masker: fx.Node, left: Mapping[fx.Node, _Left], target: Target) -> fx.Node:
    """The sums of a map: from the convolution that writes it, or taken."""
    from laudc.latency.search import has_kernel

    graph = program.graph.graph
    writer, before = program.op(x), _sums_before(program, x, left)
    if isinstance(writer, Conv2d) and before is not None:
        keeping = writer.replaced(sums=True)
        operands = (*(type_of(value) for value in x.args), _type_of_sums(x))
        if has_kernel(keeping.spec, operands, target):
            if before is x:
                with graph.inserting_before(x):
                    zero = ZeroSums(ZeroSumsSpec(channels=writer.spec.out_channels))
                    before = insert_op(program, f"{x.name}_zero", zero, (x.all_input_nodes[0],), block=block_of(x))
            readers = list(x.users)
            set_op(program, x, keeping, (*cast("tuple[fx.Node, ...]", x.args), before))
            whole, sums = elements(x, "map", "sums")
            for reader in readers:
                reader.replace_input_with(x, whole)
            return sums
    with graph.inserting_before(masker):
        return insert_op(program, f"{x.name}_sums", ChannelSums(ChannelSumsSpec()), (x,), block=block_of(masker))


def _sums_before(program: Program, x: fx.Node, left: Mapping[fx.Node, _Left]) -> fx.Node | None:
    """The sums that the convolution which writes x can add to; x itself where it begins at nothing, for it writes all
    of the map. None where there are none."""
    conv = program.op(x)
    if not isinstance(conv, Conv2d) or conv.spec.masker:
        return None
    if not conv.spec.rows:
        return x
    if conv.spec.residual != "in_place" or not conv.spec.samples:
        return None
    found = left.get(cast(fx.Node, x.args[1]).all_input_nodes[0])
    return found.sums if found and found.of is written_by(program, cast(fx.Node, x.args[-1])) else None


def _type_of_sums(x: fx.Node) -> TensorType:
    return TensorType(shape=type_of(x).shape[:2], dtype="int64")


def _decide_on(program: Program, node: fx.Node, sums: fx.Node) -> fx.Node:
    """Let the masker decide on sums; what it leaves of them."""
    masker, (x, masks) = program.op(node), node.args
    assert isinstance(masker, PatchMasker)
    positions = type_of(x).shape[2] * type_of(x).shape[3]
    deciding = SumsMasker(SumsMaskerSpec(key=masker.key, channels=masker.spec.channels, positions=positions))
    for name in ("weight", "bias"):
        deciding.register_parameter(name, getattr(masker, name))
    set_op(program, node, deciding, (sums,))
    node.args = (sums, masks)
    with program.graph.graph.inserting_after(node):
        rest = program.graph.graph.create_node("call_function", operator.getitem, (node, 2), name=f"{node.name}_left")
    rest.meta = {**node.meta, "types": types_of(node)[2:]}
    return rest


PASS = KeepSums
