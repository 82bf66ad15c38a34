"""`laudc calibrate`: fit the latency model to the device that is here."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from laudc.commands import _options
from laudc.errors import InputError

if TYPE_CHECKING:
    from laudc.report.console import Json


@click.command("calibrate", short_help="Fit the latency model to this device.", context_settings=_options.SETTINGS)
@click.option("--target", help="The device that is here, as a name or a file.", show_default="this machine")
@click.option("--rounds", type=click.IntRange(min=3), default=15, help="Runs of each network; medians count.")
@click.option("--keep", type=click.Path(path_type=Path), help="Write what was measured to this file.")
@click.option(
    "--from",
    "kept",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Measure nothing, fit to what such a file holds; the device need not be here.",
)
@_options.force
@_options.as_json
def _calibrate(
    target: str | None, rounds: int, keep: Path | None, kept: Path | None, force: bool, as_json: bool
) -> None:
    """Run some dozens of kernels on the local device, fit the model's few free constants, and keep them for it.

    Leave the machine alone meanwhile. What is kept names the driver, toolchain and versions it holds for.
    """
    from laudc.latency import probe
    from laudc.latency.calibration import calibrate, measure_undisturbed
    from laudc.latency.constants import calibration_path
    from laudc.latency.machine import here, local_target
    from laudc.report.console import print_json, progress, table
    from laudc.targets import load_target
    from laudc.whole_file import refuse_unwritable, write_text

    device = local_target() if target is None else here(load_target(target))
    path = calibration_path(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    for written in (path, keep) if keep else (path,):
        refuse_unwritable(written, force)
    start = time.perf_counter()
    with progress("calibrating") as now:
        if kept:
            samples, state = probe.from_json(_read(kept))
        else:
            samples, state = measure_undisturbed(device, rounds=rounds, say=now)
        if keep:
            write_text(keep, json.dumps(probe.to_json(samples, state)) + "\n", force=True)
        now("fitting")
        found = calibrate(device, samples, state)
    write_text(path, json.dumps(found.to_json(), indent=1) + "\n", force=True)
    if as_json:
        facts: dict[str, Json] = {"file": str(path), "target": device.name, "seconds": time.perf_counter() - start}
        print_json(facts | cast("dict[str, Json]", found.to_json()))
        return
    table(
        f"{device.title}, {device.name}",
        ("constant", "value"),
        [(k, f"{v:.4g}") for k, v in asdict(found.constants).items()],
    )
    errors = found.errors
    click.echo(
        f"{errors['kernels']:.0f} kernels, {errors['samples']:.0f} measurements: median error "
        f"{errors['before_median']:.0%} before, {errors['after_median']:.0%} after (p90 {errors['after_p90']:.0%}); "
        f"measured again, they differ by {errors['repeat_median']:.1%}"
    )
    click.echo(f"wrote {path}, in {time.perf_counter() - start:.0f} s")


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no file of measurements", "name one that `laudc calibrate --keep` wrote"
        ) from error
    return found if isinstance(found, dict) else {}


COMMAND = _calibrate
