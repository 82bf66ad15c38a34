"""Turn raw measurements into a page and its plots; nothing is measured here.

    python scripts/bench_report.py b128.json b8.json b1.json --triton triton.json \\
        --proof proof.json ... --sanitize sanitize.json -o docs/benchmarks/h200

b128.json, ... are what `laudc bench FILE.laud ... --json` printed. Writes h200.md, h200-rates.svg and the bench's raw
samples as h200-bench.json. What is judged first stands in docs/benchmarks/judged.toml.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from laudc.report.plots import ratio_plot
from laudc.timing import digits, middle_half

ROOT = Path(__file__).resolve().parent.parent
JUDGED = ROOT / "docs/benchmarks/judged.toml"
OURS = "laudc"

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One ratio that is judged. `ms` and `of` are its two medians; none where it was not measured."""

    what: str
    over: str
    name: str = ""
    """What was compared with what."""
    ms: float | None = None
    of_ms: float | None = None
    ratio: float | None = None
    random: str = ""
    must: float | None = None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return "not measured"
        if self.must is None:
            return ""
        return (
            "aim" if self.aim is not None and self.ratio <= self.aim else "met" if self.ratio <= self.must else "MISSED"
        )


def judged(rows: Sequence[Json], benches: Sequence[Json], triton: Json | None) -> list[Figure]:
    """What the rows ask for, of what was measured."""
    return [_figure(row, benches, triton) for row in rows]


def _figure(row: Json, benches: Sequence[Json], triton: Json | None) -> Figure:
    known = {"what": row["what"], "over": row["over"], "must": row.get("must"), "aim": row.get("aim")}
    if row["over"] == "triton":
        if triton is None:
            return Figure(**known)
        rates = [f"{row['rate']:g}"] if "rate" in row else list(triton["layers"][0]["rates"])
        ratio = statistics.geometric_mean(_over_triton(triton, rates))
        name = f"laudc over Triton, {len(triton['layers'])} layers at {', '.join(rates)}"
        return Figure(**known, name=name, ratio=ratio, random="data and lists")
    found = []
    for bench in benches:
        limit = bench["fastest_third_party"] if row["over"] == "torch" else OURS
        if limit not in bench["static_ms"]:
            continue
        of_ms = statistics.median(bench["static_ms"][limit])
        found += [
            Figure(
                **known,
                name=f"{name} over static by {limit}",
                ms=ms,
                of_ms=of_ms,
                ratio=ms / of_ms,
                random=f"weights, {bench['random']}",
            )
            for name, ms in _candidates(row, bench)
        ]
    return min(found, key=lambda one: one.ratio or 0.0, default=Figure(**known))


def _candidates(row: Json, bench: Json) -> Iterator[tuple[str, float]]:
    """What the row means, in milliseconds."""
    if "file" not in row:
        if bench["shape"][0] == row["batch"] and OURS in bench["static_ms"]:
            yield "static by laudc", statistics.median(bench["static_ms"][OURS])
        return
    for network in bench["networks"]:
        name = Path(network["file"]).stem
        if fnmatch(name, row["file"]):
            yield from ((name, one["median_ms"]) for one in network["dynamic"] if one["rate"] == row["rate"])


def _over_triton(triton: Json, rates: Sequence[str]) -> Iterator[float]:
    """laudc's time over Triton's, by layer and rate."""
    for layer in triton["layers"]:
        for rate in rates:
            samples = layer["rates"][rate]["samples_ms"]
            yield statistics.median(samples[OURS]) / statistics.median(samples["Triton"])


def rate_lines(bench: Json) -> dict[str, list[tuple[float, float]]]:
    """By network, executed rate and time over that of the fastest static one that is not laudc's; static laudc too."""
    limit = statistics.median(bench["static_ms"][bench["fastest_third_party"]])
    lines = {
        Path(network["file"]).stem: sorted(
            (one["executed_rate"], one["median_ms"] / limit) for one in network["dynamic"]
        )
        for network in bench["networks"]
    }
    if OURS in bench["static_ms"]:
        ours = statistics.median(bench["static_ms"][OURS]) / limit
        lines["static by laudc"] = [(0.0, ours), (1.0, ours)]
    return lines


# ---- the page


def page(
    figures: Sequence[Figure],
    benches: Sequence[Json],
    *,
    triton: Json | None,
    proofs: Sequence[Json],
    sanitized: Sequence[Json],
    plot: str,
) -> str:
    """Markdown."""
    first = benches[0]
    where = first["versions"].get("gpu", first["target"])
    lines = [
        f"# Dynamic networks against the best static one, on {where}",
        "",
        "`laudc bench FILE.laud ... --json`, one run a batch, all variants interleaved in shuffled rounds; medians.",
        "Random weights, images and masks; the first block of each stage is static, the rates are of the others. Of",
        "every static variant, with norms folded and apart, the fastest counts. Versions: "
        + ", ".join(f"{name} {version}" for name, version in first["versions"].items()) + ".",
        "",
        *_grid(
            ("judged", "over", "ratio", "must", "aim", "", "ms", "of ms", "what was measured", "random"),
            ([one.what, one.over, _two(one.ratio), _two(one.must), _two(one.aim), one.verdict, _ms(one.ms),
              _ms(one.of_ms), one.name, one.random] for one in figures),
        ),
        "",
        f"![time over that of the best static network, by executed rate]({plot})",
    ]  # fmt: skip
    for bench in benches:
        lines += ["", *_bench_lines(bench)]
    if triton is not None:
        from triton_compare import table

        lines += ["", "#" + table(triton).rstrip()]
    if proofs or sanitized:
        lines += ["", "## Proof", ""]
    lines += [_proof_line(proof) for proof in proofs]
    lines += [line for one in sanitized for line in _sanitized_lines(one)]
    return "\n".join(lines) + "\n"


