"""Figures of raw measurements: the ratios that are judged, lines over the rate, what each fusion brings."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

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
    return {
        Path(network["file"]).stem: _line(bench, network, "median_ms") for network in bench["networks"]
    } | _static_line(bench)


def curve_lines(bench: Json) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By network, the same measured and predicted."""
    return {
        Path(network["file"]).stem: {
            "measured": _line(bench, network, "median_ms"),
            "predicted": _line(bench, network, "predicted_ms"),
        }
        | _static_line(bench)
        for network in bench["networks"]
    }


def best_static_ms(bench: Json) -> float:
    """Of the fastest static network that is not laudc's."""
    return statistics.median(bench["static_ms"][bench["fastest_third_party"]])


def _line(bench: Json, network: Json, key: str) -> list[tuple[float, float]]:
    limit = best_static_ms(bench)
    return sorted((one["executed_rate"], one[key] / limit) for one in network["dynamic"])


def _static_line(bench: Json) -> dict[str, list[tuple[float, float]]]:
    if OURS not in bench["static_ms"]:
        return {}
    ours = statistics.median(bench["static_ms"][OURS]) / best_static_ms(bench)
    return {"static by laudc": [(0.0, ours), (1.0, ours)]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablated:
    """A network without a fusion ("" for none of them) at a rate; milliseconds, and those of the fused one."""

    network: str
    without: str
    rate: float
    ms: float
    fused_ms: float
    predicted_ms: float
    fused_predicted_ms: float


def ablated(bench: Json) -> list[Ablated]:
    """Of the networks that are named for what they are compiled without."""
    times = {
        (*_parted(network), one["rate"]): (one["median_ms"], one["predicted_ms"])
        for network in bench["networks"]
        for one in network["dynamic"]
    }
    return [
        Ablated(
            network=network,
            without=without,
            rate=rate,
            ms=ms,
            fused_ms=times[network, "", rate][0],
            predicted_ms=predicted,
            fused_predicted_ms=times[network, "", rate][1],
        )
        for (network, without, rate), (ms, predicted) in sorted(times.items())
    ]


def _parted(network: Json) -> tuple[str, str]:
    name, _, without = Path(network["file"]).stem.partition("-without-")
    return name, without
