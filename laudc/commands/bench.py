"""`laudc bench`: compiled networks against every static one, in one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laudc.commands import _options
from laudc.commands._cache import warn_of_cache
from laudc.errors import InputError

if TYPE_CHECKING:
    from laudc.artifact import LaudFile
    from laudc.benchmark import Benchmark, Measured
    from laudc.compiled import CompiledModel

_TOO_SLOW = 1
_TOO_SHORT = None
"""In JSON, of what is too short to measure."""


@click.command("bench", short_help="Time it against every static variant.", context_settings=_options.SETTINGS)
@click.argument("artifacts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--rates", type=_options.parse_rates, default=".5", metavar="R,...", help="Of the random masks.")
@click.option("--rounds", type=click.IntRange(min=3), default=15, help="Calls of each variant; medians count.")
@click.option("--quick", is_flag=True, help="Without torch.compile's variants, which take minutes to prepare.")
@click.option(
    "--static", multiple=True, metavar="NAME", help="Only this static variant, as tables name it; repeatable."
)
@click.option("--blocks", is_flag=True, help="Print each block's time too, measured kernel by kernel.")
@click.option("--require-speedup", type=float, metavar="X", help="Exit with 1 below X times the fastest static one.")
@_options.trust
@_options.seed
@_options.as_json
def _bench(
    artifacts: tuple[Path, ...],
    rates: tuple[float, ...],
    rounds: int,
    quick: bool,
    static: tuple[str, ...],
    blocks: bool,
    require_speedup: float | None,
    trust: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Time ARTIFACTS, compiled files, with everything on and at random masks, against the static network as torch runs
    it (eagerly, as a CUDA graph, compiled by torch) and as laudc compiles it: in one run, interleaved, medians.

    Several files must be the same network without their masks, compiled for the same target, batch, size and data
    type. The images are random; time does not depend on them, nor on the weights. The speedup that can be required of
    each is at the first of the rates, against the fastest static variant, laudc's own included.
    """
    from laudc.report.console import print_json, progress

    with progress(f"loading {artifacts[0]}", after_s=0) as now:
        from laudc.benchmark import Options, run_benchmark
        from laudc.plan import check_rate

        for rate in rates:
            check_rate(rate)
        found = {str(path): _read(path) for path in artifacts}
        warn_of_cache()
        models = {name: _model(file, trust) for name, file in found.items()}
        how = Options(rates=rates, rounds=rounds, seed=seed, compiled=not quick, static=static, now=now)
        result = run_benchmark(models, how)
    model = next(iter(models.values()))
    if as_json:
        print_json(_facts(model, result))
    else:
        _print(model, result, blocks)
    slow = [one for one in result.networks if require_speedup is not None and result.speedup(one) < require_speedup]
    for one in slow:
        click.echo(
            f"the speedup of {one.name} is {result.speedup(one):.2f}, required are {require_speedup:g}", err=True
        )
    if slow:
        raise click.exceptions.Exit(_TOO_SLOW)


COMMAND = _bench


def _read(path: Path) -> LaudFile:
    from laudc.artifact import read
    from laudc.commands._facts import refuse_device

    found = read(path)
    refuse_device(found)
    if found.kind != "compiled":
        raise InputError(f"{path} is converted, not compiled", f"run laudc compile {path}")
    return found


def _model(file: LaudFile, trust: bool) -> CompiledModel:
    from laudc.compiled import CompiledModel

    model = file.model(trust=trust)
    assert isinstance(model, CompiledModel)
    return model


def _facts(model: CompiledModel, result: Benchmark) -> dict[str, Any]:
    from laudc.timing import fastest

    return {
        "target": model.target.name,
        "shape": list(model.shape),
        "dtype": model.dtype,
        "random": "images and masks",
        "versions": _versions(),
        "static_ms": {name: list(times) for name, times in result.static.items()},
        "static_peak_bytes": dict(result.static_bytes),
        "static_blocks_ms": {block: ms or _TOO_SHORT for block, ms in result.static_blocks_ms.items()},
        "not_run": dict(result.notes),
        "fastest_static": fastest(result.static),
        "fastest_third_party": result.best,
        "kernels_gain": result.kernels_gain,
        "calibration": result.calibration.words,
        "networks": [_network_facts(result, one) for one in result.networks],
    }


