"""`laudc verify`: climb the equality ladder, and name the first rung that breaks."""

from __future__ import annotations

import math
from pathlib import Path

import click

from laudc.commands import _options
from laudc.commands._facts import refuse_device


@click.command("verify", short_help="Check that skipping changes no number.", context_settings=_options.SETTINGS)
@_options.artifact
@_options.rates
@_options.trust
@_options.as_json
def _verify(artifact: Path, rates: tuple[float, ...], trust: bool, as_json: bool) -> None:
    """Climb the equality ladder with ARTIFACT: static, lowered, each pass, each kernel, the whole network, its file.

    Exit code 6 and the name of the first rung that fails, if one does.
    """
    from laudc.kernels.artifact import describe, load
    from laudc.ladder import climb, require
    from laudc.report.console import print_json, progress, table

    refuse_device(describe(artifact))
    with progress(f"loading {artifact}") as now:
        model = load(artifact, trust=trust)
        now("climbing the ladder")
        rungs = climb(model, rates=rates, progress=lambda rung: now(f"climbed {rung.name}: {rung.where}"))
    if as_json:
        print_json(
            [
                {
                    "rung": rung.name,
                    "where": rung.where,
                    "error": rung.error if math.isfinite(rung.error) else str(rung.error),
                    "bar": rung.bar,
                    "passed": rung.passed,
                    "note": rung.note,
                }
                for rung in rungs
            ]
        )
    else:
        columns = ("rung", "where", "error", "allowed", "", "note")
        verdicts = {True: "equal", False: "FAILS"}
        rows = ((r.name, r.where, f"{r.error:.1e}", f"{r.bar:.1e}", verdicts[r.passed], r.note) for r in rungs)
        table(f"{artifact}", columns, rows)
    require(rungs)
    if not as_json:
        click.echo(f"all {len(rungs)} rungs hold")


COMMAND = _verify
