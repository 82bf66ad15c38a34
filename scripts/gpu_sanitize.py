"""Run a whole compiled network under compute-sanitizer, and tell its findings kernel by kernel.

    python scripts/gpu_sanitize.py resnet50-spatial-8-4-7-1-r0.5-b2 -o FILE.json     a name of gpu_networks.py
    python scripts/gpu_sanitize.py NAME --tools memcheck,initcheck,racecheck

Every call of a kernel gets its operands, weights, workspaces and results in allocations of their own, as large as they
are: reads and writes past an end show, which they would not in one arena. Results are left uninitialised, lists are
filled with wild numbers first, so initcheck sees whatever is read that no kernel wrote. The output must be bit-equal
to that of a usual call, which memcheck watches too.

racecheck does not model the asynchronous copies and wgmma's own reads: what it says of kernels that use them is told
apart. The exit code is 1 where anything else was found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laudc.compiled import CompiledModel
from laudc.kernels.executable import Step, Value
from laudc.kernels.run import view_of
from laudc.rates import stratified_masks

TOOLS = {  # with their options
    "memcheck": ("--padding", "256", "--report-api-errors", "no"),
    "initcheck": ("--report-api-errors", "no"),
    "racecheck": ("--racecheck-report", "analysis"),
}
UNMODELLED = ("conv-wgmma",)
"""Schedules whose kernels racecheck does not understand."""
WILD = -77_777_777
STEP, EQUAL = "STEP", "EQUAL"
WHOLE = "usual-calls"
USUAL = {"memcheck": 3}
"""Usual calls before the values come apart: launched, captured, replayed. Elsewhere one is enough."""
_PRINTED_S = 0.02
"""How long the sanitizer may take to tell of a call that is done."""
_SUMMARY = re.compile(r"COMPUTE-SANITIZER|SUMMARY|Host Frame|Saved host|Target application|No attachable|Internal")


class Apart:
    """The values of a run, each in its own allocation."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._held: list[tuple[int, Tensor]] = []

    def fresh(self, value: Value) -> Tensor:
        """Room for a new value."""
        room = torch.empty(value.type.nbytes, dtype=torch.uint8, device=self._device)
        self._held.append((value.offset, room))
        made = self.latest(value)
        return made.fill_(WILD) if value.type.dtype == "int32" else made

    def latest(self, value: Value) -> Tensor:
        """The newest value that lies there, or the part of it that is meant."""
        for begin, room in reversed(self._held):
            if begin <= value.offset and value.offset + value.type.nbytes <= begin + room.nbytes:
                return view_of(room, replace(value, offset=value.offset - begin))
        raise AssertionError(f"nothing was made at {value}")


def run_apart(model: CompiledModel, x: Tensor, masks: Mapping[str, Tensor], before: Callable[[Step], None]) -> Tensor:
    """The output of a run in which every value has its own allocation; `before` hears of every call."""
    values, executable = Apart(model.target.kind), model.lowering.executable
    image = values.fresh(executable.image)
    image.copy_(x.permute(0, 2, 3, 1))

    def visit(step: Step, call: Any) -> None:
        operands = [values.latest(value) for value in step.operands]
        constants = call.args[len(operands) : len(call.args) - len(step.workspaces) - len(step.results)]
        spaces = [values.fresh(value) for value in step.workspaces]
        in_place = step.op.spec.in_place.values()
        results = [
            values.latest(value) if index in in_place else values.fresh(value)
            for index, value in enumerate(step.results)
        ]
        before(step)
        call.func(*operands, *constants, *spaces, *results)

    model.runner.walk(x, masks, visit)
    return values.latest(executable.output)


def child(name: str, target: str, usual_calls: int) -> None:
    """What runs under the sanitizer; markers on stdout say which call what it prints belongs to."""
    from gpu_networks import Case

    model = Case.named(name).compiled(target)
    x = torch.randn(model.shape, generator=torch.Generator().manual_seed(0)).to("cuda", torch.float16)
    drawn = stratified_masks(model.mask_shapes, batch=model.shape[0], rate=0.5, seed=1)
    masks = {key: mask.cuda() for key, mask in drawn.items()}

    def told(words: str) -> None:
        torch.cuda.synchronize()
        time.sleep(_PRINTED_S)
        print(STEP, words, flush=True)

    with torch.inference_mode():
        told(WHOLE)
        usual = [model(x, masks) for _ in range(usual_calls)]
        apart = run_apart(model, x, masks, lambda step: told(f"{step.kernel.schedule} {step.kernel.symbol}"))
        told("comparing")
        same = [torch.equal(found.cpu(), apart.cpu()) for found in usual]
    print(EQUAL, all(same), flush=True)


def findings(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Of what a sanitizer and the child printed: what was called, what was found, and in which function."""
    step, found = "before any call", ""
    for line in lines:
        if line.startswith(STEP):
            step = line.removeprefix(STEP).strip()
        elif not line.startswith("========="):
            continue
        elif found and " at " in line:
            where = re.search(r" at (?:0x\w+ in )?(.+?)(?:\+0x|:0x|$)", line)
            yield step, found, where[1].strip() if where else "unknown"
            found = ""
        elif re.match(r"=========\s\w", line) and not _SUMMARY.search(line):
            found = re.sub(r"0x[0-9a-f]+|\d+ hazards?", "", line.removeprefix("=========")).strip()
            if " at " in found:  # racecheck says it in one line
                yield step, found.split(" at ")[0], "a kernel"
                found = ""


def summary(tool: str, text: str, rc: int) -> dict[str, Any]:
    """The findings of one tool, by call and kind."""
    counts = Counter(findings(text.splitlines()))
    told = [
        {
            "schedule": step.partition(" ")[0] if " " in step else "",
            "kernel": step.rpartition(" ")[2],
            "what": what,
            "in": function,
            "count": count,
            "modelled": not (tool == "racecheck" and step.startswith(UNMODELLED)),
        }
        for (step, what, function), count in counts.items()
    ]
    calls = [line.split()[1] for line in text.splitlines() if line.startswith(f"{STEP} ") and len(line.split()) == 3]
    said = [line.removeprefix("=========").strip() for line in text.splitlines() if "SUMMARY" in line]
    equal = f"{EQUAL} True" in text
    return {
        "tool": tool,
        "calls_by_schedule": dict(Counter(calls)),
        "bit_equal": equal,
        "said": said,
        "exit_code": rc,
        "findings": told,
        "passed": equal and not any(one["modelled"] for one in told),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--target", default="h200")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--limit", type=int, default=300, help="seconds a tool may take")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-sanitize.json"))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.network, options.target, options.child)
        return
    results = []
    for tool in options.tools.split(","):
        own = [
            sys.executable,
            __file__,
            options.network,
            "--target",
            options.target,
            "--child",
            str(USUAL.get(tool, 1)),
        ]
        command = ["compute-sanitizer", "--tool", tool, *TOOLS[tool], "--print-limit", "2000", *own]
        start = time.perf_counter()
        said = subprocess.run(
            ["timeout", str(options.limit), *command],
            env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        options.output.with_suffix(f".{tool}.log").write_text(said.stdout[-4_000_000:])
        results.append(summary(tool, said.stdout, said.returncode) | {"seconds": time.perf_counter() - start})
        print(f"{tool}: {json.dumps({key: value for key, value in results[-1].items() if key != 'findings'})}")
        for one in results[-1]["findings"]:
            print(f"  {one}", flush=True)
    options.output.write_text(json.dumps({"network": options.network, "tools": results}, indent=1) + "\n")
    sys.exit(not all(result["passed"] for result in results))


if __name__ == "__main__":
    main()
