"""A layer's convolutions read the decision itself: which samples are on needs no list of rows.

    %p = pixel_mask(granularity=0)(%m)                 %z = conv2d(rows, samples, ...)(%x, %m, ...)
    %r = row_list(%p)                          ->
    %z = conv2d(rows, ...)(%x, %r, ...)

Where the target has a kernel for that; what reads a matrix of rows keeps its list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.ops._geometry import patch_size
from laudc.ops.conv2d import Conv2d
from laudc.passes._switched_on import switched_on
from laudc.passes.base import Pass
from laudc.program import Program, set_op, type_of
from laudc.targets import TARGETS, Target


@dataclass(frozen=True, kw_only=True)
class WholeSamples(Pass):
    after = ("update_in_place",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        from laudc.latency.search import has_kernel

        clone, changed = program.clone(), False
        for node in list(clone.nodes):
            mask = decision_on_whole(clone, node)
            conv = clone.op(node)
            if mask is None or not isinstance(conv, Conv2d):
                continue
            whole = conv.replaced(samples=True)
            x, _, *others = (value for value in node.args if isinstance(value, fx.Node))
            if has_kernel(whole.spec, tuple(map(type_of, (x, mask, *others))), self.target):
                set_op(clone, node, whole, (x, mask, *others))
                changed = True
        return clone.finished() if changed else program


def decision_on_whole(program: Program, node: fx.Node) -> fx.Node | None:
    """The mask behind the row list of a convolution, where one decision is on all of its rows."""
    conv = program.op(node)
    if not isinstance(conv, Conv2d) or not conv.spec.rows or conv.spec.gathered or conv.spec.compact:
        return None
    decided = switched_on(program, cast(fx.Node, node.args[1]))
    if decided is None:
        return None
    mask, pixels = decided
    whole = all(patch_size(pixels.granularity, extent) == extent for extent in pixels.map_size)
    return mask if whole else None


PASS = WholeSamples
