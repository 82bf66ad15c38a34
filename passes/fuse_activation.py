"""An activation ends the operation before it.

    %a = conv2d(...)(%x)
    %b = activation(function=relu)(%a)      ->      %b = conv2d(..., activation=relu)(%x)

A value that others read too keeps its own activation, and so does one that is updated in place.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from laudc.ops.activation import Activation
from laudc.ops.base import Op
from laudc.passes.base import Pass
from laudc.program import Program, set_op

_TAKERS = ("conv2d", "linear", "add")


@dataclass(frozen=True, kw_only=True)
class FuseActivation(Pass):
    after = ("fold_batchnorm",)

    def run(self, program: Program) -> Program:
        if not any(_taker(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            before = _taker(clone, node)
            activation = clone.op(node)
            if before is not None and isinstance(activation, Activation):
                producer = node.all_input_nodes[0]
                fused = before.replaced(activation=activation.spec.function)
                set_op(clone, node, fused, producer.args)  # type: ignore[arg-type]  # values only
        return clone.finished()


def _taker(program: Program, node: fx.Node) -> Op | None:
    """The operation before an activation that can take it over."""
    if not isinstance(program.op(node), Activation):
        return None
    producer = node.all_input_nodes[0]
    op = program.op(producer)
    if op is None or op.spec.name not in _TAKERS or len(producer.users) != 1:
        return None
    if getattr(op.spec, "residual", "none") == "in_place":
        return None  # it would reach the listed rows only
    return op if getattr(op.spec, "activation", "") == "none" else None


PASS = FuseActivation
