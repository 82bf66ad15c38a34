"""Measure ResNet-50 on this CPU: every block dynamic, stratified random masks, against rate 1 and against torch.

    python scripts/bench_cpu.py [-o docs/benchmarks/cpu]      writes FILE.json (raw samples) and FILE.md (the table)

Batch 1, 224 x 224, float32, random weights (time does not depend on them once the rates are fixed). All variants
run in one process on the same threads, interleaved in shuffled rounds (`laudc.timing`); the figures are medians. Each
round has fresh masks. torch eager is the module itself in inference mode, in both memory formats; torch with its
norms folded is the fastest static network torch has without compiling it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import laudc
from laudc.flops import executed_macs, masker_fused
from laudc.kernels.cpu_features import detect_cpu

CASES = {"layer": None, "spatial": "4-4-2-1", "channel": "16"}
RATES = (1.0, 0.5, 0.0)
BARS = {"layer": 0.65, "spatial": 0.75, "channel": 0.62}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/cpu"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--network", default="resnet50")
    options = parser.parse_args()

    import torch
    import torchvision

    from laudc.models import condition_random
    from laudc.rates import stratified_masks
    from laudc.static_network import in_torch
    from laudc.timing import interleaved_ms

    torch.manual_seed(0)
    model = torchvision.models.get_model(options.network, weights=None).eval()
    image = torch.randn(1, 3, 224, 224)
    variants: dict[str, Callable[[int], object]] = {}
    ratios: dict[str, float] = {}
    for paradigm, granularity in CASES.items():
        dynamic = laudc.transform(model, image, paradigm=paradigm, granularity=granularity).eval()
        condition_random(dynamic.program)
        compiled = laudc.compile(dynamic, "cpu")
        shapes = compiled.mask_shapes
        for rate in RATES:
            pool = [stratified_masks(shapes, batch=1, rate=rate, seed=0, call=call) for call in range(options.rounds)]
            variants[f"{paradigm} {rate:g}"] = lambda call, compiled=compiled, pool=pool: compiled(image, pool[call])
            fused = masker_fused(compiled.lowering.lowered)
            spent = [executed_macs(dynamic.program, masks, masker_fused=fused) for masks in pool]
            ratios[f"{paradigm} {rate:g}"] = statistics.mean(spent) / dynamic.static_macs()
    static = laudc.compile(model, "cpu")
    variants["static, compiled by laudc"] = lambda call: static(image)
    for name, network in in_torch(static.lowering.converted, dtype=torch.float32, device="cpu").items():
        variants[f"{name}, norms folded"] = lambda call, network=network: network(image)
    variants["torch eager"] = lambda call: model(image)
    last = torchvision.models.get_model(options.network, weights=None).eval().to(memory_format=torch.channels_last)
    variants["torch eager, channels_last"] = lambda call: last(image.contiguous(memory_format=torch.channels_last))

    with torch.inference_mode():
        samples = interleaved_ms(variants, rounds=options.rounds)
    cpu = detect_cpu()
    facts = {
        "command": f"python scripts/bench_cpu.py --rounds {options.rounds} --network {options.network}",
        "network": options.network,
        "cpu": cpu.name,
        "lanes": cpu.vector_lanes_fp32,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "laudc": laudc.__version__,
    }
    text = table(samples, ratios, facts)
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    raw = {"facts": facts, "flop_ratio": ratios, "samples_ms": samples}
    options.output.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(text)


def table(samples: dict[str, list[float]], ratios: dict[str, float], facts: dict[str, object]) -> str:
    """The figures as Markdown."""
    medians = {name: statistics.median(times) for name, times in samples.items()}
    eager = min(value for name, value in medians.items() if name.startswith("torch eager"))
    best = min(value for name, value in medians.items() if name.startswith(("torch", "static")))
    lines = [
        f"# {facts['network']} on a CPU ({facts['cpu']}, {facts['threads']} threads, float32, batch 1)",
        "",
        f"`{facts['command']}`, torch {facts['torch']}. Random weights, stratified random masks, every block dynamic,",
        "medians of interleaved rounds in one process (in brackets the middle half).",
        "",
        "| variant | ms | FLOP ratio | against its own rate 1 | bar | against eager | against the fastest static |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, times in samples.items():
        low, _, high = statistics.quantiles(times, n=4)
        paradigm, _, rate = name.partition(" ")
        own = f"{medians[name] / medians[f'{paradigm} 1']:.2f}" if paradigm in CASES else ""
        bars = {"0.5": f"<= {BARS.get(paradigm)} of rate 1", "1": "<= 2.5 of eager"} if paradigm in CASES else {}
        cells = (
            name,
            f"{medians[name]:.1f} ({low:.1f} to {high:.1f})",
            f"{ratios[name]:.2f}" if name in ratios else "",
            own,
            bars.get(rate, ""),
            f"{medians[name] / eager:.2f}",
            f"{medians[name] / best:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    slower = [name for name in ratios if medians[name] > best]
    lines += ["", f"Slower than the fastest static network: {', '.join(slower) or 'none'}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
