"""Maskers of whole maps read sums, not the map: who writes the map keeps its channel sums up to date.

    %y = conv2d(...)(..., %i)                        %s = zero_sums(%i)
    %m, %l = patch_masker(%y)                        %y, %t = conv2d(sums, ...)(..., %i, %s)
    ...                                      ->      %m, %l, %u = sums_masker(%t)
    %z = conv2d(samples, in_place)(%a, %m, %y)       %z, %v = conv2d(samples, in_place, sums)(%a, %m, %y, %u)
    %n, %k = patch_masker(%z)                        %n, %k, %w = sums_masker(%v)

What is skipped has the sums it had. Where channels are skipped all of the map is written, and sums begin anew:

    %p = global_pool(%y)                             %m, %l, %c, %u = sums_channel_masker(%t)
    %m, %l = channel_masker(%p)              ->      ...
    %c = channel_list(%m)                            %z, %v = conv2d(channels_in, sums)(%a, %c, %y, %u)
    %z = conv2d(channels_in)(%a, %c, %y)

Where no convolution that keeps sums wrote the map, they are taken of it (`channel_sums`), once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import fx

from laudc.ops.channel_list import ChannelList
from laudc.ops.channel_masker import ChannelMasker
from laudc.ops.channel_sums import ChannelSumsSpec
from laudc.ops.global_pool import GlobalPool
from laudc.ops.patch_masker import PatchMasker
from laudc.ops.sums_channel_masker import SumsChannelMasker, SumsChannelMaskerSpec
from laudc.ops.sums_masker import SumsMasker, SumsMaskerSpec
from laudc.passes._map_sums import Left, MapSums, sums_type, written_by
from laudc.passes.base import Pass
from laudc.program import Program, element, set_op, type_of, types_of
from laudc.targets import TARGETS, Target


@dataclass(frozen=True, kw_only=True)
class KeepSums(Pass):
    after = ("whole_samples",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        clone, changed = program.clone(), False
        kept = MapSums(program=clone, target=self.target)
        for node in list(clone.nodes):
            x = _map_of(clone, node)
            if x is None or not can_read_sums(clone, node, self.target):
                continue
            deciding = _on_sums(clone, node, x)
            left = _decide_on(clone, node, deciding, kept.of(x, node))
            if isinstance(deciding, SumsMasker):
                kept.left[node] = Left(of=written_by(clone, x), sums=left)
            else:
                kept.zero[type_of(left)] = left
            changed = True
        return clone.finished() if changed else program


def can_read_sums(program: Program, node: fx.Node, target: Target) -> bool:
    """Whether this is a masker of a whole map, of a kind whose sums the target has kernels for."""
    from laudc.latency.search import has_kernel

    x = _map_of(program, node)
    if x is None or not has_kernel(ChannelSumsSpec(), (type_of(x),), target):
        return False
    return has_kernel(_on_sums(program, node, x).spec, (sums_type(x),), target)


def _map_of(program: Program, node: fx.Node) -> fx.Node | None:
    """The map that a masker looks at as a whole, itself or by a mean that nobody else reads."""
    op = program.op(node)
    if isinstance(op, PatchMasker) and types_of(node)[0].shape[1:] == (1, 1):
        return node.all_input_nodes[0]
    if type(op) is not ChannelMasker:
        return None
    pool = node.all_input_nodes[0]
    alone = isinstance(program.op(pool), GlobalPool) and len(pool.users) == 1
    return pool.all_input_nodes[0] if alone else None


def _on_sums(program: Program, node: fx.Node, x: fx.Node) -> SumsMasker | SumsChannelMasker:
    """What decides the same on sums."""
    masker, positions = program.op(node), type_of(x).shape[2] * type_of(x).shape[3]
    if isinstance(masker, PatchMasker):
        spec = SumsMaskerSpec(key=masker.key, channels=masker.spec.channels, positions=positions)
        return SumsMasker.with_weights_of(masker, spec)
    assert isinstance(masker, ChannelMasker)
    return SumsChannelMasker.with_weights_of(masker, SumsChannelMaskerSpec(**asdict(masker.spec), positions=positions))


def _decide_on(program: Program, node: fx.Node, deciding: SumsMasker | SumsChannelMasker, sums: fx.Node) -> fx.Node:
    """Let a masker decide on sums, and list the channels; the sums that it leaves."""
    looked_at, masks = node.all_input_nodes[0], node.args[1]
    set_op(program, node, deciding, (sums,))
    node.args = (sums, masks)
    if isinstance(deciding, SumsChannelMasker):
        program.graph.graph.erase_node(looked_at)
        _list_by(program, node)
    return element(node, deciding.spec.in_place["x"], "left")


def _list_by(program: Program, node: fx.Node) -> None:
    """The masker's own list in place of one that is made apart."""
    listed = element(node, 2, "list")
    for value in [user for mask in node.users for user in mask.users if isinstance(program.op(user), ChannelList)]:
        value.replace_all_uses_with(listed)
        program.graph.graph.erase_node(value)


PASS = KeepSums
