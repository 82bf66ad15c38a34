"""How near the latency model comes: predicted against measured time of ResNet plans on the device that is here.

    laudc calibrate
    python scripts/latency_accuracy.py            measures, writes docs/benchmarks/latency-cpu.json and .md
    python scripts/latency_accuracy.py --price    predicts anew what was measured, such as after a change of the model
    python scripts/latency_accuracy.py --table    only the table of the raw numbers that are there

    python scripts/latency_accuracy.py --target h200 --build                       anywhere: all kernels, into the cache
    python scripts/latency_accuracy.py --target h200 --calibration FOLDER -o DIR   on the device, in float16

The calibration has seen none of these networks. Beside all plans, the table gives those whose name's hash is even: a
split that was fixed before anything was fitted. One constant, `listed_us`, is not fitted but set by such networks.

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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import Manager, get_context
from pathlib import Path
from typing import Any

import torch

import laudc
from laudc.compiled import CompiledModel, Lowering, lower
from laudc.dynamic_model import DynamicModel, mask_shapes
from laudc.errors import InputError
from laudc.latency.constants import Calibration, calibration_for
from laudc.latency.machine import here, local_target
from laudc.latency.measure import LEAST_REPLAYS, step_us
from laudc.latency.network import Priced, network_model
from laudc.latency.probe import build_probes
from laudc.models import condition_random
from laudc.program import input_type
from laudc.rates import MaskShape, stratified_masks
from laudc.targets import Target, load_target
from laudc.timing import host_ms

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("resnet50", "resnet101")
BATCHES = {"cpu": (1, 8), "cuda": (1, 8, 128)}
WAYS = (("layer", None), ("spatial", "4-4-2-1"), ("spatial", "8-4-7-1"), ("channel", "16"))
RATES = (0.1, 0.3, 0.5, 0.7, 1.0)
_FOLDER = "LAUDC_CALIBRATION"


def held_out(plan: str) -> bool:
    """Half of the plans, by the hash of their names."""
    return hashlib.sha256(plan.encode()).digest()[0] % 2 == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One network, converted one way, at one batch."""

    network: str
    paradigm: str
    granularity: str | None
    batch: int

    @property
    def words(self) -> str:
        return f"{self.network} {self.paradigm} {self.granularity or ''}".strip()


def cases_of(networks: Sequence[str], batches: Sequence[int]) -> list[Case]:
    return [
        Case(network=network, paradigm=paradigm, granularity=granularity, batch=batch)
        for network, (paradigm, granularity), batch in product(networks, WAYS, batches)
    ]


def dynamic(case: Case) -> DynamicModel:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(case.network, weights=None).eval()
    found = laudc.transform(model, paradigm=case.paradigm, granularity=case.granularity)
    condition_random(found.program)
    return found


def measure(
    case: Case, target: str, rounds: int, folder: Path | None, turn: AbstractContextManager[object]
) -> dict[str, Any]:
    """The case at every rate, in its turn on the device, and what is predicted."""
    model = laudc.compile(dynamic(case), target, case.batch)
    model_steps = model.lowering.executable.steps
    found = []
    with turn:
        x = torch.randn(model.shape).to(model.target.kind)
        step_us(model, x, {}, rounds=rounds)  # until the device has its clock
        for rate in RATES:
            masks = stratified_masks(model.mask_shapes, batch=case.batch, rate=rate, seed=1)
            masks = {key: mask.to(model.target.kind) for key, mask in masks.items()}
            first, again = (step_us(model, x, masks, rounds=rounds) for _ in range(2))
            name = f"{case.words} batch {case.batch} rate {rate:g}"
            # on a GPU the kernels' times add up to the graph's; what the host does around it is no matter of ours
            on_gpu = model.target.kind == "cuda"
            whole = [sum(us.values()) if on_gpu else _whole_us(model, x, masks, rounds) for us in (first, again)]
            blocks = sorted({step.block for step in model_steps} - {""})
            own = {block: [step.name for step in model_steps if step.block == block] for block in blocks}
            found.append(
                {
                    "plan": name,
                    "group": f"{case.network}, batch {case.batch}",
                    "held_out": held_out(name),
                    "measured_us": whole[0],
                    "again_us": whole[1],
                    "blocks": {
                        block: [sum(us[call] for call in own[block]) for us in (first, again)] for block in blocks
                    },
                    "calls": {call: round(us, 2) for call, us in first.items()},
                    "rate": rate,
                }
            )
            print(f"{name}: {whole[0] / 1e3:.3f} ms", flush=True)
    measured: dict[str, Any] = {
        "case": asdict(case),
        "schedules": {step.name: step.kernel.schedule for step in model_steps},
        "tiles": {step.name: dict(step.kernel.choice) for step in model_steps},
        "plans": found,
    }
    price(measured, model.lowering, model.mask_shapes, calibrated(target, folder))
    return measured


def measure_all(
    cases: Sequence[Case], target: str, rounds: int, folder: Path | None, jobs: int
) -> list[dict[str, Any]]:
    """Every case. Networks are prepared by so many processes at once, and measured one at a time."""
    if jobs == 1:
        return [measure(case, target, rounds, folder, nullcontext()) for case in cases]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool, Manager() as manager:
        turn = manager.Lock()
        waiting = [pool.submit(measure, case, target, rounds, folder, turn) for case in cases]
        return [one.result() for one in waiting]


