"""Compile every kernel of real networks for every CUDA target, and write the table of what came out.

    python scripts/compile_all.py [-o docs/benchmarks/kernels]      FILE.md and FILE.json

Needs no GPU. Machine code comes from NVRTC 12.9 (pip install 'laudc[cuda12]') or nvcc; spills and registers are what
ptxas reports.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import laudc
from laudc.models import open_model
from laudc.targets import TARGETS

GRANULARITY = {"spatial": "4", "layer": None, "channel": "16", "spatial+channel": "4+32"}
"""Named, since what is planned differs from machine to machine."""

CASES = [
    ("resnet50", "spatial"),
    ("resnet50", "layer"),
    ("resnet50", "channel"),
    ("timm/resnetv2_50", "spatial"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/kernels"))
    parser.add_argument("--every-dtype", action="store_true", help="not only the default of each target")
    options = parser.parse_args()
    rows = []
    for network, paradigm in CASES:
        model = open_model(network, seed=0, pretrained=False).module
        dynamic = laudc.transform(model, paradigm=paradigm, granularity=GRANULARITY[paradigm])
        for name, target in TARGETS.items():
            if target.kind != "cuda":
                continue
            for dtype in target.dtypes if options.every_dtype else (target.default_dtype,):
                start = time.perf_counter()
                compiled = laudc.compile(dynamic, target, dtype=dtype)
                seconds = time.perf_counter() - start
                schedules: dict[str, set[str]] = defaultdict(set)
                for step in compiled.lowering.executable.steps:
                    schedules[step.kernel.schedule].add(step.kernel.key)
                binaries = compiled.binaries.values()
                rows.append(
                    {
                        "network": network,
                        "paradigm": paradigm,
                        "target": name,
                        "arch": target.arch,
                        "dtype": dtype,
                        "kernels": len(binaries),
                        "machine_code": sum(bool(binary.cubin) for binary in binaries),
                        "spill_bytes": sum(binary.spill_bytes for binary in binaries),
                        "most_registers": max(binary.registers for binary in binaries),
                        "schedules": {schedule: len(keys) for schedule, keys in sorted(schedules.items())},
                        "seconds": round(seconds, 1),
                    }
                )
                print(rows[-1], flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(table(rows))


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = [
        "# Every kernel for every CUDA target",
        "",
        "`python scripts/compile_all.py`; no GPU was used. Seconds are those of this run: kernels that several",
        "rows share come from the cache, and other work on the machine counts.",
        "",
    ]
    fields = tuple(field for field in rows[0] if field != "schedules")
    lines += ["| " + " | ".join(field.replace("_", " ") for field in fields) + " |", "| --- " * len(fields) + "|"]
    lines += ["| " + " | ".join(str(row[field]) for field in fields) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
