"""`laudc compile`: kernels for a converted network on one device."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from laudc.commands import _options
from laudc.commands._cache import warn_of_cache
from laudc.commands._facts import op_change_words, origin_words, origins
from laudc.errors import ArtifactError, InputError, StorageError

if TYPE_CHECKING:
    from laudc.artifact import LaudFile
    from laudc.compiled import CompiledModel
    from laudc.report.console import Json


@click.command("compile", short_help="Compile a converted network for a device.", context_settings=_options.SETTINGS)
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@click.option("--target", required=True, help="A device that `laudc targets` lists, or a file: ./my-gpu.toml.")
@click.option("--batch", type=click.IntRange(min=1), help="Images a call.", show_default="1, or the plan's")
@_options.size("what it was converted with")
@click.option("--dtype", help="float32, float16, bfloat16 or tf32.", show_default="the target's")
@click.option("--no-fuse", "without", multiple=True, metavar="NAME", help="Leave out a fusion, such as gather-conv.")
@_options.output
@_options.force
@_options.as_json
def _compile(
    artifact: Path | None,
    target: str,
    batch: int | None,
    size: tuple[int, int] | None,
    dtype: str | None,
    without: tuple[str, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compile ARTIFACT, which `laudc convert` wrote, and write NAME-PARADIGM.TARGET.laud here.

    Without ARTIFACT it takes the one converted .laud file of this folder.
    """
    from laudc.report.console import bar, progress
    from laudc.targets import load_target
    from laudc.whole_file import refuse_unwritable

    device = load_target(target)
    with progress(f"reading {artifact or 'the folder'}", after_s=0):  # before torch is imported: it may take seconds
        from laudc import api, pipeline
        from laudc.artifact import read_converted, save
        from laudc.compiled import check_planned_for

        pipeline.lowering(without=without)  # an unknown fusion is said before any work
        source = _only_converted(Path()) if artifact is None else read_converted(artifact)
        plan = source.plan
        made_for = plan.made_for if plan else None
        images = batch or (made_for.batch if made_for else 1)
        if made_for:
            kind = dtype or device.default_dtype
            check_planned_for(plan, device, batch=images, size=size or made_for.size, dtype=kind)
    if artifact is None:
        click.echo(f"compiling {source.path}, the only converted file here", err=as_json)
    path = output or Path(f"{source.path.name.removesuffix('.laud')}.{device.name}.laud")
    refuse_unwritable(path, force)
    warn_of_cache()
    start = time.perf_counter()
    with progress(f"lowering {source.path}") as now:
        compiled = api.compile(
            source.dynamic(),
            device,
            images,
            size=size,
            dtype=dtype,
            without=without,
            progress=lambda ready, all_: now(bar("building kernels", ready, all_)),
        )
        now(f"writing {path}")
        save(path, compiled, force=force)
    _report(compiled, path, time.perf_counter() - start, as_json=as_json)


COMMAND = _compile


def _only_converted(folder: Path) -> LaudFile:
    """The one file here that can be compiled."""
    from laudc.artifact import read

    found, damaged = [], []
    for path in sorted(path for path in folder.glob("*.laud") if path.is_file()):
        try:
            file = read(path)
        except (ArtifactError, StorageError) as error:
            damaged.append(error.fact)
        else:
            if file.kind == "converted":
                found.append(file)
    match found:
        case [file]:
            return file
        case []:
            unusable = f" ({'; '.join(damaged)})" if damaged else ""
            raise InputError(f"no converted .laud file is in this folder{unusable}", "make one: laudc convert resnet50")
        case _:
            names = ", ".join(file.path.name for file in found)
            raise InputError(
                f"{len(found)} files here could be compiled: {names}", "name one: laudc compile FILE --target ..."
            )


def _report(compiled: CompiledModel, path: Path, seconds: float, *, as_json: bool) -> None:
    from laudc.report.console import print_json, table

    facts = _facts(compiled, path, seconds)
    if as_json:
        print_json(facts)
        return
    table(
        f"{compiled.target.title}: {compiled.dtype}, input {'x'.join(map(str, compiled.shape))}",
        ("pass", "what changed"),
        [
            (step.name, op_change_words(step.op_change) if step.changed else "nothing")
            for step in compiled.lowering.steps
        ],
    )
    _print_kernels(compiled)
    left = _left_dense(compiled)
    if left:
        table("left as it is", ("where", "why"), left)
    for note in compiled.missing:
        click.echo(f"kernels stay source only: {note}")
    megabytes = path.stat().st_size / 1e6
    click.echo(f"{facts['calls']} kernel calls, {facts['arena_mb']} MB of buffers, compiled in {seconds:.0f} s")
    click.echo(f"wrote {path}, {megabytes:.1f} MB")


def _facts(compiled: CompiledModel, path: Path, seconds: float) -> dict[str, Json]:
    steps = compiled.lowering.executable.steps
    symbols = [step.kernel.symbol for step in steps]
    kernels, calls = dict(zip(symbols, (step.kernel for step in steps), strict=True)), Counter(symbols)
    origin = _origins(compiled)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "target": compiled.target.name,
        "arch": compiled.target.arch,
        "dtype": compiled.dtype,
        "input": list(compiled.shape),
        "without": list(compiled.without),
        "passes": [
            {"name": step.name, "changed": step.changed, "op_change": dict(step.op_change)}
            for step in compiled.lowering.steps
        ],
        "kernels": [
            {
                "symbol": symbol,
                "schedule": kernel.schedule,
                "origin": origin[symbol],
                "calls": calls[symbol],
                "registers": compiled.binaries[kernel.key].registers,
                "spill_bytes": compiled.binaries[kernel.key].spill_bytes,
            }
            for symbol, kernel in kernels.items()
        ],
        "calls": len(steps),
        "left_as_it_is": [{"where": where, "reason": reason} for where, reason in _left_dense(compiled)],
        "missing": list(compiled.missing),
        "arena_mb": round(compiled.lowering.executable.arena_bytes / 1e6, 1),
        "seconds": round(seconds, 2),
    }


def _print_kernels(compiled: CompiledModel) -> None:
    from laudc.report.console import table

    steps = compiled.lowering.executable.steps
    kernels = {step.kernel.key: step.kernel.schedule for step in steps}
    counts, calls = Counter(kernels.values()), Counter(step.kernel.schedule for step in steps)
    on_gpu = compiled.target.kind == "cuda"
    rows = []
    for schedule in sorted(counts):
        built = [compiled.binaries[key] for key, name in kernels.items() if name == schedule]
        registers = max(binary.registers for binary in built)
        spilling = sum(binary.spill_bytes > 0 for binary in built)
        rows.append((schedule, counts[schedule], calls[schedule], *((registers or "?", spilling) if on_gpu else ())))
    columns = ("schedule", "kernels", "calls", *(("most registers", "kernels that spill") if on_gpu else ()))
    table(f"{len(kernels)} kernels", columns, rows)
    click.echo(origin_words(_origins(compiled)))


def _origins(compiled: CompiledModel) -> dict[str, str]:
    return origins((step.kernel.symbol, step.kernel.origin) for step in compiled.lowering.executable.steps)


def _left_dense(compiled: CompiledModel) -> Sequence[tuple[str, str]]:
    """What some pass did not touch, and why."""
    return [(refusal.where, refusal.reason) for refusal in compiled.lowering.lowered.refusals]
