"""Which decisions a list of rows stands for."""

from __future__ import annotations

import operator

from torch import fx

from laudc.ops.patch_rows import PatchRows
from laudc.ops.pixel_mask import PixelMask, PixelMaskSpec
from laudc.ops.row_list import RowList
from laudc.program import Program


def switched_on(program: Program, rows: fx.Node) -> tuple[fx.Node, PixelMaskSpec] | None:
    """The decisions whose own pixels a row list names, and which those are; None where others have a say."""
    source = rows.all_input_nodes[0] if rows.target is operator.getitem else rows
    made = program.op(source)
    if isinstance(made, PatchRows):
        own = source is rows or rows.args[1] == 0
        return (source.all_input_nodes[0], made.spec.pixels) if own else None
    if not isinstance(made, RowList):
        return None
    pixels = source.all_input_nodes[0]
    mask = program.op(pixels)
    if not isinstance(mask, PixelMask) or mask.spec.within:
        return None
    return pixels.all_input_nodes[0], mask.spec
