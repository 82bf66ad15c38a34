"""How near the latency model comes: predicted against measured time of ResNet plans on this machine's CPU.

    laudc calibrate
    python scripts/latency_accuracy.py            measures, writes docs/benchmarks/latency-cpu.json and .md
    python scripts/latency_accuracy.py --table    only the table of the raw numbers that are there

The calibration has seen none of these networks. Beside all plans, the table gives those whose name's hash is even: a
split that was fixed before anything was fitted, and which no change of the model was looked at with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
from pathlib import Path

import torch

import laudc
from laudc.compiled import CompiledModel
from laudc.latency.constants import calibration_for
from laudc.latency.machine import local_target
from laudc.latency.measure import step_us
from laudc.latency.network import network_model
from laudc.rates import stratified_masks

ROOT = Path(__file__).resolve().parent.parent
RAW, TABLE = (ROOT / "docs/benchmarks" / f"latency-cpu.{kind}" for kind in ("json", "md"))
NETWORKS = ("resnet50", "resnet101")
BATCHES = (1, 8)
WAYS = (("layer", None), ("spatial", "4-4-2-1"), ("spatial", "8-4-7-1"), ("channel", "16"))
RATES = (0.1, 0.3, 0.5, 0.7, 1.0)


def held_out(plan: str) -> bool:
    """Half of the plans, by the hash of their names."""
    return hashlib.sha256(plan.encode()).digest()[0] % 2 == 0


def measure(rounds: int) -> dict[str, object]:
    import torchvision

    torch.manual_seed(0)
    target = local_target()
    calibration = calibration_for(target)
    plans = []
    for network in NETWORKS:
        model = torchvision.models.get_model(network, weights=None).eval()
        for paradigm, granularity in WAYS:
            dynamic = laudc.transform(model, paradigm=paradigm, granularity=granularity)
            for batch in BATCHES:
                compiled = laudc.compile(dynamic, "cpu", batch)
                priced = network_model(compiled.lowering.lowered)
                for rate in RATES:
                    name = f"{network} {paradigm} {granularity or ''} batch {batch} rate {rate:g}".replace("  ", " ")
                    masks = stratified_masks(compiled.mask_shapes, batch=batch, rate=rate, seed=1)
                    x = torch.randn(compiled.shape)
                    first, again = (step_us(compiled, x, masks, rounds=rounds) for _ in range(2))
                    whole = [_whole_us(compiled, x, masks, rounds) for _ in range(2)]
                    predicted = priced.given(calibration, masks)
                    blocks = sorted({call.block for call in priced.calls} - {""})
                    own = {block: [call.name for call in priced.calls if call.block == block] for block in blocks}
                    plans.append(
                        {
                            "plan": name,
                            "group": f"{network}, batch {batch}",
                            "held_out": held_out(name),
                            "measured_us": whole[0],
                            "again_us": whole[1],
                            "predicted_us": predicted.total_us,
                            "blocks": {
                                block: [
                                    sum(first[call] for call in own[block]),
                                    sum(again[call] for call in own[block]),
                                    predicted.blocks[block].total_us,
                                ]
                                for block in blocks
                            },
                        }
                    )
                    print(f"{name}: {whole[0] / 1e3:.2f} ms, predicted {predicted.total_us / 1e3:.2f}", flush=True)
    return {
        "machine": {"cpu": platform.processor(), "target": target.to_json(), "python": platform.python_version()},
        "calibration": calibration.to_json(),
        "calibrated": calibration.words,
        "rounds": rounds,
        "plans": plans,
    }


def _whole_us(compiled: CompiledModel, x: torch.Tensor, masks: dict[str, torch.Tensor], rounds: int) -> float:
    times = []
    for number in range(rounds + 2):
        start = time.perf_counter_ns()
        compiled.runner(x, masks)
        if number >= 2:
            times.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(times)


def _way(plan: dict[str, object]) -> str:
    """Paradigm and granularity."""
    return str(plan["plan"]).partition(" ")[2].partition(" batch")[0]


def table(raw: dict[str, object]) -> str:
    import numpy as np
    from scipy.stats import spearmanr

    plans: list[dict[str, object]] = raw["plans"]  # type: ignore[assignment]

    def row(title: str, some: list[dict[str, object]]) -> str:
        blocks = np.array([times for plan in some for times in plan["blocks"].values()])  # type: ignore[attr-defined]
        whole = np.array([[plan["measured_us"], plan["again_us"], plan["predicted_us"]] for plan in some])
        per_block, per_net = (np.abs(x[:, 2] / x[:, 0] - 1) for x in (blocks, whole))
        again_block, again_net = (np.abs(x[:, 1] / x[:, 0] - 1) for x in (blocks, whole))
        rank = f"{spearmanr(whole[:, 0], whole[:, 2]).statistic:.3f}" if title.startswith("resnet") else ""
        cells = [
            title,
            len(some),
            f"{np.median(per_block):.1%}",
            f"{np.quantile(per_block, 0.9):.1%}",
            f"{np.median(again_block):.1%}",
            f"{np.median(per_net):.1%}",
            f"{per_net.max():.1%}",
            f"{(per_net > 0.1).sum()}",
            f"{np.median(again_net):.1%}",
            rank,
        ]
        return "| " + " | ".join(map(str, cells)) + " |"

    groups = sorted({str(plan["group"]) for plan in plans})
    ways = sorted({_way(plan) for plan in plans})
    lines = [
        "# Predicted against measured latency on a CPU",
        "",
        "`laudc calibrate`, then `python scripts/latency_accuracy.py`. Random masks (stratified, a different one for",
        f"every sample), random images and weights; medians of {raw['rounds']} runs; the prediction is for the very",
        f"masks that were measured. Two cores of a shared virtual machine, {raw['calibrated']}. *Again*: the same",
        "measured a second time.",
        "",
        "| plans | number | block: median error | p90 | again | net: median error | worst | over 10 % | again | rank |",
        "| --- " * 10 + "|",
        row("all", plans),
        row("held out by hash", [plan for plan in plans if plan["held_out"]]),
        *(row(group, [plan for plan in plans if plan["group"] == group]) for group in groups),
        *(row(way, [plan for plan in plans if _way(plan) == way]) for way in ways),
        "",
        "| plan | measured ms | predicted ms | error |",
        "| --- " * 4 + "|",
    ]
    for plan in plans:
        measured, predicted = float(str(plan["measured_us"])), float(str(plan["predicted_us"]))
        lines.append(
            f"| {plan['plan']} | {measured / 1e3:.2f} | {predicted / 1e3:.2f} | {predicted / measured - 1:+.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--table", action="store_true", help="only write the table of the raw numbers that are there")
    options = parser.parse_args()
    if not options.table:
        RAW.write_text(json.dumps(measure(options.rounds), indent=1) + "\n")
    TABLE.write_text(table(json.loads(RAW.read_text())))
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
