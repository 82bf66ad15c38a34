"""A layer's convolutions read the decision itself: which samples are on needs no list of rows.

    %p = pixel_mask(granularity=0)(%m)                 %z = conv2d(rows, samples, ...)(%x, %m, ...)
    %r = row_list(%p)                          ->
    %z = conv2d(rows, ...)(%x, %r, ...)

Where the target has a kernel for that; what reads a matrix of rows keeps its list.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from laudc.errors import BuildError
from laudc.ops._geometry import patch_size
from laudc.ops.base import Op
from laudc.ops.conv2d import Conv2d
from laudc.ops.pixel_mask import PixelMask
from laudc.ops.row_list import RowList
from laudc.passes.base import Pass
from laudc.program import Program, set_op, type_of
from laudc.schedules import Work
from laudc.targets import TARGETS, Target
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class WholeSamples(Pass):
    after = ("update_in_place",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        clone, changed = program.clone(), False
        for node in list(clone.nodes):
            mask = decision_on_whole(clone, node)
            conv = clone.op(node)
            if mask is None or not isinstance(conv, Conv2d):
                continue
            whole = conv.replaced(samples=True)
            x, _, *others = (value for value in node.args if isinstance(value, fx.Node))
            if has_kernel(whole, tuple(map(type_of, (x, mask, *others))), self.target):
                set_op(clone, node, whole, (x, mask, *others))
                changed = True
        return clone.finished() if changed else program


def decision_on_whole(program: Program, node: fx.Node) -> fx.Node | None:
    """The mask behind the row list of a convolution, where one decision is on all of its rows."""
    conv = program.op(node)
    if not isinstance(conv, Conv2d) or not conv.spec.rows or conv.spec.gathered or conv.spec.compact:
        return None
    rows = node.args[1]
    pixels = rows.all_input_nodes[0] if isinstance(rows, fx.Node) and isinstance(program.op(rows), RowList) else None
    mask = program.op(pixels)
    if pixels is None or not isinstance(mask, PixelMask) or mask.spec.within:
        return None
    whole = all(patch_size(mask.spec.granularity, extent) == extent for extent in mask.spec.map_size)
    return pixels.all_input_nodes[0] if whole else None


def has_kernel(op: Op, operands: tuple[TensorType, ...], target: Target) -> bool:
    """Whether a schedule takes an operation on operands of these types."""
    from laudc.kernels.kernel import choose

    work = Work(spec=op.spec, operands=operands, results=op.spec.results(operands))
    try:
        choose(work, target, batch=operands[0].shape[0])
    except BuildError:
        return False
    return True


PASS = WholeSamples
