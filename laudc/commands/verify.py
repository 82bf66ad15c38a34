"""`laudc verify`: climb the equality ladder, and name the first rung that breaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from laudc.commands import _options
from laudc.commands._facts import refuse_device

if TYPE_CHECKING:
    from laudc.ladder import Rung


@click.command("verify", short_help="Check that skipping changes no number.", context_settings=_options.SETTINGS)
@_options.artifact
@_options.rates
@_options.trust
@_options.as_json
def _verify(artifact: Path, rates: tuple[float, ...], trust: bool, as_json: bool) -> None:
    """Climb the equality ladder with ARTIFACT: static, lowered, each pass, each kernel, the whole network, its file.

    Exit code 6 and the name of the first rung that fails, if one does.
    """
    from laudc.report.console import print_json, progress, table

    with progress(f"loading {artifact}", after_s=0) as now:  # before torch is imported, which may take seconds
        from laudc.artifact import read
        from laudc.ladder import climb, require
        from laudc.plan import check_rate

        for rate in rates:
            check_rate(rate)
        found = read(artifact)
        refuse_device(found)
        model = found.model(trust=trust)
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
        columns = ("rung", "comparisons", "largest error", "allowed", "", "where it was largest", "note")
        table(f"{artifact}", columns, [_row(group) for group in _by_name(rungs)])
    require(rungs)
    if not as_json:
        click.echo(f"all {len(_by_name(rungs))} rungs hold ({len(rungs)} comparisons)")


COMMAND = _verify


def _by_name(rungs: Sequence[Rung]) -> list[list[Rung]]:
    """The rungs of each name, in the order of their first."""
    groups: dict[str, list[Rung]] = {}
    for rung in rungs:
        groups.setdefault(rung.name, []).append(rung)
    return list(groups.values())


def _row(group: Sequence[Rung]) -> tuple[object, ...]:
    """The one that is nearest to its bar stands for all; one that failed is beyond it."""
    worst = max(group, key=lambda rung: rung.error / rung.bar if rung.bar else rung.error)
    verdict = "equal" if all(rung.passed for rung in group) else "FAILS"
    return worst.name, len(group), f"{worst.error:.1e}", f"{worst.bar:.1e}", verdict, worst.where, worst.note
