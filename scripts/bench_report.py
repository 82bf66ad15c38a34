"""Turn raw measurements into a page and its plots; nothing is measured here.

    python scripts/bench_report.py FOLDER -o docs/benchmarks/h200

FOLDER is what `gpu_all` fills; a part that is not there is left out. PART.json is what `laudc bench FILE.laud ...
--json` printed; triton.json, proof-*.json, sanitize-*.json and latency-TARGET.md are what the scripts of those names
wrote. Writes h200.md, h200-rates.svg, h200-curves.svg and the raw samples as h200-bench.json. What is judged first
stands in docs/benchmarks/judged.toml.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_figures import OURS, Json, ablated, best_static_ms, curve_lines, judged, rate_lines

from laudc.report.plots import Lines, ratio_plot
from laudc.timing import digits, middle_half

ROOT = Path(__file__).resolve().parent.parent
JUDGED = ROOT / "docs/benchmarks/judged.toml"
TITLES = {"b128": "Batch 128", "b8": "Batch 8", "b1": "Batch 1"}
"""Of the parts that are judged."""
FURTHER_TITLES = {
    "resnet50": "ResNet-50",
    "granularity": "Granularity",
    "ways-b8": "The three paradigms at batch 8",
    "ways-b32": "The three paradigms at batch 32",
    "curves": "Time over the rate",
    "fusion": "What each fusion brings",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """What a folder holds; benches by part."""

    judged: Mapping[str, Json]
    further: Mapping[str, Json]
    triton: Json | None
    proofs: Sequence[Json]
    sanitized: Sequence[Json]
    accuracy: Sequence[Path]
    """Pages of their own, beside which their raw numbers lie."""

    @classmethod
    def of(cls, folder: Path) -> Raw:
        def read(*patterns: str) -> dict[str, Json]:
            found = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
            return {path.stem: json.loads(path.read_text()) for path in found}

        return cls(
            judged=read(*(f"{part}.json" for part in TITLES)),
            further=read(*(f"{part}.json" for part in FURTHER_TITLES)),
            triton=read("triton.json").get("triton"),
            proofs=list(read("proof-*.json").values()),
            sanitized=list(read("sanitize*.json").values()),
            accuracy=sorted(folder.glob("latency-*.md")),
        )

    def to_json(self) -> Json:
        """Without the accuracy, which has a file of its own."""
        return {
            "benches": {**self.judged, **self.further},
            "triton": self.triton,
            "proofs": self.proofs,
            "sanitized": self.sanitized,
        }


def page(raw: Raw, *, stem: str) -> str:
    """Markdown; the plots are named `stem`-rates.svg and `stem`-curves.svg."""
    first = next(iter({**raw.judged, **raw.further}.values()))
    where = first["versions"].get("gpu", first["target"])
    figures = judged(tomllib.loads(JUDGED.read_text())["row"], list(raw.judged.values()), raw.triton)
    lines = [
        f"# Dynamic networks against the best static one, on {where}",
        "",
        "`laudc bench FILE.laud ... --json`, one run a section, all variants interleaved in shuffled rounds; medians.",
        "Random weights, images and masks; the first block of each stage is static, the rates are of the others. Of",
        "every static variant, with norms folded and apart, the fastest counts. Versions: "
        + ", ".join(f"{name} {version}" for name, version in first["versions"].items()) + ".",
        "",
        *_grid(
            ("judged", "over", "ratio", "must", "aim", "", "ms", "of ms", "what was measured", "random"),
            ([one.what, one.over, _two(one.ratio), _two(one.must), _two(one.aim), one.verdict, _ms(one.ms),
              _ms(one.of_ms), one.name, one.random] for one in figures),
        ),
    ]  # fmt: skip
    if raw.judged:
        lines += ["", f"![time over that of the best static network, by executed rate]({stem}-rates.svg)"]
    for part, bench in raw.judged.items():
        lines += ["", *_bench_lines(TITLES[part], bench)]
    if raw.triton is not None:
        from triton_compare import table

        lines += ["", "#" + table(raw.triton).rstrip()]
    if raw.proofs or raw.sanitized:
        lines += ["", "## Proof", ""]
    lines += [_proof_line(proof) for proof in raw.proofs]
    lines += [line for one in raw.sanitized for line in _sanitized_lines(one)]
    if raw.accuracy:
        links = ", ".join(f"[{path.name}]({path.name})" for path in raw.accuracy)
        lines += ["", "## Predictions", "", f"How near they come, block by block: {links}."]
    for part, bench in raw.further.items():
        make_lines = _fusion_lines if part == "fusion" else _bench_lines
        lines += ["", *make_lines(FURTHER_TITLES[part], bench)]
        if part == "curves":
            lines += ["", f"![measured and predicted time over the executed rate]({stem}-curves.svg)"]
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


def _headed(title: str, bench: Json) -> Iterator[str]:
    yield f"## {title}: {'x'.join(map(str, bench['shape']))}, {bench['dtype']}"
    yield ""
    yield (
        f"Random weights, {bench['random']}. Predictions {bench['calibration']}. The fastest static variant that is "
        f"not laudc's: {bench['fastest_third_party']}, {digits(best_static_ms(bench))} ms."
    )
    yield ""


def _fusion_lines(title: str, bench: Json) -> Iterator[str]:
    """Without each optional pass: what the paper's table 1 asks."""
    yield from _headed(title, bench)
    heads = ("network", "without", "rate", "ms", "of the fused", "predicted ms", "of the fused, predicted")
    yield from _grid(
        heads,
        (
            [
                one.network,
                one.without or "nothing",
                f"{one.rate:g}",
                digits(one.ms),
                _two(one.ms / one.fused_ms),
                digits(one.predicted_ms),
                _two(one.predicted_ms / one.fused_predicted_ms),
            ]
            for one in ablated(bench)
        ),
    )
    if OURS in bench["static_ms"]:
        yield ""
        yield f"Static by laudc: {digits(statistics.median(bench['static_ms'][OURS]))} ms."


