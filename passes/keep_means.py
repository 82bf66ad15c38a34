"""The patch masker looks only where the block before has changed the map: of the other patches it knows the means.

    %m, %l = patch_masker(granularity=S)(%y)                %m, %l, %a = kept_masker(granularity=S, first)(%y)
    %r = patch_rows(granularity=S)(%m)                      %r = patch_rows(granularity=S)(%m)
    %z = conv2d(rows, residual=in_place)(%c, %r, %y)  ->    %z = conv2d(rows, residual=in_place)(%c, %r, %y)
    %n, %k = patch_masker(granularity=S)(%z)                %n, %k, %b = kept_masker(granularity=S)(%z, %m, %a)
    ...                                                     ...

Legal only if (a) the map is the very one that the masker before has read, updated in place by one convolution, (b) at
the rows that the decisions of that masker, and no others, switch on, and (c) both maskers look at the patches that
those decisions switch on: patch size times stride, grid and map agree. Where the target has a kernel for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.ops._geometry import patch_size
from laudc.ops.conv2d import Conv2d
from laudc.ops.kept_masker import KeptMasker, KeptMaskerSpec
from laudc.ops.patch_masker import PatchMasker, PatchMaskerSpec
from laudc.passes._map_sums import written_by
from laudc.passes._switched_on import switched_on
from laudc.passes.base import Pass
from laudc.program import Program, element, set_op, type_of
from laudc.targets import TARGETS, Target


@dataclass(frozen=True, kw_only=True)
class KeepMeans(Pass):
    after = ("fuse_row_lists",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        clone, left = program.clone(), dict[fx.Node, fx.Node]()
        for node in list(clone.nodes):
            touched = touched_since(clone, node)
            if touched is None or not has_kept_kernel(clone, node, self.target):
                continue
            before = touched.all_input_nodes[0]
            if isinstance(clone.op(before), PatchMasker):
                left[before] = _keep(clone, before)
            if before in left:
                left[node] = _keep(clone, node, touched, left.pop(before))
        return clone.finished() if left else program


def touched_since(program: Program, node: fx.Node) -> fx.Node | None:
    """The decisions of the masker before a patch masker, where they alone say which of its patches have changed."""
    if not isinstance(program.op(node), PatchMasker):
        return None
    writer = written_by(program, cast(fx.Node, node.args[0]))
    conv = program.op(writer)
    if not isinstance(conv, Conv2d) or not conv.spec.rows or conv.spec.residual != "in_place":
        return None
    named = dict(zip(conv.spec.operands, cast("tuple[fx.Node, ...]", writer.args), strict=True))
    return touched_by(program, node, rows=named["rows"], former=named["residual"])


def touched_by(program: Program, node: fx.Node, *, rows: fx.Node, former: fx.Node) -> fx.Node | None:
    """The same where the map that the masker reads is a former one, changed at those rows."""
    masker, switched = program.op(node), switched_on(program, rows)
    if switched is None:
        return None
    touched, pixels = switched
    before = touched.all_input_nodes[0]
    other = program.op(before)
    if not isinstance(masker, PatchMasker) or not isinstance(other, PatchMasker | KeptMasker):
        return None
    height, width = type_of(node.args[0]).shape[2:]
    patch = patch_size(pixels.granularity, height), patch_size(pixels.granularity, width)
    alike = masker.spec.patch(height, width) == other.spec.patch(height, width) == patch
    same_map = written_by(program, before.all_input_nodes[0]) is written_by(program, former)
    return touched if same_map and alike else None


def has_kept_kernel(program: Program, node: fx.Node, target: Target) -> bool:
    """Whether the target can keep the means of a patch masker."""
    from laudc.latency.search import has_kernel

    masker = program.op(node)
    assert isinstance(masker, PatchMasker)
    return has_kernel(kept(masker.spec, first=True), (type_of(node.args[0]),), target)


def kept(spec: PatchMaskerSpec, *, first: bool) -> KeptMaskerSpec:
    """What decides the same on means that are kept."""
    return KeptMaskerSpec(
        key=spec.key, granularity=spec.granularity, stride=spec.stride, channels=spec.channels, first=first
    )


def _keep(program: Program, node: fx.Node, *before: fx.Node) -> fx.Node:
    """Let the masker keep means: its own first ones, or those `before` that were touched so; its means."""
    masker, (x, masks) = program.op(node), node.args
    assert isinstance(masker, PatchMasker)
    assert isinstance(x, fx.Node)
    keeping = KeptMasker.with_weights_of(masker, kept(masker.spec, first=not before))
    set_op(program, node, keeping, (x, *before))
    node.args = (x, *before, masks)
    return element(node, 2, "means")


PASS = KeepMeans
