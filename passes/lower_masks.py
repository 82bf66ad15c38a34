"""From multiplied masks to skipped work: lists of what is on, and convolutions that compute just that.

Rows (spatial, layer): walk back from the mask through the branch's convolutions; each computes only the pixels that
the next one needs.

    %y = conv2d(...)(%x)                   %p = pixel_mask(%m)     %r = row_list(%p)
    %z = mask_rows(%y, %m)        ->       %g = gather(%x, %r)     %y = conv2d(gathered, compact)(%g, %r)
                                           %z = scatter(%y, %r)
                                           and for the convolution before it: %q = needed_region(%p), ...

Channels: the convolutions on both sides of a masked value read a channel list, and the value is kept compact.

    %a = conv2d(...)(%x)                   %l = channel_list(%m)
    %b = mask_channels(%a, %m)    ->       %a = conv2d(channels_out=G)(%x, %l)
    %c = conv2d(...)(%b)                   %c = conv2d(channels_in=G)(%a, %l)

What cannot be lowered stays dense and masked, which is right but saves nothing, and is listed as refused.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import fx

from laudc.channel_lists import mask_group, refuse_channel_lists
from laudc.ops._geometry import patch_size
from laudc.ops.channel_list import ChannelList, ChannelListSpec
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.gather import Gather, GatherSpec
from laudc.ops.mask_channels import MaskChannels
from laudc.ops.mask_rows import MaskRows
from laudc.ops.needed_region import NeededRegion, NeededRegionSpec
from laudc.ops.pixel_mask import PixelMask, PixelMaskSpec
from laudc.ops.row_list import RowList, RowListSpec
from laudc.ops.scatter import Scatter, ScatterSpec
from laudc.passes.base import Pass, refused
from laudc.program import Program, Refusal, block_of, insert_op, set_op, type_of


@dataclass(frozen=True, kw_only=True)
class LowerMasks(Pass):
    after = ("fuse_prologue",)

    def run(self, program: Program) -> Program:
        if not any(isinstance(op, MaskRows | MaskChannels) for _, op in program.ops()):
            return program
        clone = program.clone()
        refusals = [*_lower_channels(clone), *_lower_rows(clone)]
        return refused(clone.finished(), *refusals)


# ---- channels


def _lower_channels(program: Program) -> list[Refusal]:
    by_mask: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node, op in program.ops():
        if isinstance(op, MaskChannels):
            by_mask[node.all_input_nodes[1]].append(node)
    refusals = []
    for mask, masked in by_mask.items():
        reason = _list_channels(program, mask, masked)
        if reason is not None:
            refusals.append(Refusal(where=block_of(mask), reason=f"its channel masks run dense: {reason}"))
    return refusals


def _list_channels(program: Program, mask: fx.Node, masked: list[fx.Node]) -> str | None:
    """Lower every use of one mask, or none of them and say why."""
    writers = [value.all_input_nodes[0] for value in masked]
    readers = [next(iter(value.users)) for value in masked]
    reason = refuse_channel_lists(program, masked, writers)
    if reason is not None:
        return reason
    group, touched = mask_group(program, masked[0]), dict.fromkeys([*writers, *readers])
    graph = program.graph.graph
    with graph.inserting_before(min(touched)):
        channels = insert_op(
            program, f"{mask.name}_list", ChannelList(ChannelListSpec()), (mask,), block=block_of(mask)
        )
    for value, writer in zip(masked, writers, strict=True):
        value.replace_all_uses_with(writer)
        graph.erase_node(value)  # or its writer would seem to have another reader
    for node in touched:
        conv = program.op(node)
        assert isinstance(conv, Conv2d)
        sides = {"channels_out": group if node in writers else 0, "channels_in": group if node in readers else 0}
        set_op(program, node, conv.replaced(**sides), (node.all_input_nodes[0], channels))
    return None


# ---- rows


def _lower_rows(program: Program) -> list[Refusal]:
    refusals = []
    for node, op in list(program.ops()):
        followed = any(isinstance(program.op(user), MaskRows) for user in node.users)
        if isinstance(op, MaskRows) and not followed:
            reason = _list_rows(program, node)
            if reason is not None:
                refusals.append(Refusal(where=block_of(node), reason=f"its row masks run dense: {reason}"))
    return refusals


def _list_rows(program: Program, masked: fx.Node) -> str | None:
    """Lower the chain of convolutions that ends in this mask, or say why not."""
    masks, value = [], masked
    while isinstance(program.op(value), MaskRows):
        masks.append(value)
        value = value.all_input_nodes[0]
    chain = _chain(program, value)
    if not chain:
        return f"%{value.name} is no convolution of its own"
    pixels = _pixels(program, masks, chain[-1])
    rows: fx.Node | None = None
    for node in chain:
        conv = program.op(node)
        assert isinstance(conv, Conv2d)
        rows = rows or _insert_rows(program, pixels, chain[-1])
        source = node.all_input_nodes[0]
        scattered = _list_one(program, node, conv, rows, last=node is value)
        if node is value:
            masked.replace_all_uses_with(scattered)
        needed = pixels if _is_pointwise(conv.spec) else _needed(program, pixels, conv.spec, source, chain[-1])
        if needed is not pixels:
            pixels, rows = needed, None
    return None


def _chain(program: Program, value: fx.Node) -> list[fx.Node]:
    """The convolutions that only this mask sees, last first."""
    chain: list[fx.Node] = []
    while isinstance(program.op(value), Conv2d) and len(value.users) == 1:
        if chain and block_of(value) != block_of(chain[0]):
            break
        chain.append(value)
        value = value.all_input_nodes[0]
    return chain


def _pixels(program: Program, masks: list[fx.Node], first: fx.Node) -> fx.Node:
    """The pixels that all of the masks switch on."""
    pixels: tuple[fx.Node, ...] = ()
    for masked in masks:
        op, mask = program.op(masked), masked.all_input_nodes[1]
        assert isinstance(op, MaskRows)
        height, width = type_of(masked).shape[2:]
        spec = PixelMaskSpec(granularity=op.spec.granularity, map_size=(height, width), within=bool(pixels))
        with program.graph.graph.inserting_before(first):
            pixels = (
                insert_op(program, f"{mask.name}_pixels", PixelMask(spec), (mask, *pixels), block=block_of(mask)),
            )
    return pixels[0]


def _insert_rows(program: Program, pixels: fx.Node, first: fx.Node) -> fx.Node:
    with program.graph.graph.inserting_before(first):
        return insert_op(program, f"{pixels.name}_rows", RowList(RowListSpec()), (pixels,), block=block_of(pixels))


def _is_pointwise(spec: Conv2dSpec) -> bool:
    return spec.kernel == (1, 1) and spec.stride == (1, 1) and not any(spec.padding)


def _needed(program: Program, pixels: fx.Node, spec: Conv2dSpec, source: fx.Node, first: fx.Node) -> fx.Node:
    """The pixels that the convolution reads for those: of a sample that is on as a whole, all."""
    height, width = type_of(source).shape[2:]
    region = NeededRegion(
        NeededRegionSpec(
            map_size=(height, width),
            kernel=spec.kernel,
            stride=spec.stride,
            padding=spec.padding,
            dilation=spec.dilation,
        )
    )
    whole = _whole_map(program, pixels, region)
    if whole is not None and whole.map_size == type_of(pixels).shape[1:]:
        return pixels
    op, operand = (region, pixels) if whole is None else (PixelMask(whole), pixels.all_input_nodes[0])
    with program.graph.graph.inserting_before(first):
        return insert_op(program, f"{pixels.name}_needed", op, (operand,), block=block_of(pixels))


def _whole_map(program: Program, pixels: fx.Node, region: NeededRegion) -> PixelMaskSpec | None:
    """The mask over all of the inputs, where one decision is on the whole map and every input is read for it."""
    op, size = program.op(pixels), type_of(pixels).shape[1:]
    if not isinstance(op, PixelMask) or op.spec.within:
        return None
    if any(patch_size(op.spec.granularity, extent) < extent for extent in size):
        return None
    reads_all = bool(region(torch.ones(1, *size, dtype=torch.uint8)).all())
    return replace(op.spec, granularity=0, map_size=region.spec.map_size) if reads_all else None


def _list_one(program: Program, node: fx.Node, conv: Conv2d, rows: fx.Node, *, last: bool) -> fx.Node:
    """One convolution on its rows; the map that its readers read.

    With channel lists the matrix in between would be compact along both axes, and with a prologue the zeros that
    gather puts outside the image would become other numbers; such a convolution reads and writes its map through the
    lists from the start.
    """
    graph, spec = program.graph.graph, conv.spec
    height, width = type_of(node).shape[2:]
    source, *channels = node.all_input_nodes
    at_once = spec.channels_in > 0 or spec.channels_out > 0 or spec.prologue is not None
    if at_once and not last:
        set_op(program, node, conv.replaced(rows=True), (source, rows, *channels))
        return node
    if at_once:
        set_op(program, node, conv.replaced(rows=True, compact=True), (source, rows, *channels))
    else:
        gather = GatherSpec(
            map_size=(height, width),
            kernel=spec.kernel,
            stride=spec.stride,
            padding=spec.padding,
            dilation=spec.dilation,
        )
        with graph.inserting_before(node):
            gathered = insert_op(program, f"{node.name}_gather", Gather(gather), (source, rows), block=block_of(node))
        sparse = conv.replaced(rows=True, gathered=True, compact=True, map_size=(height, width))
        set_op(program, node, sparse, (gathered, rows))
    with graph.inserting_after(node):
        scatter = Scatter(ScatterSpec(map_size=(height, width), zero=last))
        scattered = insert_op(program, f"{node.name}_scatter", scatter, (node, rows), block=block_of(node))
    node.replace_all_uses_with(scattered, delete_user_cb=lambda user: user is not scattered)
    return scattered


PASS = LowerMasks