def _bench_lines(title: str, bench: Json) -> Iterator[str]:
    limit = best_static_ms(bench)

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

    yield from _headed(title, bench)
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
    every = [(block, times) for one in network["dynamic"] for block, times in one["blocks_ms"].items()]
    blocks = [(abs(times["predicted"] / times["measured"] - 1), block) for block, times in every if times["measured"]]
    short = f"; {len(every) - len(blocks)} of {len(every)} too short to measure" if len(blocks) < len(every) else ""
    if not blocks:
        return f"no block was measured{short}"
    error, worst = max(blocks)
    median = statistics.median(off for off, _ in blocks)
    return f"blocks predicted within {median:.0%} (median), at worst {error:.0%} ({worst}){short}"


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
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks/h200")
    options = parser.parse_args()
    output, raw = options.output, Raw.of(options.folder)
    if not (raw.judged or raw.further):
        parser.error(f"{options.folder} holds no bench; run scripts/gpu_all {options.folder} on the device")

    def plot(name: str, title: str, panels: Mapping[str, Lines]) -> None:
        drawn = ratio_plot(".svg", title, panels, x_label="executed rate", y_label="ratio")
        output.with_name(f"{output.name}-{name}.svg").write_bytes(drawn)

    title = "Time over that of the best static network"
    if raw.judged:
        plot("rates", title, {TITLES[part].lower(): rate_lines(bench) for part, bench in raw.judged.items()})
    if "curves" in raw.further:
        plot("curves", title, curve_lines(raw.further["curves"]))
    for path in raw.accuracy:
        for name in (path.name, path.with_suffix(".json").name):
            shutil.copy(options.folder / name, output.parent)
    text = page(raw, stem=output.name)
    output.with_suffix(".md").write_text(text)
    output.with_name(f"{output.name}-bench.json").write_text(json.dumps(raw.to_json(), indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