def _versions() -> dict[str, str]:
    """What the times depend on beside the network."""
    import platform

    import torch

    from laudc import __version__

    found = {"laudc": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _network_facts(result: Benchmark, network: Measured) -> dict[str, Any]:
    return {
        "file": network.name,
        "dynamic": [
            {
                "rate": one.nominal,
                "executed_rate": one.executed,
                "executed_rates": dict(one.rates),
                "samples_ms": list(one.samples_ms),
                "median_ms": one.ms,
                "predicted_ms": one.predicted_ms,
                "blocks_ms": {
                    block: {"measured": measured or _TOO_SHORT, "predicted": predicted}
                    for block, (measured, predicted) in one.blocks_ms.items()
                },
                "of_fastest_third_party": one.ms / result.ms(result.best),
            }
            for one in network.dynamic
        ],
        "speedup": result.speedup(network),
        "break_even_rate": result.break_even_rate(network),
        "buffer_bytes": network.buffer_bytes,
        "peak_bytes": network.peak_bytes,
        "verdict": _verdict(result, network),
    }


def _verdict(result: Benchmark, network: Measured) -> str:
    from laudc.benchmark import OURS
    from laudc.timing import verdict

    asked, worst = network.asked, network.everything_on
    words = [f"at rate {asked.nominal:g} {verdict(asked.samples_ms, result.static)}"]
    if result.kernels_gain is not None:
        words.append(f"laudc's kernels alone: {result.kernels_gain:.2f} of static by {result.best}")
        words.append(f"skipping alone: {asked.ms / result.ms(OURS):.2f} of static by laudc")
    words.append(f"at worst, with everything on: {worst.ms / result.ms(result.best):.2f} of static by {result.best}")
    return "; ".join(words)


def _print(model: CompiledModel, result: Benchmark, blocks: bool) -> None:
    from laudc.report.console import table
    from laudc.timing import digits, middle_half

    def row(name: str, times: Sequence[float], executed: str, predicted: str, peak: int | None) -> tuple[object, ...]:
        low, high = middle_half(times)
        median = statistics.median(times)
        spread = f"{digits(low)} to {digits(high)}"
        memory = "" if peak is None else f"{peak / 1e6:.0f}"
        return name, digits(median), spread, executed, predicted, f"{median / result.ms(result.best):.2f}", memory

    several = len(result.networks) > 1
    rows = [row(f"static, {name}", times, "", "", result.static_bytes[name]) for name, times in result.static.items()]
    for network in result.networks:
        prefix = f"{Path(network.name).stem}, " if several else ""
        rows += [
            row(
                f"{prefix}rate {one.nominal:g}",
                one.samples_ms,
                f"{one.executed:.3f}",
                digits(one.predicted_ms),
                network.peak_bytes,
            )
            for one in network.dynamic
        ]
    shape = "x".join(map(str, model.shape))
    what = f"{len(result.networks)} networks" if several else result.networks[0].name
    heads = ("variant", "ms", "middle half", "executed rate", "predicted ms", f"of static, {result.best}", "peak MB")
    title = f"{what} on {model.target.title}, {shape}, {model.dtype}; random images and masks"
    without = None if any(result.static_bytes.values()) else -1  # the last column says something on a GPU only
    table(title, heads[:without], [cells[:without] for cells in rows])
    for name, why in result.notes.items():
        click.echo(f"static by {name} was not run: {why}")
    for network in result.networks:
        prefix = f"{Path(network.name).stem}: " if several else ""
        if blocks:
            _print_blocks(result, network)
        rate = result.break_even_rate(network)
        if rate is not None:
            click.echo(f"{prefix}break-even with static by {result.best} at an executed rate of {rate:.2f}")
        click.echo(f"{prefix}buffers: {network.buffer_bytes / 1e6:.1f} MB; predictions {result.calibration.words}")
        click.echo(f"{prefix}{_verdict(result, network)}")


def _print_blocks(result: Benchmark, network: Measured) -> None:
    from laudc.report.console import table
    from laudc.timing import digits

    def block_words(ms: float) -> str:
        return digits(ms) if ms else "too short"

    asked = network.asked
    heads = ("block", "static by laudc, ms", "measured ms", "predicted ms", "of predicted")
    rows = [
        (
            block,
            block_words(result.static_blocks_ms[block]) if block in result.static_blocks_ms else "",
            block_words(measured),
            digits(predicted),
            f"{measured / predicted:.2f}" if measured else "",
        )
        for block, (measured, predicted) in asked.blocks_ms.items()
    ]
    table(f"{network.name} at rate {asked.nominal:g}, kernel by kernel", heads, rows)
