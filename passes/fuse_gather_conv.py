"""Read only the listed rows inside the convolution, not before it.

    %g = gather(...)(%x, %r)
    %c = conv2d(rows, gathered, ...)(%g, %r)      ->      %c = conv2d(rows, ...)(%x, %r)

A gather with two readers stays: fusing would gather twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from laudc.ops.conv2d import Conv2d
from laudc.ops.gather import Gather
from laudc.passes.base import Pass
from laudc.program import Program, set_op


@dataclass(frozen=True, kw_only=True)
class FuseGatherConv(Pass):
    after = ("fuse_masker_conv",)
    optional = True

    def run(self, program: Program) -> Program:
        if not any(_reads_own_gather(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            if _reads_own_gather(clone, node):
                conv, gather = clone.op(node), node.all_input_nodes[0]
                assert isinstance(conv, Conv2d)
                fused = conv.replaced(gathered=False, map_size=(0, 0))
                set_op(clone, node, fused, (gather.all_input_nodes[0], *node.all_input_nodes[1:]))
        return clone.finished()


def _reads_own_gather(program: Program, node: fx.Node) -> bool:
    op = program.op(node)
    if not isinstance(op, Conv2d) or not op.spec.gathered:
        return False
    gather = node.all_input_nodes[0]
    return isinstance(program.op(gather), Gather) and len(gather.users) == 1


PASS = FuseGatherConv
