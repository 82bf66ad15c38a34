"""A static residual: the convolution adds it in its epilogue.

    %c = conv2d(...)(%x)
    %z = add(activation=f)(%c, %i)      ->      %z = conv2d(..., residual=dense, activation=f)(%x, %i)

A convolution with a second reader, or one that already ends in an activation, keeps its add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.ops.add import Add
from laudc.ops.conv2d import Conv2d
from laudc.passes.base import Pass
from laudc.program import Program, set_op


@dataclass(frozen=True, kw_only=True)
class FuseConvAdd(Pass):
    after = ("fuse_scatter_add",)
    optional = True

    def run(self, program: Program) -> Program:
        if not any(_own_conv(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            found = _own_conv(clone, node)
            add = clone.op(node)
            if found is not None and isinstance(add, Add):
                conv_node, identity = found
                conv = cast(Conv2d, clone.op(conv_node))
                fused = conv.replaced(residual="dense", activation=add.spec.activation)
                set_op(clone, node, fused, (*conv_node.all_input_nodes, identity))
        return clone.finished()


def _own_conv(program: Program, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The convolution that only this add reads, and the add's other operand. The branch's, where both are."""
    if not isinstance(program.op(node), Add):
        return None
    first, second = cast(tuple[fx.Node, fx.Node], node.args)
    for conv, identity in ((first, second), (second, first)):
        op = program.op(conv)
        if conv is not identity and isinstance(op, Conv2d) and len(conv.users) == 1 and _is_plain(op):
            return conv, identity
    return None


def _is_plain(conv: Conv2d) -> bool:
    spec = conv.spec
    return not spec.rows and not spec.masker and spec.residual == "none" and spec.activation == "none"


PASS = FuseConvAdd