def price(measured: dict[str, Any], lowering: Lowering, shapes: Sequence[MaskShape], calibration: Calibration) -> None:
    """Put the predictions beside what was measured: for those masks and the tiles that ran. InputError where other
    kernels ran."""
    network = network_model(lowering.lowered)
    _refuse_other_kernels(measured, network.calls)
    tiles = measured["tiles"]
    calls = [replace(call, kernel=replace(call.kernel, choice=tiles[call.name])) for call in network.calls]
    network = replace(network, calls=tuple(calls))
    for plan in measured["plans"]:
        masks = stratified_masks(shapes, batch=measured["case"]["batch"], rate=plan["rate"], seed=1)
        predicted = network.given(calibration, masks)
        plan["predicted_us"] = predicted.total_us
        for block, times in plan["blocks"].items():
            times[2:] = [predicted.blocks[block].total_us]


def _refuse_other_kernels(measured: dict[str, Any], calls: Sequence[Priced]) -> None:
    """InputError unless these calls, by these schedules, are those that ran."""
    tiles, names = measured["tiles"], {call.name for call in calls}
    other = [*(call.name for call in calls if not _ran(measured, call)), *(name for name in tiles if name not in names)]
    if other:
        how = f"other kernels: {len(other)} differ, such as {other[0]}" if tiles else "kernels that it does not name"
        case = Case(**measured["case"])
        raise InputError(
            f"{case.words} batch {case.batch} was measured with {how}", "measure it again, without --price"
        )


def _ran(measured: dict[str, Any], call: Priced) -> bool:
    """Whether this call was measured, by its schedule; older raw numbers tell that by its tile's options alone."""
    kernel = call.kernel
    options = {name for choice in kernel.plan.choices(kernel.work, kernel.target) for name in choice}
    tile = measured["tiles"].get(call.name)
    schedule = measured.get("schedules", {}).get(call.name, kernel.schedule)
    return tile is not None and tile.keys() <= options and schedule == kernel.schedule


def price_again(cases: Sequence[dict[str, Any]], target: str, folder: Path | None) -> None:
    """The same without the device."""
    for measured in cases:
        case = Case(**measured["case"])
        model = dynamic(case)
        shape = (case.batch, *input_type(model.program).shape[1:])
        known = load_target(target)
        lowering = lower(model.program, known, plan=model.plan, shape=shape, dtype=known.default_dtype, without=())
        shapes = mask_shapes(lowering.converted, model.plan)
        price(measured, lowering, shapes, calibrated(target, folder))


def calibrated(target: str, folder: Path | None) -> Calibration:
    """What is known of the device, or what is in that folder of it."""
    with _calibrated(folder):
        return calibration_for(here(load_target(target)))


def _whole_us(model: CompiledModel, x: torch.Tensor, masks: dict[str, torch.Tensor], rounds: int) -> float:
    model.runner(x, masks)
    times = [host_ms(lambda: model.runner(x, None)) for _ in range(rounds + 2)]
    return 1e3 * statistics.median(times[2:])


def _machine(target: Target) -> dict[str, object]:
    gpu = {"gpu": torch.cuda.get_device_name()} if target.kind == "cuda" else {}
    return {"cpu": platform.processor(), "target": target.to_json(), "python": platform.python_version(), **gpu}


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

    plans: list[dict[str, object]] = [plan for case in raw["cases"] for plan in case["plans"]]  # type: ignore[attr-defined]

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
    runs = f"{raw['rounds']} replays of a CUDA graph" if gpu else f"{raw['rounds']} runs"
    times = f"Times are {'means of the middle half' if gpu else 'medians'} of {runs}"
    lines = [
        f"# Predicted against measured latency on {f'{gpu}, float16' if gpu else 'a CPU'}",
        "",
        "`laudc calibrate`, then `python scripts/latency_accuracy.py`. Random masks (stratified, a different one for",
        "every sample), random images and weights; the prediction is for the very masks that were measured.",
        f"{where}, {raw['calibrated']}.",
        f"{times}. *Again*: the same measured a second time.",
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
    parser.add_argument("--batches", nargs="+", type=int, help="by default 1 and 8 on a CPU, 1, 8 and 128 on a GPU")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calibration", type=Path, help="a folder, in place of the device's own calibration")
    parser.add_argument("--build", action="store_true", help="only build the kernels")
    parser.add_argument("--price", action="store_true", help="measure nothing, predict anew what was measured")
    parser.add_argument("--jobs", type=int, default=1, help="processes that prepare networks; one measures at a time")
    parser.add_argument("--table", action="store_true", help="only write the table of the raw numbers that are there")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    raw_path, table_path = (options.output / f"latency-{options.target}.{kind}" for kind in ("json", "md"))
    cases = cases_of(options.networks, options.batches or BATCHES[load_target(options.target).kind])
    if options.build:
        build_probes(load_target(options.target), print)
        for case in cases:
            kernels = laudc.compile(dynamic(case), options.target, case.batch).binaries
            print(f"{case.words} batch {case.batch}: {len(kernels)} kernels", flush=True)
        return
    raw: dict[str, Any]
    if options.table or options.price:
        raw = json.loads(raw_path.read_text())
    else:
        least = LEAST_REPLAYS if load_target(options.target).kind == "cuda" else 1
        rounds = max(options.rounds, least)
        found = measure_all(cases, options.target, rounds, options.calibration, options.jobs)
        raw = {"machine": _machine(local_target()), "rounds": rounds, "cases": found}
    if options.price:
        try:
            price_again(raw["cases"], options.target, options.calibration)
        except InputError as error:
            parser.exit(error.exit_code, f"{error}\n")
    if not options.table:
        calibration = calibrated(options.target, options.calibration)
        raw |= {"calibration": calibration.to_json(), "calibrated": calibration.words}
        raw_path.write_text(json.dumps(raw, separators=(",", ":")) + "\n")
    table_path.write_text(table(json.loads(raw_path.read_text())))
    print(table_path.read_text())


if __name__ == "__main__":
    main()
