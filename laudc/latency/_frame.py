"""A network reduced to what its planning needs: no weights, and of alike blocks in a row only the first three.

A block is lowered by what it is and by what it reads, and its masker also by how the one before came to its decisions.
So in a run of blocks that are equal, and each of which reads the one before, every block from the third on is compiled
like the third.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from laudc.ops.base import Op
from laudc.program import Block, Program, types_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The reduced network, and for every block of the whole one the block that stands for it."""

    program: Program
    stands_for: Mapping[str, str]


def frame_of(program: Program) -> Frame:
    """Reduce a captured program with blocks."""
    clone = program.clone()
    nodes = {node.name: node for node in clone.nodes}
    stands_for: dict[str, str] = {}
    kept: list[Block] = []
    before: Block | None = None
    run = 0  # blocks before this one that are like it, one behind the other
    for block in program.blocks:
        follows = before is not None and block.entry == before.exit
        run = run + 1 if before is not None and follows and _alike(program, before, block) else 0
        if run > 2:
            stands_for[block.name] = kept[-1].name
            nodes[block.exit].replace_all_uses_with(nodes[kept[-1].exit])
        else:
            stands_for[block.name] = block.name
            kept.append(replace(block, entry=kept[-1].exit) if follows else block)
        before = block
    return Frame(program=replace(clone.finished(), blocks=tuple(kept)), stands_for=stands_for)


def _alike(program: Program, before: Block, block: Block) -> bool:
    return not block.shortcut and _signature(program, block) == _signature(program, before)


def _signature(program: Program, block: Block) -> tuple[object, ...]:
    """What a block is, whatever it is called."""
    names = {name: index for index, name in enumerate((block.entry, *block.nodes))}
    parts: list[object] = [block.pattern, block.stride, block.width, block.group_width]
    nodes = {node.name: node for node in program.nodes if node.name in names}
    for name in block.nodes:
        node = nodes[name]
        op = program.op(node)
        reads = tuple(names.get(value.name, -1) for value in node.all_input_nodes)
        parts.append((str(op.spec) if op else str(node.target), reads, types_of(node)))
    return tuple(parts)


def weightless(program: Program) -> Program:
    """The same network with weights that have shapes only, in evaluation mode."""
    clone = program.clone()
    made: dict[Op, Op] = {}
    for node, op in list(clone.ops()):
        if op not in made:
            made[op] = _emptied(op.replaced())
        clone.graph.add_submodule(cast(str, node.target), made[op].eval())
    clone.graph.training = False
    return clone


def _emptied(op: Op) -> Op:
    for name, parameter in list(op.named_parameters(recurse=False)):
        op.register_parameter(name, nn.Parameter(torch.empty_like(parameter, device="meta")))
    for name, buffer in list(op.named_buffers(recurse=False)):
        op.register_buffer(name, torch.empty_like(buffer, device="meta"))
    return op
