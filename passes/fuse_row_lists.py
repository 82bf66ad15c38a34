"""List the rows of a block straight from its decisions, with no maps of pixels in between.

    %p = pixel_mask(granularity=S)(%m)
    %r = row_list(%p)                         %f = patch_rows(granularity=S, kernel=..., ...)(%m)
    %q = needed_region(kernel=..., ...)(%p)   ->      %r, %n = %f
    %n = row_list(%q)

and where nothing needs more than the pixels themselves:

    %p = pixel_mask(granularity=S)(%m)
    %r = row_list(%p)                 ->      %r = patch_rows(granularity=S)(%m)

On a GPU, where this takes two launches in place of six; a CPU goes over a map faster than it asks for every pixel
twice. Maps that others read, and those on which several decisions have to agree, stay.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from laudc.ops.needed_region import NeededRegion
from laudc.ops.patch_rows import PatchRows, PatchRowsSpec
from laudc.ops.pixel_mask import PixelMask
from laudc.ops.row_list import RowList
from laudc.passes.base import Pass
from laudc.program import Program, block_of, elements, insert_op
from laudc.targets import TARGETS, Target


@dataclass(frozen=True, kw_only=True)
class FuseRowLists(Pass):
    after = ("keep_sums",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        if self.target.kind != "cuda" or not any(_lists_of(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            lists = _lists_of(clone, node)
            if lists is not None:
                _fuse(clone, node, lists)
        return clone.finished()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lists:
    """What is made of a pixel mask: its own list, and that of a region."""

    own: fx.Node
    region: fx.Node | None = None
    needed: fx.Node | None = None


def _lists_of(program: Program, node: fx.Node) -> _Lists | None:
    """The lists of a pixel mask that nothing else reads."""
    op = program.op(node)
    if not isinstance(op, PixelMask) or op.spec.within or not 1 <= len(node.users) <= 2:
        return None
    own = [user for user in node.users if isinstance(program.op(user), RowList)]
    others = [user for user in node.users if user not in own]
    if len(own) != 1:
        return None
    if not others:
        return _Lists(own=own[0])
    (region,) = others
    readers = list(region.users)
    if not isinstance(program.op(region), NeededRegion) or len(readers) != 1:
        return None
    return _Lists(own=own[0], region=region, needed=readers[0]) if isinstance(program.op(readers[0]), RowList) else None


def _fuse(program: Program, pixels: fx.Node, lists: _Lists) -> None:
    mask, decisions = program.op(pixels), pixels.all_input_nodes[0]
    assert isinstance(mask, PixelMask)
    spec = PatchRowsSpec(granularity=mask.spec.granularity, map_size=mask.spec.map_size)
    if lists.region is not None:
        region = program.op(lists.region)
        assert isinstance(region, NeededRegion)
        spec = spec.needing(region.spec)
    with program.graph.graph.inserting_before(pixels):
        made = insert_op(program, f"{decisions.name}_rows", PatchRows(spec), (decisions,), block=block_of(pixels))
    if lists.needed is None:
        lists.own.replace_all_uses_with(made)
        return
    for before, after in zip((lists.own, lists.needed), elements(made, "on", "needed"), strict=True):
        before.replace_all_uses_with(after)


PASS = FuseRowLists
