"""How near the latency model comes: predicted against measured time of ResNet plans on the device that is here.

    laudc calibrate
    python scripts/latency_accuracy.py            measures, writes docs/benchmarks/latency-cpu.json and .md
    python scripts/latency_accuracy.py --table    only the table of the raw numbers that are there

    python scripts/latency_accuracy.py --target h200 --build                       anywhere: all kernels, into the cache
    python scripts/latency_accuracy.py --target h200 --calibration FOLDER -o DIR   on the device, in float16

The calibration has seen none of these networks. Beside all plans, the table gives those whose name's hash is even: a
split that was fixed before anything was fitted, and which no change of the model was looked at with.

Where TVM's compiler is absent (only its runtime), a new calibration would choose tiles that nobody built. --calibration
then prices by the one in that folder what was compiled without it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

import laudc
from laudc.compiled import CompiledModel
from laudc.latency.calibration import probes
from laudc.latency.constants import calibration_for
from laudc.latency.machine import local_target
from laudc.latency.measure import step_us
from laudc.latency.network import network_model
from laudc.models import condition_random
from laudc.rates import stratified_masks
from laudc.targets import load_target
from laudc.timing import cuda_ms, host_ms

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("resnet50", "resnet101")
BATCHES = {"cpu": (1, 8), "cuda": (8, 128)}
WAYS = (("layer", None), ("spatial", "4-4-2-1"), ("spatial", "8-4-7-1"), ("channel", "16"))
RATES = (0.1, 0.3, 0.5, 0.7, 1.0)
_FOLDER = "LAUDC_CALIBRATION"


def held_out(plan: str) -> bool:
    """Half of the plans, by the hash of their names."""
    return hashlib.sha256(plan.encode()).digest()[0] % 2 == 0


def compiled_plans(target: str, networks: Sequence[str], batches: Sequence[int]) -> Iterator[tuple[str, CompiledModel]]:
    """By network and way."""
    import torchvision

    torch.manual_seed(0)
    for network in networks:
        model = torchvision.models.get_model(network, weights=None).eval()
        for paradigm, granularity in WAYS:
            dynamic = laudc.transform(model, paradigm=paradigm, granularity=granularity)
            condition_random(dynamic.program)
            for batch in batches:
                yield f"{network} {paradigm} {granularity or ''}".strip(), laudc.compile(dynamic, target, batch)


def measure(plans_of: Iterable[tuple[str, CompiledModel]], rounds: int, folder: Path | None) -> dict[str, object]:
    """Every plan at every rate; `folder` holds the calibration to price by, in place of the device's own."""
    target = local_target()
    plans = []
    for words, compiled in plans_of:
        with _calibrated(folder):
            calibration = calibration_for(target)
        batch, network = compiled.shape[0], words.split()[0]
        priced = network_model(compiled.lowering.lowered)
        x = torch.randn(compiled.shape).to(target.kind)
        for rate in RATES:
            name = f"{words} batch {batch} rate {rate:g}"
            masks = stratified_masks(compiled.mask_shapes, batch=batch, rate=rate, seed=1)
            here = {key: mask.to(target.kind) for key, mask in masks.items()}
            first, again = (step_us(compiled, x, here, rounds=rounds) for _ in range(2))
            whole = [_whole_us(compiled, x, here, rounds) for _ in range(2)]
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
        "machine": {"cpu": platform.processor(), "target": target.to_json(), "python": platform.python_version()}
        | ({"gpu": torch.cuda.get_device_name()} if target.kind == "cuda" else {}),
        "calibration": calibration.to_json(),
        "calibrated": calibration.words,
        "rounds": rounds,
        "plans": plans,
    }


def _whole_us(compiled: CompiledModel, x: torch.Tensor, masks: dict[str, torch.Tensor], rounds: int) -> float:
    clock = cuda_ms if x.is_cuda else host_ms
    compiled.runner(x, masks)
    times = [clock(lambda: compiled.runner(x, None)) for _ in range(rounds + 2)]
    return 1e3 * statistics.median(times[2:])


@contextmanager
def _calibrated(folder: Path | None) -> Iterator[None]:
    """Inside, calibrations are read from that folder."""
    before = os.environ.get(_FOLDER)
    if folder is not None:
        os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_FOLDER, None)
        if before is not None:
            os.environ[_FOLDER] = before


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
    machine: dict[str, str] = raw["machine"]  # type: ignore[assignment]
    gpu = machine.get("gpu")
    where = gpu or "Two cores of a shared virtual machine"
    lines = [
        f"# Predicted against measured latency on {f'{gpu}, float16' if gpu else 'a CPU'}",
        "",
        "`laudc calibrate`, then `python scripts/latency_accuracy.py`. Random masks (stratified, a different one for",
        f"every sample), random images and weights; medians of {raw['rounds']} runs; the prediction is for the very",
        f"masks that were measured. {where}, {raw['calibrated']}. *Again*: the same",
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
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, help="by default 1 and 8 on a CPU, 8 and 128 on a GPU")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calibration", type=Path, help="a folder, in place of the device's own calibration")
    parser.add_argument("--build", action="store_true", help="only build the kernels")
    parser.add_argument("--table", action="store_true", help="only write the table of the raw numbers that are there")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    raw_path, table_path = (options.output / f"latency-{options.target}.{kind}" for kind in ("json", "md"))
    if not options.table:
        batches = options.batches or BATCHES[load_target(options.target).kind]
        plans = compiled_plans(options.target, options.networks, batches)
        if options.build:
            probes(load_target(options.target), print)
            for words, compiled in plans:
                print(f"{words} batch {compiled.shape[0]}: {len(compiled.binaries)} kernels", flush=True)
            return
        raw_path.write_text(json.dumps(measure(plans, options.rounds, options.calibration), indent=1) + "\n")
    table_path.write_text(table(json.loads(raw_path.read_text())))
    print(table_path.read_text())


if __name__ == "__main__":
    main()
