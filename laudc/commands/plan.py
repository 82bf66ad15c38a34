"""`laudc plan`: which block skips what, chosen for one device by predicted latency, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from laudc.commands import _options

if TYPE_CHECKING:
    from laudc.latency.constants import Calibration
    from laudc.latency.network_plan import Planned
    from laudc.targets import Target


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
@click.option("--dtype", help="float32, float16, bfloat16 or tf32.", show_default="the target's")
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
    from laudc.commands._planning import device_for, network_of
    from laudc.report.console import progress
    from laudc.whole_file import refuse_unwritable, write_text

    path = output or Path("plan.toml")
    refuse_unwritable(path, force)
    with progress(f"planning {model}"):
        from laudc.latency.constants import calibration_for
        from laudc.latency.network_plan import planned_for

        device, kind = device_for(target, dtype)
        calibration = calibration_for(device)
        found = planned_for(
            model,
            *network_of(model, size),
            device,
            calibration,
            dtype=kind,
            batch=batch,
            rate=rate,
            paradigm=paradigm,
            margin=margin,
        )
        write_text(path, found.text, force=force)
    if as_json:
        _print_json(path, found, device, calibration, batch, rate)
    else:
        _show(f"{model} on {device.title}: batch {batch}, rate {rate:g}, {kind}", found, device, calibration)
        click.echo(f"wrote {path}")


COMMAND = _plan


def _print_json(path: Path, found: Planned, device: Target, calibration: Calibration, batch: int, rate: float) -> None:
    from dataclasses import asdict

    from laudc.report.console import print_json

    low, high = calibration.interval
    static, planned = found.static_us / 1e3, found.planned_us / 1e3
    print_json(
        {
            "file": str(path),
            "hash": found.hash,
            "target": device.name,
            "calibration": calibration.words,
            "interval": [low, high],
            "batch": batch,
            "rate": rate,
            "static_ms": static,
            "static_ms_interval": [low * static, high * static],
            "planned_ms": planned,
            "planned_ms_interval": [low * planned, high * planned],
            "blocks": [asdict(one) for one in found.blocks],
        }
    )


def _show(title: str, found: Planned, device: Target, calibration: Calibration) -> None:
    from laudc.commands._told import ms_words, trust_words
    from laudc.report.console import table

    table(
        title,
        ("block", "static us", "ratio", "why"),
        [(one.block, round(one.static_us, 1), round(one.ratio, 2), one.why) for one in found.blocks],
    )
    ratio = found.planned_us / found.static_us
    click.echo(
        f"whole network, predicted: static {ms_words(found.static_us, calibration)}, "
        f"planned {ms_words(found.planned_us, calibration)}, {ratio:.2f} of static"
    )
    click.echo(trust_words(device, calibration))
    if ratio >= 1:
        click.echo("dynamic is predicted to be no faster than static")
