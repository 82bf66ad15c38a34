"""`laudc bench`: a compiled network against every static one, in one run."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laudc.commands import _options
from laudc.commands._cache import warn_of_cache
from laudc.errors import InputError

if TYPE_CHECKING:
    from laudc.benchmark import Benchmark
    from laudc.compiled import CompiledModel

_TOO_SLOW = 1


@click.command("bench", short_help="Time it against every static variant.", context_settings=_options.SETTINGS)
@_options.artifact
@click.option("--rates", type=_options.parse_rates, default=".5", metavar="R,...", help="Of the random masks.")
@click.option("--rounds", type=click.IntRange(min=3), default=15, help="Calls of each variant; medians count.")
@click.option("--quick", is_flag=True, help="Without torch.compile's variants, which take minutes to prepare.")
@click.option("--require-speedup", type=float, metavar="X", help="Exit with 1 below X times the fastest static one.")
@_options.trust
@_options.seed
@_options.as_json
def _bench(
    artifact: Path,
    rates: tuple[float, ...],
    rounds: int,
    quick: bool,
    require_speedup: float | None,
    trust: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Time ARTIFACT, a compiled file, with everything on and at random masks, against the static network as torch runs
    it (eagerly, as a CUDA graph, compiled by torch) and as laudc compiles it: in one run, interleaved, medians.

    The images are random; time does not depend on them, nor on the weights. The speedup that can be required is at the
    first of the rates, against the fastest static variant, laudc's own included.
    """
    from laudc.report.console import print_json, progress

    with progress(f"loading {artifact}", after_s=0) as now:
        from laudc.artifact import read
        from laudc.benchmark import Options, run_benchmark
        from laudc.commands._facts import refuse_device
        from laudc.compiled import CompiledModel
        from laudc.plan import check_rate

        for rate in rates:
            check_rate(rate)
        found = read(artifact)
        refuse_device(found)
        if found.kind != "compiled":
            raise InputError(f"{artifact} is converted, not compiled", f"run laudc compile {artifact}")
        warn_of_cache()
        model = found.model(trust=trust)
        assert isinstance(model, CompiledModel)
        result = run_benchmark(model, Options(rates=rates, rounds=rounds, seed=seed, compiled=not quick, now=now))
    facts = _facts(artifact, model, result)
    if as_json:
        print_json(facts)
    else:
        _print(model, result, facts)
    if require_speedup is not None and facts["speedup"] < require_speedup:
        click.echo(f"the speedup is {facts['speedup']:.2f}, required are {require_speedup:g}", err=True)
        raise click.exceptions.Exit(_TOO_SLOW)


COMMAND = _bench


def _facts(artifact: Path, model: CompiledModel, result: Benchmark) -> dict[str, Any]:
    from laudc.timing import fastest

    best_of_all = fastest(result.static)
    return {
        "file": str(artifact),
        "target": model.target.name,
        "shape": list(model.shape),
        "dtype": model.dtype,
        "random": "images and masks",
        "static_ms": {name: list(times) for name, times in result.static.items()},
        "not_run": dict(result.notes),
        "fastest_static": best_of_all,
        "fastest_third_party": result.best,
        "dynamic": [
            {
                "rate": one.nominal,
                "executed_rate": one.executed,
                "samples_ms": list(one.samples_ms),
                "median_ms": one.ms,
                "predicted_ms": one.predicted_ms,
                "predicted_blocks_ms": dict(one.blocks_ms),
                "of_fastest_third_party": one.ms / result.ms(result.best),
            }
            for one in result.dynamic
        ],
        "speedup": result.ms(best_of_all) / result.asked.ms,
        "kernels_gain": result.kernels_gain,
        "break_even_rate": result.break_even_rate(),
        "calibration": result.calibration.words,
        "buffer_bytes": result.buffer_bytes,
        "verdict": _verdict(result),
    }


def _verdict(result: Benchmark) -> str:
    from laudc.benchmark import OURS
    from laudc.timing import verdict

    asked = result.asked
    words = [f"at rate {asked.nominal:g} {verdict(asked.samples_ms, result.static)}"]
    if result.kernels_gain is not None:
        words.append(f"laudc's kernels alone: {result.kernels_gain:.2f} of static by {result.best}")
        words.append(f"skipping alone: {asked.ms / result.ms(OURS):.2f} of static by laudc")
    return "; ".join(words)


def _print(model: CompiledModel, result: Benchmark, facts: dict[str, Any]) -> None:
    from laudc.report.console import table
    from laudc.timing import digits, middle_half

    def row(name: str, times: list[float], executed: object, predicted: object) -> tuple[object, ...]:
        low, high = middle_half(times)
        median = statistics.median(times)
        spread = f"{digits(low)} to {digits(high)}"
        return name, digits(median), spread, executed, predicted, f"{median / result.ms(result.best):.2f}"

    rows = [row(f"static, {name}", list(times), "", "") for name, times in result.static.items()]
    rows += [
        row(f"rate {one.nominal:g}", list(one.samples_ms), f"{one.executed:.3f}", digits(one.predicted_ms))
        for one in result.dynamic
    ]
    shape = "x".join(map(str, model.shape))
    heads = ("variant", "ms", "middle half", "executed rate", "predicted ms", f"of static, {result.best}")
    table(f"{facts['file']} on {model.target.title}, {shape}, {model.dtype}; random images and masks", heads, rows)
    for name, why in result.notes.items():
        click.echo(f"static by {name} was not run: {why}")
    rate = result.break_even_rate()
    if rate is not None:
        click.echo(f"break-even with static by {result.best} at an executed rate of {rate:.2f}")
    click.echo(f"buffers: {result.buffer_bytes / 1e6:.1f} MB; predictions {facts['calibration']}")
    click.echo(facts["verdict"])
