"""The plans of ResNet-50 and ResNet-101 for two devices side by side, with the reasons where they differ.

python scripts/compare_plans.py            writes docs/benchmarks/plans.md
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from laudc.commands._planning import search_for, wanted_network
from laudc.latency._time import Time
from laudc.latency.planner import MARGIN, BlockChoice, Search, choose_blocks, plan_of, whole_network

TABLE = Path(__file__).resolve().parent.parent / "docs/benchmarks/plans.md"
NETWORKS = ("resnet50", "resnet101")
DEVICES = (("v100", 128), ("jetson-tx2", 1))
RATE = 0.5


def described(choice: BlockChoice) -> str:
    return f"{choice.chosen.words}, {choice.chosen.ratio:.2f}" if choice.chosen else "static"


def reason(choices: tuple[BlockChoice, BlockChoice]) -> str:
    """What the other device's choice would cost here, and in which term."""
    parts = []
    for (name, _), mine, other in zip(DEVICES, choices, reversed(choices), strict=True):
        wanted = other.chosen.words if other.chosen else "static"
        time = mine.chosen.time if mine.chosen else mine.static
        there = next((one for one in mine.weighed if one.words == wanted), None)
        if there is None:
            parts.append(f"{name}: static is 1.00")
        elif there.ratio <= (mine.chosen.ratio if mine.chosen else 1.0) * (1 + MARGIN):
            parts.append(f"{name}: {wanted} ({there.ratio:.2f}) is within the margin, with {there.decisions} decisions")
        else:
            more = there.time.beyond(time)
            terms = {field.name: getattr(more, field.name) for field in fields(Time)}
            most = max(terms, key=lambda term: terms[term])
            share = terms[most] / mine.static.total_us
            term = most.removesuffix("_us").replace("_", "-")
            parts.append(f"{name}: {wanted} ({there.ratio:.2f}) takes {share:.2f} more in {term}")
    return "; ".join(parts)


def section(network: str) -> list[str]:
    model, program = wanted_network(network, None)
    searches: list[Search] = [
        search_for(program, target, batch=batch, rate=RATE, paradigm="auto", margin=MARGIN, dtype=None)
        for target, batch in DEVICES
    ]
    choices = [choose_blocks(program, search) for search in searches]
    lines = [f"## {model}", "", "| | " + " | ".join(name for name, _ in DEVICES) + " |", "| --- | --- | --- |"]
    for title, index in (("static, ms", 0), ("planned, ms", 1)):
        times = [
            whole_network(program, plan_of(own, search), search) for own, search in zip(choices, searches, strict=True)
        ]
        lines.append(f"| {title} | " + " | ".join(f"{time[index].total_us / 1e3:.3g}" for time in times) + " |")
    heads = " | ".join(f"{name}, batch {batch}" for name, batch in DEVICES)
    lines += ["", f"| block | {heads} | why they differ |", "| --- | --- | --- | --- |"]
    for pair in zip(*choices, strict=True):
        differs = described(pair[0]).split(",")[0] != described(pair[1]).split(",")[0]
        cells = [pair[0].block, *map(described, pair), reason(pair) if differs else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def main() -> None:
    lines = [
        "# Two devices, two plans",
        "",
        "`python scripts/compare_plans.py`: `laudc plan` for ResNet-50 and -101 at rate 0.5, paradigm auto. Of each",
        "block the choice and its predicted ratio to the static block. Both devices are uncalibrated: their constants",
        "are estimates. Where the choices differ: what the other device's would be here, and the term in which it",
        f"takes more, as a share of the static block. Within {MARGIN:.0%} of the fastest, the finest is chosen.",
        "",
    ]
    for network in NETWORKS:
        lines += section(network)
    TABLE.write_text("\n".join(lines))
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
