"""What a network is, whatever it is called, weighs and computes in: a digest."""

from __future__ import annotations

import hashlib
import json

from torch import fx

from laudc.program import Program, types_of


def structure_digest(program: Program) -> str:
    """sha256 of the operations, of what each reads and makes for one image, and of the blocks. Nodes count by their
    place, so that the names in a network do not matter."""
    places = {node: index for index, node in enumerate(program.nodes)}
    by_name = {node.name: place for node, place in places.items()}
    blocks = [
        [block.pattern, block.stage, block.stride, *(by_name[name] for name in (block.entry, *block.nodes))]
        for block in program.blocks
    ]
    nodes = [
        [
            _kind(program, node),
            [places[value] for value in node.all_input_nodes],
            [type_.shape[1:] for type_ in types_of(node)],
        ]
        for node in places
    ]
    return hashlib.sha256(json.dumps([nodes, blocks]).encode()).hexdigest()


def _kind(program: Program, node: fx.Node) -> str:
    op = program.op(node)
    if op is not None:
        return str(op.spec)
    if node.op == "call_module":
        return type(program.graph.get_submodule(str(node.target))).__name__
    return node.op if node.op in ("placeholder", "output") else str(getattr(node.target, "__name__", node.target))
