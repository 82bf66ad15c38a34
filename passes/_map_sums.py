"""The channel sums of a map, for a masker: kept by the convolution that writes it, or taken of the map, once.

A convolution adds to sums of nothing, those that a channel masker leaves or fresh ones; on samples to those that the
layer masker left of the map before.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import cast

from torch import fx

from laudc.ops.activation import Activation
from laudc.ops.channel_sums import ChannelSums, ChannelSumsSpec
from laudc.ops.conv2d import Conv2d
from laudc.ops.zero_sums import ZeroSums, ZeroSumsSpec
from laudc.program import Program, block_of, elements, insert_op, set_op, type_of
from laudc.targets import Target
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What a layer masker leaves of the sums of a map, by the node that writes the map."""

    of: fx.Node
    sums: fx.Node


@dataclass(frozen=True, kw_only=True, slots=True)
class MapSums:
    """Asked map by map, in the order of the program that it rewrites."""

    program: Program
    target: Target
    left: dict[fx.Node, Left] = field(default_factory=dict)
    """By layer masker."""
    zero: dict[TensorType, fx.Node] = field(default_factory=dict)
    """Sums of nothing that nobody adds to yet."""

    def of(self, x: fx.Node, reader: fx.Node) -> fx.Node:
        """The sums of a map for the masker that reads it."""
        kept = self._kept(x)
        if kept is not None:
            return kept
        with self.program.graph.graph.inserting_before(reader):
            taken = ChannelSums(ChannelSumsSpec())
            return insert_op(self.program, f"{x.name}_sums", taken, (x,), block=block_of(reader))

    def _kept(self, x: fx.Node) -> fx.Node | None:
        """Kept by the convolution that writes x, where it can."""
        from laudc.latency.search import has_kernel

        writer = self.program.op(x)
        if not isinstance(writer, Conv2d) or writer.spec.masker or not (self._left(x) or not writer.spec.rows):
            return None
        keeping, operands = writer.replaced(sums=True), cast("tuple[fx.Node, ...]", x.args)
        if not has_kernel(keeping.spec, (*map(type_of, operands), sums_type(x)), self.target):
            return None
        before, readers = self._left(x) or self._nothing(x), list(x.users)
        set_op(self.program, x, keeping, (*operands, before))
        whole, sums = elements(x, "map", "sums")
        for reader in readers:
            reader.replace_input_with(x, whole)
        return sums

    def _left(self, x: fx.Node) -> fx.Node | None:
        """What is left of the map that a convolution on samples updates."""
        conv = self.program.op(x)
        if not isinstance(conv, Conv2d) or not conv.spec.samples or conv.spec.residual != "in_place":
            return None
        found = self.left.get(cast(fx.Node, x.args[1]).all_input_nodes[0])
        return found.sums if found and found.of is written_by(self.program, cast(fx.Node, x.args[-1])) else None

    def _nothing(self, x: fx.Node) -> fx.Node:
        """Where a convolution begins that writes all of x."""
        type_ = sums_type(x)
        if type_ in self.zero and self.zero[type_] < x:
            return self.zero.pop(type_)
        with self.program.graph.graph.inserting_before(x):
            fresh = ZeroSums(ZeroSumsSpec(channels=type_.shape[1]))
            return insert_op(self.program, f"{x.name}_zero", fresh, (x.all_input_nodes[0],), block=block_of(x))


def written_by(program: Program, value: fx.Node) -> fx.Node:
    """The node that wrote what this value is, itself or a copy of it."""
    op = program.op(value)
    if value.target is operator.getitem or (isinstance(op, Activation) and op.spec.function == "none"):
        return written_by(program, value.all_input_nodes[0])
    return value


def sums_type(x: fx.Node) -> TensorType:
    """Of the channel sums of a map."""
    return TensorType(shape=type_of(x).shape[:2], dtype="int64")