def _grid(heads: Sequence[str], rows: Iterator[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        "| --- " * len(heads) + "|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def _two(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _ms(number: float | None) -> str:
    return "" if number is None else digits(number)


def _bench_lines(bench: Json) -> Iterator[str]:
    best = bench["fastest_third_party"]
    limit = statistics.median(bench["static_ms"][best])

    def row(name: str, times: Sequence[float], executed: str, predicted: str, peak: int | None) -> list[str]:
        low, high = middle_half(times)
        median = statistics.median(times)
        memory = "" if peak is None else f"{peak / 1e6:.0f}"
        return [
            name,
            digits(median),
            f"{digits(low)} to {digits(high)}",
            executed,
            predicted,
            f"{median / limit:.2f}",
            memory,
        ]

    def rows() -> Iterator[list[str]]:
        for name, times in bench["static_ms"].items():
            yield row(f"static, {name}", times, "", "", bench["static_peak_bytes"][name])
        for network in bench["networks"]:
            for one in network["dynamic"]:
                name = f"{Path(network['file']).stem}, rate {one['rate']:g}"
                numbers = (f"{one['executed_rate']:.3f}", digits(one["predicted_ms"]), network["peak_bytes"])
                yield row(name, one["samples_ms"], *numbers)

    yield f"## {'x'.join(map(str, bench['shape']))}, {bench['dtype']}"
    yield ""
    yield f"Predictions {bench['calibration']}. The fastest static variant that is not laudc's: {best}."
    yield ""
    heads = ("variant", "ms", "middle half", "executed rate", "predicted ms", "of the best static", "peak MB")
    yield from _grid(heads, rows())
    yield ""
    yield from (f"- static by {name} was not run: {why}" for name, why in bench["not_run"].items())
    for network in bench["networks"]:
        rate = network["break_even_rate"]
        even = "" if rate is None else f"; break-even at an executed rate of {rate:.2f}"
        yield f"- {Path(network['file']).stem}: {network['verdict']}{even}; {_block_words(network)}"


def _block_words(network: Json) -> str:
    """How near the blocks were predicted, over all rates."""
    blocks = [
        (abs(times["predicted"] / times["measured"] - 1), block)
        for one in network["dynamic"]
        for block, times in one["blocks_ms"].items()
    ]
    if not blocks:
        return "no block was measured"
    error, worst = max(blocks)
    median = statistics.median(off for off, _ in blocks)
    return f"blocks predicted within {median:.0%} (median), at worst {error:.0%} ({worst})"


def _proof_line(proof: Json) -> str:
    parts = proof["parts"]
    replays = parts["replays"]
    worst = max(parts["errors"]["draws"], key=lambda draw: draw["error"] / draw["bar"])
    passed = ", ".join(f"{name} {'passed' if part['passed'] else 'FAILED'}" for name, part in parts.items())
    return (
        f"- {proof['network']} on {proof['device']}: {passed}. Worst error {worst['error']:.1e} of {worst['bar']:.1e} "
        f"(torch's own {worst['torch_error']:.1e}); {replays['replays']} replays, {replays['distinct_masks']} masks, "
        f"{replays['wrong']} wrong; {replays['repeats']} repeats, {replays['repeats_that_differ']} differ."
    )


def _sanitized_lines(sanitized: Json) -> Iterator[str]:
    for tool in sanitized["tools"]:
        counted = sum(one["count"] for one in tool["findings"] if one["modelled"])
        calls = sum(tool["calls_by_schedule"].values())
        equal = "output bit-equal" if tool["bit_equal"] else "output DIFFERS"
        yield f"- {sanitized['network']} under {tool['tool']}: {calls} kernel calls, {counted} findings, {equal}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="+", type=Path)
    parser.add_argument("--triton", type=Path)
    parser.add_argument("--proof", nargs="*", type=Path, default=[])
    parser.add_argument("--sanitize", nargs="*", type=Path, default=[])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks/h200")
    options = parser.parse_args()
    benches, proofs, sanitized = (
        [json.loads(path.read_text()) for path in paths] for paths in (options.benches, options.proof, options.sanitize)
    )
    triton = json.loads(options.triton.read_text()) if options.triton else None
    figures = judged(tomllib.loads(JUDGED.read_text())["row"], benches, triton)
    plot = options.output.with_name(f"{options.output.name}-rates.svg")
    title = "Time over that of the best static network"
    panels = {f"batch {bench['shape'][0]}": rate_lines(bench) for bench in benches}
    plot.write_bytes(ratio_plot(".svg", title, panels, x_label="executed rate", y_label="ratio"))
    text = page(figures, benches, triton=triton, proofs=proofs, sanitized=sanitized, plot=plot.name)
    options.output.with_suffix(".md").write_text(text)
    raw = {"benches": benches, "proofs": proofs, "sanitized": sanitized}
    options.output.with_name(f"{options.output.name}-bench.json").write_text(json.dumps(raw, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
