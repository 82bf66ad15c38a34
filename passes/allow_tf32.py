"""A float32 network that may multiply in tf32: its convolutions and linear layers say so.

    %c = conv2d(...)(%x)      ->      %c = conv2d(..., tf32)(%x)

Where no tensor-core kernel takes them, they run in float32 as before.
"""

from __future__ import annotations

from dataclasses import dataclass

from laudc.passes.base import Pass
from laudc.program import Program, set_op
from laudc.types import TF32

_TAKERS = ("conv2d", "linear")


@dataclass(frozen=True, kw_only=True)
class AllowTf32(Pass):
    after = ("fuse_prologue",)

    dtype: str = "float32"
    """What the network was asked to compute in."""

    def run(self, program: Program) -> Program:
        if self.dtype != TF32:
            return program
        clone, changed = program.clone(), False
        for node, op in list(clone.ops()):
            if op.spec.name in _TAKERS:
                set_op(clone, node, op.replaced(tf32=True), node.args)  # type: ignore[arg-type]  # values only
                changed = True
        return clone.finished() if changed else program


PASS = AllowTf32
