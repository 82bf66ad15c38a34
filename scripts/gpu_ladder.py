"""Climb the equality ladder on the GPU that is here, for real networks with random weights.

    python scripts/gpu_ladder.py --build h200      anywhere: build the kernels into the cache ($LAUDC_CACHE)
    python scripts/gpu_ladder.py h200 -o FILE      on the device: climb, write the raw errors as JSON lines
    python scripts/gpu_ladder.py h200 --table FILE       anywhere: the table of such a file

Where TVM's compiler is absent (only its runtime), the second finds its kernels in the cache of the first.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import laudc
from laudc.ladder import climb
from laudc.testing import PreactivatedNet

GRANULARITY = {"spatial": "4", "layer": None, "channel": "16", "spatial+channel": "4+32"}
"""Named, since what is planned differs from machine to machine."""

CASES = [
    # network, paradigm, data type, batch, size
    ("resnet18", "spatial+channel", "float16", 3, (200, 232)),
    ("resnet18", "layer, first blocks kept on", "float16", 3, (200, 232)),
    ("resnet50", "spatial", "float16", 4, (224, 224)),
    ("resnet50", "layer", "float16", 4, (224, 224)),
    ("resnet50", "channel", "float16", 4, (224, 224)),
    ("resnet50", "spatial+channel", "float16", 1, (224, 224)),
    ("resnet50", "spatial", "float32", 2, (224, 224)),
    ("resnext50_32x4d", "spatial+channel", "float16", 2, (224, 224)),
    ("resnet101", "layer", "float16", 8, (224, 224)),
    ("resnet50", "spatial", "tf32", 4, (224, 224)),
    ("resnet50", "channel", "tf32", 4, (224, 224)),
    ("preactivated", "spatial", "float16", 4, (224, 224)),
    ("preactivated", "spatial+channel", "float32", 2, (200, 232)),
]
OWN = {"preactivated": PreactivatedNet}
"""Those that torchvision has not."""


def table(target: str, rows: list[dict[str, object]]) -> str:
    """The worst error of each case and rung as Markdown."""
    lines = [
        f"# The equality ladder on {target}",
        "",
        f"`python scripts/gpu_ladder.py {target}`: random weights (conditioned), random images and masks,",
        "a different mask for every sample, poisoned buffers. Errors: largest difference over largest magnitude.",
        "",
        "| network | paradigm | data type | batch | size | rungs | passed | worst kernel | whole network | bar |",
        "| --- " * 10 + "|",
    ]
    keys = ("network", "paradigm", "dtype", "batch", "size")
    cases = {tuple(str(row[key]) for key in keys): row for row in rows}
    for case in cases:
        own = [row for row in rows if tuple(str(row[key]) for key in keys) == case]
        worst = {
            name: max((row for row in own if row["name"] == name), key=lambda row: float(str(row["error"])))
            for name in ("kernel", "compiled")
        }
        cells = [*case, len(own), sum(bool(row["passed"]) for row in own), f"{worst['kernel']['error']:.1e}"]
        cells += [f"{worst['compiled']['error']:.1e}", f"{worst['compiled']['bar']:.1e}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--build", action="store_true", help="only build the kernels")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-ladder.jsonl"))
    parser.add_argument("--table", type=Path, help="only print the table of a file of raw errors")
    options = parser.parse_args()
    if options.table:
        print(table(options.target, [json.loads(line) for line in options.table.read_text().splitlines()]))
        return
    import torchvision  # after laudc, which repairs it

    from laudc.models import condition_random

    lines = []
    for network, paradigm, dtype, batch, size in CASES:
        import torch

        torch.manual_seed(0)
        model = OWN[network]() if network in OWN else torchvision.models.get_model(network, weights=None)
        skipped, _, keep_first = paradigm.partition(", ")
        dynamic = laudc.transform(
            model.eval(),
            torch.randn(1, 3, *size),
            paradigm=skipped,
            granularity=GRANULARITY[skipped],
            keep_first=bool(keep_first),
        )
        condition_random(dynamic.program)
        start = time.perf_counter()
        compiled = laudc.compile(dynamic.eval(), options.target, batch, dtype=dtype)
        case = {"network": network, "paradigm": paradigm, "dtype": dtype, "batch": batch, "size": size}
        print(case, f"{len(compiled.binaries)} kernels in {time.perf_counter() - start:.1f} s", flush=True)
        if options.build:
            continue
        rungs = climb(compiled)
        worst = max(rungs, key=lambda rung: rung.error / rung.bar if rung.bar else 0)
        failed = [rung for rung in rungs if not rung.passed]
        print(f"  {len(rungs)} rungs, worst {worst.name} {worst.where}: {worst.error:.1e} of {worst.bar:.1e}")
        for rung in failed:
            print(f"  FAILED {rung}")
        lines += [json.dumps(case | asdict(rung) | {"passed": rung.passed}) for rung in rungs]
    if not options.build:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
