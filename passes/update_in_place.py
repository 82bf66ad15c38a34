"""Rows that are skipped cost nothing: the residual's own buffer becomes the result.

    %z = conv2d(rows, residual=dense, activation=f)(%x, %r, %i)      ->      residual=in_place

Legal as it stands only if (a) nobody reads %i later and %i is not the caller's tensor, so its buffer may be given
up, and (b) f leaves the skipped rows alone: f is idempotent and %i is known to be in its range. Otherwise:

    (a) fails     %k = copy(%i) first, then in place on %k
    (b) fails     in place without f, then f over the whole map
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.ops._pointwise import POINTWISE
from laudc.ops.activation import Activation, ActivationSpec
from laudc.ops.conv2d import Conv2d
from laudc.passes.base import Pass
from laudc.program import Program, block_of, insert_op, set_op


@dataclass(frozen=True, kw_only=True)
class UpdateInPlace(Pass):
    after = ("fuse_conv_add",)

    def run(self, program: Program) -> Program:
        if not any(_adds_to_rows(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            if _adds_to_rows(clone, node):
                _update(clone, node)
        return clone.finished()


def _adds_to_rows(program: Program, node: fx.Node) -> bool:
    op = program.op(node)
    return isinstance(op, Conv2d) and op.spec.rows and op.spec.residual == "dense"


def _update(program: Program, node: fx.Node) -> None:
    graph, conv = program.graph.graph, program.op(node)
    assert isinstance(conv, Conv2d)
    *operands, identity = cast(tuple[fx.Node, ...], node.args)
    function = conv.spec.activation
    if why_not_overwritten(program, identity, node) is not None:
        with graph.inserting_before(node):
            copy = Activation(ActivationSpec(function="none"))
            identity = insert_op(program, f"{identity.name}_copy", copy, (identity,), block=block_of(node))
    done = leaves_rows_alone(program, identity, function)
    kept = function if done else "none"
    set_op(program, node, conv.replaced(residual="in_place", activation=kept), (*operands, identity))
    if not done:
        with graph.inserting_after(node):
            step = Activation(ActivationSpec(function=function))
            whole = insert_op(program, f"{node.name}_{function}", step, (node,), block=block_of(node))
        node.replace_all_uses_with(whole, delete_user_cb=lambda user: user is not whole)


def why_not_overwritten(program: Program, value: fx.Node, by: fx.Node) -> str | None:
    """The reason why a value's buffer cannot be given up to the node that updates it."""
    if value.op == "placeholder":
        return "it is the caller's tensor"
    if value.op != "call_module":
        return "it is one of several results"
    if value in by.args[:-1]:
        return "the update itself reads it"
    for user in value.users:
        if user is not by and not user < by:
            return f"%{user.name} reads it later"
        op = program.op(user)
        if op is None or op.spec.name == "flatten":
            return f"%{user.name} may be a view of it"
    return None


def leaves_rows_alone(program: Program, value: fx.Node, function: str) -> bool:
    """Whether the function changes nothing of a value that is skipped."""
    return POINTWISE[function].idempotent and is_in_range(program, value, function)


def is_in_range(program: Program, value: fx.Node, function: str) -> bool:
    """Whether every element is known to be a value of the function, by dataflow."""
    if function == "none":
        return True
    op = program.op(value)
    if op is None:
        return False
    if op.spec.name == "max_pool":
        return is_in_range(program, value.all_input_nodes[0], function)
    if isinstance(op, Activation) and op.spec.function == "none":
        return is_in_range(program, value.all_input_nodes[0], function)
    if isinstance(op, Conv2d) and op.spec.residual == "in_place":
        same = op.spec.activation == function
        return same and is_in_range(program, value.all_input_nodes[-1], function)
    return getattr(op.spec, "activation", getattr(op.spec, "function", "none")) == function


PASS = UpdateInPlace
