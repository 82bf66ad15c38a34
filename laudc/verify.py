"""What is true of a program between any two passes; asserted after each, so a broken pass is caught by name."""

from __future__ import annotations

from torch import fx

from laudc.ops._geometry import grid_size
from laudc.ops.base import Spec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.mask_rows import MaskRowsSpec
from laudc.ops.scatter import ScatterSpec
from laudc.program import Program, type_of, types_of


def verify(program: Program) -> None:
    """AssertionError, with the node, where the program does not hold together."""
    program.graph.graph.lint()
    for node, op in program.ops():
        expected = len(op.spec.operands)
        operands = [argument for argument in node.args if isinstance(argument, fx.Node) and types_of(argument)]
        assert len(operands) == expected, f"%{node.name} reads {len(operands)} values, {op.spec} wants {expected}"
        made = op.spec.results(tuple(type_of(operand) for operand in operands))
        assert made == types_of(node), f"%{node.name} is typed {types_of(node)}, {op.spec} makes {made}"
        if isinstance(op.spec, MaskRowsSpec):
            x, mask = (type_of(operand).shape for operand in node.args[:2])
            grid = grid_size(op.spec.granularity, *x[2:])
            assert mask[1:] == grid, f"the decisions {list(mask)} of %{node.name} do not cover {list(x)}"
        for name, shape in op.spec.weights().items():
            found = tuple(getattr(op, name).shape)
            assert found == shape, f"%{node.name}.{name} is {found}, {op.spec} wants {shape}"
        if _leaves_rows_undefined(op.spec):
            _verify_rows(program, node)


def _leaves_rows_undefined(spec: Spec) -> bool:
    if isinstance(spec, Conv2dSpec):
        return spec.rows and not spec.compact and spec.residual == "none"
    return isinstance(spec, ScatterSpec) and not spec.zero


def _verify_rows(program: Program, node: fx.Node) -> None:
    """What is undefined outside the listed rows is only read by row."""
    maps = [node] if len(types_of(node)) == 1 else [value for value in node.users if value.args[1] == 0]
    for made in maps:
        for user in made.users:
            op = program.op(user)
            by_row = op is not None and (op.spec.name == "gather" or getattr(op.spec, "rows", False))
            by_row = by_row and user.args[0] is made
            assert by_row, f"%{user.name} reads rows of %{node.name} that nobody computed"
