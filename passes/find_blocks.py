"""Find the residual blocks: regions with one entry and one exit, named by the patterns.

The exit is an add; the entry is its immediate dominator (networkx), the last value that every path to the add goes
through. A region must consist of two straight paths whose values nobody else reads. What is refused is listed with
its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import networkx as nx
from torch import fx

from laudc.passes.base import Pass, refused
from laudc.passes.patterns import PATTERNS, Match, Region
from laudc.program import Block, Program, Refusal, type_of, types_of


@dataclass(frozen=True, kw_only=True)
class FindBlocks(Pass):
    stage = "convert"

    def run(self, program: Program) -> Program:
        dominators = _dominators(program)
        found: list[Block] = []
        refusals: list[Refusal] = []
        for node, op in program.ops():
            if op.spec.name != "add":
                continue
            answer = _understand(program, node, dominators)
            if isinstance(answer, str):
                refusals.append(Refusal(where=node.name, reason=answer))
            else:
                found.append(answer)
        if not found and not refusals:
            return program
        blocks = _numbered(found)
        noted = refused(replace(program.clone(), blocks=blocks), *refusals)
        for block in blocks:
            for name in block.nodes:
                noted.node(name).meta["block"] = block.name
        return noted


def _dominators(program: Program) -> dict[fx.Node, fx.Node]:
    graph = nx.DiGraph()
    for node in program.nodes:
        for operand in node.all_input_nodes:
            graph.add_edge(operand, node)
    start = next(iter(program.nodes))
    return cast(dict[fx.Node, fx.Node], nx.immediate_dominators(graph, start))


def _understand(program: Program, add: fx.Node, dominators: dict[fx.Node, fx.Node]) -> Block | str:
    entry = dominators[add]
    paths = [_path(cast(fx.Node, operand), entry) for operand in add.args]
    if len(paths) != 2 or add.args[0] is add.args[1]:
        return "the add does not join two different values"
    for path in paths:
        if isinstance(path, str):
            return path
    region = Region(
        program=program,
        entry=entry,
        add=add,
        paths=cast("tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]", tuple(paths)),
    )
    reasons: dict[str, list[str]] = {}
    for name in sorted(PATTERNS, key=lambda name: (PATTERNS[name].rank, name)):
        match = PATTERNS[name].match(region)
        if isinstance(match, Match):
            return _block(region, match, name)
        reasons.setdefault(match, []).append(name)
    return "no pattern: " + "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def _path(node: fx.Node, entry: fx.Node) -> tuple[fx.Node, ...] | str:
    """The straight path from entry to a value, in order."""
    path: list[fx.Node] = []
    while node is not entry:
        if len(node.users) > 1:
            return f"%{node.name} of its branch is read {len(node.users)} times"
        if not node.all_input_nodes:
            return f"its branch reads {str(node.target).strip('_')!r}, which is no value of the network"
        if len(node.all_input_nodes) != 1:
            return f"%{node.name} of its branch joins {len(node.all_input_nodes)} values"
        path.append(node)
        node = node.all_input_nodes[0]
    return tuple(reversed(path))


def _block(region: Region, match: Match, pattern: str) -> Block | str:
    specs = region.convs(match.branch)
    stride = 1
    for spec in specs:
        if spec.stride[0] != spec.stride[1]:
            return f"a convolution of the branch has the stride {spec.stride[0]}x{spec.stride[1]}"
        stride *= spec.stride[0]
    before, out = type_of(region.entry).shape, type_of(region.add).shape
    expected = tuple(-(-extent // stride) for extent in before[2:])
    if out[2:] != expected:
        change = f"a map of {before[2]}x{before[3]} becomes {out[2]}x{out[3]}"
        return f"{change} at stride {stride}: decisions would not line up"
    users = list(region.add.users)
    exit_node = region.add
    if len(users) == 1 and region.signature((users[0],)) == ("activation",):
        exit_node = users[0]
    widths = {type_of(node).shape[1] for node in match.inner}
    if len(widths) != 1:
        return f"its inner widths are {sorted(widths)}, not one"
    grouped = [spec.in_channels // spec.groups for spec in specs if spec.groups > 1]
    return Block(
        name=_common_path([node for node in match.branch if types_of(node)], region.program),
        pattern=pattern,
        stage=0,
        entry=region.entry.name,
        branch=tuple(node.name for node in match.branch),
        shortcut=tuple(node.name for node in match.shortcut),
        add=region.add.name,
        exit=exit_node.name,
        inner=tuple(node.name for node in match.inner),
        width=widths.pop(),
        group_width=max(grouped, default=1),
        stride=stride,
        out_size=(out[2], out[3]),
        out_channels=out[1],
    )


def _common_path(nodes: list[fx.Node], program: Program) -> str:
    """The module that holds the branch's convolutions: `layer1.0`."""
    targets = [str(node.target) for node, op in program.ops() if node in nodes and op.spec.weights()]
    parts = [target.split(".")[:-1] for target in targets]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) != 1:
            break
        common.append(level[0])
    return ".".join(common)


def _numbered(found: list[Block]) -> tuple[Block, ...]:
    """Unique names, and stages: a new one where the map's size or width changes."""
    blocks: list[Block] = []
    taken: set[str] = set()
    stage = -1
    last: tuple[object, ...] = ()
    for index, block in enumerate(found):
        shape = (block.out_size, block.out_channels)
        stage, last = (stage, last) if shape == last else (stage + 1, shape)
        name, number = block.name, index
        while not name or name in taken:
            name, number = f"{block.name}.block{number}".lstrip("."), number + 1
        taken.add(name)
        blocks.append(replace(block, name=name, stage=stage))
    return tuple(blocks)


PASS = FindBlocks
