"""Write the listed rows where they belong, residual and activation included, not through a matrix.

    %c = conv2d(rows, compact, ...)(%x, %r)
    %s = scatter(%c, %r)                          ->      %z = conv2d(rows, residual=dense, activation=f)(%x, %r, %i)
    %z = add(activation=f)(%s, %i)

and, where the map is only read by row:

    %c = conv2d(rows, compact, ...)(%x, %r)
    %s = scatter(zero=False)(%c, %r)              ->      %s = conv2d(rows, ...)(%x, %r)

A matrix or a map with a second reader stays as it is, and so does one whose convolution has an activation of its
own before the add.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from laudc.ops.add import Add
from laudc.ops.conv2d import Conv2d
from laudc.ops.scatter import Scatter
from laudc.passes.base import Pass
from laudc.program import Program, set_op


@dataclass(frozen=True, kw_only=True)
class FuseScatterAdd(Pass):
    after = ("fuse_gather_conv",)
    optional = True

    def run(self, program: Program) -> Program:
        if not any(_matrix_writer(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            if _matrix_writer(clone, node):
                _fuse(clone, node)
        return clone.finished()


def _matrix_writer(program: Program, scatter: fx.Node) -> Conv2d | None:
    """The convolution whose matrix only this scatter reads, if the map's reader can take its place."""
    op = program.op(scatter)
    if not isinstance(op, Scatter) or len(scatter.users) != 1:
        return None
    matrix = scatter.all_input_nodes[0]
    conv = program.op(matrix)
    if not isinstance(conv, Conv2d) or len(matrix.users) != 1:
        return None
    reader = next(iter(scatter.users))
    is_sum = isinstance(program.op(reader), Add) and len(reader.all_input_nodes) == 2
    return conv if not op.spec.zero or (is_sum and conv.spec.activation == "none") else None


def _fuse(program: Program, scatter: fx.Node) -> None:
    conv, matrix = _matrix_writer(program, scatter), scatter.all_input_nodes[0]
    assert conv is not None
    reader = next(iter(scatter.users))
    add = program.op(reader)
    operands = tuple(matrix.all_input_nodes)
    if isinstance(add, Add):
        identity = next(value for value in reader.args if value is not scatter)
        assert isinstance(identity, fx.Node)
        fused = conv.replaced(compact=False, residual="dense", activation=add.spec.activation)
        set_op(program, reader, fused, (*operands, identity))
    else:
        set_op(program, scatter, conv.replaced(compact=False), operands)


PASS = FuseScatterAdd
