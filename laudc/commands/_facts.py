"""What the commands say of a network: its blocks, its weights, whether its maskers were trained."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laudc.artifact import LaudFile
    from laudc.plan import Decision, Plan
    from laudc.program import Block, Program

UNTRAINED = "maskers untrained: everything runs"
RANDOM_MASKS = "random masks"
_NO_MORE_RANDOM = "changed since they were random"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFacts:
    """One residual block, as tables and JSON show it."""

    block: str
    pattern: str
    stage: int
    """Counted from 1."""
    map: str
    stride: int
    dynamic_in: str
    """The paradigms with their granularity; empty for a block that stays static."""
    dense_mmacs: float
    share: float
    """Of the whole network's multiply-accumulates."""


def block_facts(program: Program, plan: Plan | None) -> list[BlockFacts]:
    """The blocks of a converted program, in order."""
    from laudc.flops import dense_macs, static_macs

    whole, macs = static_macs(program), dense_macs(program)
    return [
        BlockFacts(
            block=block.name,
            pattern=block.pattern,
            stage=block.stage + 1,
            map="x".join(map(str, block.out_size)),
            stride=block.stride,
            dynamic_in=_dynamic_in(plan, block),
            dense_mmacs=round(macs[block.name] / 1e6, 3),
            share=round(macs[block.name] / whole, 4),
        )
        for block in program.blocks
    ]


def _dynamic_in(plan: Plan | None, block: Block) -> str:
    return " + ".join(_in_words(decision, block) for decision in (plan.of(block.name) if plan else ()))


def _in_words(decision: Decision, block: Block) -> str:
    from laudc.paradigms import PARADIGMS

    if not decision.granularity:
        return decision.paradigm
    alone = math.prod(PARADIGMS[decision.paradigm].units(block, decision.granularity)) == 1
    return f"{decision.paradigm} {decision.granularity}{' (all or nothing)' if alone else ''}"


def block_table(title: str, facts: Sequence[BlockFacts]) -> None:
    """Prints the blocks."""
    from laudc.report.console import table

    columns = ("block", "pattern", "stage", "map", "stride", "dynamic in", "dense MMACs", "% of network")
    rows = (
        (one.block, one.pattern, one.stage, one.map, one.stride, one.dynamic_in or "static",
         round(one.dense_mmacs, 1), round(100 * one.share, 1))
        for one in facts
    )  # fmt: skip
    table(title, columns, rows)


def masker_digest(program: Program) -> str:
    """sha256 of the maskers' weights: training moves it."""
    return _digest(program, maskers=True)


def static_digest(program: Program) -> str:
    """sha256 of all other weights, and of what the norms keep: training moves it, and so does loading others."""
    return _digest(program, maskers=False)


def _digest(program: Program, *, maskers: bool) -> str:
    from laudc.ops._masker import Masker

    digest = hashlib.sha256()
    for node, op in program.ops():
        if isinstance(op, Masker) == maskers:
            digest.update(node.name.encode())
            for name in (*op.spec.weights(), *op.spec.buffers()):
                digest.update(getattr(op, name).detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def masker_state(program: Program) -> str:
    """ "untrained" while the maskers are as `laudc convert` made them, then "trained"; "unknown" if it was not told."""
    made = program.source.get("maskers_as_made")
    if made is None:
        return "unknown"
    return "untrained" if made == masker_digest(program) else "trained"


def weights_name(program: Program) -> str:
    """What the source calls the weights, unless they were random and are others now."""
    used, made = program.source.get("weights", "unknown"), program.source.get("weights_as_made")
    return used if made is None or made == static_digest(program) else _NO_MORE_RANDOM


def weights_words(program: Program) -> str:
    """`weights: ...`, in words."""
    used = weights_name(program)
    in_words = {name: name for name in ("random", "unknown", _NO_MORE_RANDOM)} | {"own": "as its own file makes them"}
    return in_words.get(used, f"pretrained, {used}")


def class_names(source: Mapping[str, str]) -> list[str]:
    """By index; empty where nobody said."""
    return [str(name) for name in json.loads(source.get("classes", "[]"))]


def refuse_device(found: LaudFile) -> None:
    """ToolchainError where the file was compiled for a GPU that is not here."""
    if found.kind == "compiled":
        from laudc.compiled import check_gpu
        from laudc.targets import Target

        target = Target.from_json(found.manifest["target"])
        if target.kind == "cuda":
            check_gpu(target)


def op_change_words(op_change: Mapping[str, int]) -> str:
    """How many more or fewer of each operation a pass left."""
    return ", ".join(f"{count:+d} {name}" for name, count in op_change.items()) or "kinds of operations stay"


def origins(calls: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Where each kernel's tile came from, by symbol; a kernel whose calls differ names both."""
    found: dict[str, dict[str, None]] = {}
    for symbol, origin in calls:
        found.setdefault(symbol, {})[origin] = None
    return {symbol: ", ".join(sorted(names)) for symbol, names in found.items()}


def origin_words(found: Mapping[str, str]) -> str:
    """How many kernels have their tile from where, such as "tiles of 9 kernels: 4 tuned, 5 default"."""
    counts = Counter(found.values())
    return f"tiles of {len(found)} kernels: {', '.join(f'{counts[name]} {name}' for name in sorted(counts))}"
