"""`laudc plan`: which block skips what, chosen for one device by predicted latency, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from laudc.commands import _options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from laudc.latency.network import NetworkTime
    from laudc.latency.planner import BlockChoice, Search
    from laudc.plan_file import PlanFile


@click.command(
    "plan", short_help="Choose paradigms and granularities for a device.", context_settings=_options.SETTINGS
)
@click.argument("model")
@click.option("--target", help="A device that `laudc targets` lists, or a file.", show_default="this machine")
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Images a call.")
@click.option("--rate", type=float, default=0.5, help="The share of units that will be on.")
@click.option("--paradigm", default="auto", help="auto: each block its own; or spatial, layer, channel, joined by +.")
@click.option("--margin", type=float, default=0.05, help="How far from the fastest a finer granularity may lie.")
@_options.size("the model's own")
@click.option("--dtype", help="float32 or float16.", show_default="the target's")
@_options.output
@_options.force
@_options.as_json
def _plan(
    model: str,
    target: str | None,
    batch: int,
    rate: float,
    paradigm: str,
    margin: float,
    size: tuple[int, int] | None,
    dtype: str | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Choose for each block of MODEL the paradigm and granularity for a device, and write plan.toml here.

    Of the choices predicted to be nearly the fastest, a block gets the one with the most decisions; where none is
    predicted to gain, it stays static. `laudc convert MODEL --plan plan.toml` obeys the file.
    """
    from laudc.commands._planning import search_for, wanted_network
    from laudc.latency.planner import choose_blocks, plan_of, whole_network
    from laudc.report.console import progress
    from laudc.whole_file import refuse_unwritable, write_text

    path = output or Path("plan.toml")
    refuse_unwritable(path, force)
    with progress(f"opening {model}") as now:
        named, program = wanted_network(model, size)
        search = search_for(program, target, batch=batch, rate=rate, paradigm=paradigm, margin=margin, dtype=dtype)
        now(f"planning {model} for {search.target.name}")
        choices = choose_blocks(program, search)
        static, planned = whole_network(program, plan_of(choices, search), search)
        file = _file(named, search, choices)
        write_text(path, file.text(), force=force)
    _report(path, file, search, choices, static, planned, as_json=as_json)


COMMAND = _plan


def _file(model: str, search: Search, choices: Sequence[BlockChoice]) -> PlanFile:
    from laudc.plan_file import PlanFile

    return PlanFile(
        basis=search.basis(model),
        blocks={choice.block: choice.chosen.candidate if choice.chosen else () for choice in choices},
        reasons={choice.block: choice.why for choice in choices},
    )


def _report(
    path: Path,
    file: PlanFile,
    search: Search,
    choices: Sequence[BlockChoice],
    static: NetworkTime,
    planned: NetworkTime,
    *,
    as_json: bool,
) -> None:
    from laudc.report.console import print_json, table

    low, high = search.calibration.interval
    if as_json:
        print_json(
            {
                "file": str(path),
                "hash": file.hash,
                "target": search.target.name,
                "calibration": search.calibration.words,
                "batch": search.batch,
                "rate": search.rate,
                "static_ms": static.total_us / 1e3,
                "planned_ms": planned.total_us / 1e3,
                "planned_ms_interval": [low * planned.total_us / 1e3, high * planned.total_us / 1e3],
                "blocks": [
                    {
                        "block": choice.block,
                        "decisions": [f"{p} {g}" for p, g in (choice.chosen.candidate if choice.chosen else ())],
                        "static_us": choice.static.total_us,
                        "ratio": choice.chosen.ratio if choice.chosen else 1.0,
                        "why": choice.why,
                        "weighed": {one.words: one.ratio for one in choice.weighed},
                    }
                    for choice in choices
                ],
            }
        )
        return
    table(
        f"{file.basis.model} on {search.target.title}: batch {search.batch}, rate {search.rate:g}, {search.dtype}",
        ("block", "static us", "ratio", "why"),
        [
            (one.block, round(one.static.total_us, 1), round(one.chosen.ratio if one.chosen else 1.0, 2), one.why)
            for one in choices
        ],
    )
    ratio = planned.total_us / static.total_us
    click.echo(
        f"whole network, predicted: static {static.total_us / 1e3:.3g} ms, planned {planned.total_us / 1e3:.3g} ms "
        f"({low * planned.total_us / 1e3:.3g} to {high * planned.total_us / 1e3:.3g}), {ratio:.2f} of static"
    )
    click.echo(f"{search.target.name} is {search.calibration.words}")
    if ratio >= 1:
        click.echo("dynamic is predicted to be no faster than static")
    click.echo(f"wrote {path}")
