"""`laudc inspect`: what a .laud file holds. Nothing in it is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laudc.commands import _options
from laudc.commands._facts import (
    block_facts,
    block_table,
    masker_state,
    op_change_words,
    origins,
    weights_name,
    weights_words,
)
from laudc.errors import ArtifactError, InputError, UnknownName

if TYPE_CHECKING:
    from laudc.artifact import LaudFile
    from laudc.plan import Plan
    from laudc.program import Program

_SOURCES = (".cu", ".py")
_SHORT = 12  # of a hash


@click.command("inspect", short_help="Show what a .laud file holds.", context_settings=_options.SETTINGS)
@_options.artifact
@click.option("--graph", is_flag=True, help="Print the program: of a compiled file, the lowered one.")
@click.option("--kernel", "symbol", metavar="SYMBOL", help="Print the source of one kernel.")
@_options.as_json
def _inspect(artifact: Path, graph: bool, symbol: str | None, as_json: bool) -> None:
    """Show the blocks, the plan, the passes that ran, the kernels, sizes, versions and hashes of ARTIFACT."""
    if sum((graph, symbol is not None, as_json)) > 1:
        raise InputError("--graph, --kernel and --json are three answers", "ask for one")
    from laudc.report.console import print_json, progress

    with progress(f"reading {artifact}", after_s=0):  # before torch is imported, which may take seconds
        from laudc.artifact import read

        found = read(artifact)
    if symbol is not None:
        click.echo(_kernel_source(found, symbol))
        return
    program, plan = found.program, found.plan
    if graph:
        click.echo(found.lowered or program.text(), nl=False)
    elif as_json:
        print_json(_facts(found, program, plan))
    else:
        _print(found, program, plan)


COMMAND = _inspect


def _kernel_source(found: LaudFile, symbol: str) -> str:
    sources = {Path(name).stem: content for name, content in found.members.items() if name.endswith(_SOURCES)}
    if not sources:
        raise InputError(f"{found.path} holds no kernels", "give a file that `laudc compile` wrote")
    if symbol not in sources:
        raise UnknownName.among("kernel", symbol, sources)
    return sources[symbol].decode()


def _facts(found: LaudFile, program: Program, plan: Plan | None) -> dict[str, Any]:
    return {
        "file": str(found.path),
        "bytes": found.path.stat().st_size,
        **{key: value for key, value in found.manifest.items() if key != "plan"},
        "source": dict(program.source),
        "weights": weights_name(program),
        "maskers": masker_state(program),
        "plan": None if plan is None else plan.to_json(),
        "blocks": [asdict(one) for one in block_facts(program, plan)],
        "refused": [asdict(refusal) for refusal in program.refusals],
        "members": {name: len(content) for name, content in found.members.items()},
    }


def _print(found: LaudFile, program: Program, plan: Plan | None) -> None:
    from laudc.report.console import table

    manifest = found.manifest
    table(f"{found.path}: {found.kind}", ("what", ""), _head(found, program, plan))
    block_table("blocks", block_facts(program, plan))
    if program.refusals:
        table("left static", ("where", "why"), [(refusal.where, refusal.reason) for refusal in program.refusals])
    try:
        if found.kind == "compiled":
            _print_compiled(found)
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{found.path} lacks {error} in its manifest", "compile it again") from error
    groups: Counter[str] = Counter()
    for name, content in found.members.items():
        groups[name if "/" not in name else f"kernels/*{Path(name).suffix}"] += len(content)
    table("members", ("member", "MB", "sha256"), [
        (name, round(size / 1e6, 3), manifest["hashes"].get(name, "")[:_SHORT]) for name, size in groups.items()
    ])  # fmt: skip


def _head(found: LaudFile, program: Program, plan: Plan | None) -> list[tuple[str, str]]:
    manifest, source = found.manifest, program.source
    lines = [
        ("model", f"{source.get('model', 'unknown')} ({source.get('library', 'library unknown')})"),
        ("weights", weights_words(program)),
        ("images", _images_words(program)),
        ("maskers", masker_state(program)),
        ("made by", ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())),
        ("size", f"{found.path.stat().st_size / 1e6:.1f} MB"),
    ]
    if plan is not None:
        rate = "the maskers decide" if plan.rate is None else f"random masks at rate {plan.rate:g}"
        meant = f", meant for {plan.target}" if plan.target else ""
        lines.append(("plan", f"{plan.paradigm}, {rate}, seed {plan.seed}{meant}"))
    if found.kind == "compiled":
        device = manifest["target"]
        made_on = f", made on {manifest['cpu']['name']}" if manifest.get("cpu") else ""
        lines += [
            ("target", f"{device['name']}: {device['title']}, {device['arch']}{made_on}"),
            ("input", f"{manifest['dtype']} {'x'.join(map(str, manifest['shape']))}"),
            ("left out", ", ".join(manifest["without"]) or "no fusion"),
            ("buffers", f"{manifest['arena_bytes'] / 1e6:.1f} MB"),
            ("lowered program", manifest["lowered"][:_SHORT]),
        ]
    return lines


def _images_words(program: Program) -> str:
    """How `laudc run` prepares an image at the size the network reads."""
    from laudc.dynamic_model import example_shape
    from laudc.preprocess import Preprocessing

    height, width = example_shape(program)[2:]
    said = str(Preprocessing.of(program.source).for_size((height, width)))
    return said if "preprocessing" in program.source else f"{said} (ImageNet's usual way: the file says none)"


def _print_compiled(found: LaudFile) -> None:
    from laudc.report.console import table

    sizes = {Path(name).stem: len(content) for name, content in found.members.items() if name.endswith(_SOURCES)}
    calls = Counter(step["kernel"] for step in found.manifest["steps"])
    origin = origins((step["kernel"], step["origin"]) for step in found.manifest["steps"])
    table("passes", ("pass", "what changed"), [
        (step["name"], op_change_words(step["op_change"]) if step["changed"] else "nothing")
        for step in found.manifest["passes"]
    ])  # fmt: skip
    on_gpu = found.manifest["target"]["kind"] == "cuda"
    columns = ("kernel", "calls", "schedule", "tile", "registers" if on_gpu else "source bytes")
    table(f"{len(calls)} kernels", columns, [
        (
            symbol,
            calls[symbol],
            facts["schedule"],
            origin[symbol],
            _registers(facts) if on_gpu else sizes.get(symbol, 0),
        )
        for symbol, facts in found.manifest["kernels"].items()
    ])  # fmt: skip
    click.echo("--kernel NAME prints the source of one, --json tells the tiles of all")
    notes = {facts["note"] for facts in found.manifest["kernels"].values() if facts["note"]}
    for note in sorted(notes):
        click.echo(f"kernels stay source only: {note}")


def _registers(facts: Mapping[str, Any]) -> int | str:
    """Of a thread, and what did not fit into them."""
    spilled = facts["spill_bytes"]
    return f"{facts['registers']}, {spilled} bytes spilled" if spilled else int(facts["registers"])
