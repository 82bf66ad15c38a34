"""Prove that a compiled network is right where it runs: numbers, replays, memory, streams, threads, no waiting.

    python scripts/gpu_proof.py resnet101-spatial-8-4-7-1-r0.5-b8 -o FILE.json        a name of gpu_networks.py
    python scripts/gpu_proof.py FILE.laud --trust

errors      the whole network against torch in float32, dense and masked, given the same decisions: fresh images and
            masks at several rates, and the maskers' own decisions; buffers poisoned before. In float16 an error of
            2e-3 passes, in bfloat16 of 1.6e-2, and so does 1.5 times the one that torch's own type makes on the same
            images and masks
replays     calls with masks that change from one to the next; every one is compared with the reference of its masks,
            by the same bars, and repeats of a mask must be bit-equal. Every other call finds its buffers poisoned
memory      over the replays nothing grows, on the device or beside it
streams     calls queued on two streams in turn, and two threads with a stream each: bit-equal to calls on their own
waiting     torch's checker finds no synchronisation in a call, and a call returns while its stream is still busy

Errors are the largest difference over the largest magnitude. On a CPU the last two lines are left to a GPU. The exit
code is 1 where anything fails.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import laudc
from laudc.artifact import read
from laudc.compare import relative_error
from laudc.compiled import CompiledModel
from laudc.program import in_evaluation
from laudc.rates import stratified_masks
from laudc.tf32 import torch_multiplies_as
from laudc.types import in_memory

RATES = (0.5, 0.0, 0.1, 0.4, 0.7, 1.0)
BAR = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-4, "tf32": 2e-3}
OF_TORCH = 1.5
SETTLED = 20
"""Replays until memory is looked at first."""
RSS_ROOM = 32 << 20
BUSY_CYCLES = 2_000_000_000
"""About a second of a GPU's clock."""

Masks = Mapping[str, Tensor]


@dataclass
class Subject:
    """A network with what it is compared with."""

    model: CompiledModel
    reference: Callable[[Tensor, Masks], Tensor] = field(init=False)
    half: Callable[[Tensor, Masks], Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        program, device = self.model.lowering.converted, self.model.target.kind
        exact = in_evaluation(program, copy_weights=True).graph.to(device)
        self.reference = lambda x, masks: exact(x.float(), dict(masks))[0]
        if self.model.dtype != "float32":
            rounded = in_evaluation(program, copy_weights=True).graph.to(device, self.dtype)

            def half(x: Tensor, masks: Masks) -> Tensor:
                with torch_multiplies_as(self.model.dtype):
                    return rounded(x.to(self.dtype), dict(masks))[0].float()

            self.half = half

    @property
    def dtype(self) -> torch.dtype:
        found = getattr(torch, in_memory(self.model.dtype))
        assert isinstance(found, torch.dtype)
        return found

    @property
    def device(self) -> str:
        return self.model.target.kind

    def images(self, seed: int) -> Tensor:
        drawn = torch.randn(self.model.shape, generator=torch.Generator().manual_seed(seed))
        return drawn.to(self.device, self.dtype)

    def masks(self, call: int) -> dict[str, Tensor]:
        """Fresh ones, the rates in turn."""
        shapes, rate = self.model.mask_shapes, RATES[call % len(RATES)]
        drawn = stratified_masks(shapes, batch=self.model.shape[0], rate=rate, seed=11, call=call)
        return {key: mask.to(self.device) for key, mask in drawn.items()}

    def expected(self, x: Tensor, masks: Masks) -> tuple[Tensor, float, float]:
        """The result, the error that is allowed, the one that torch makes in the network's precision."""
        exact = self.reference(x, masks)
        torchs = 0.0 if self.half is None else relative_error(self.half(x, masks), exact)
        return exact, max(BAR[self.model.dtype], OF_TORCH * torchs), torchs


def errors(subject: Subject) -> dict[str, Any]:
    """By draw."""
    loaded = subject.model.runner  # shared with the next
    own = replace(subject.model, plan=subject.model.plan and replace(subject.model.plan, rate=None))
    draws = []
    for call, rate in enumerate((*RATES, None)):
        x = subject.images(call)
        loaded.poison()
        if rate is None:
            found = own(x)
            masks = {key: mask.clone() for key, mask in own.decisions.items()}
        else:
            masks = subject.masks(call)
            found = subject.model(x, masks)
        exact, bar, torchs = subject.expected(x, masks)
        error = relative_error(found.float(), exact)
        norm = float((found.float() - exact).norm() / exact.norm())
        draws.append(
            {
                "masks": "the maskers' own" if rate is None else f"rate {rate:g}",
                "executed_rate": float(torch.cat([mask.flatten() for mask in masks.values()]).mean()),
                "error": error,
                "norm_error": norm,
                "torch_error": torchs,
                "bar": bar,
                "passed": error <= bar,
            }
        )
    return {"draws": draws, "passed": all(draw["passed"] for draw in draws)}


def replays(subject: Subject, count: int, distinct: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the replays gave, and what memory did meanwhile."""
    x = subject.images(100)
    cases = [subject.masks(100 + call) for call in range(min(distinct, count))]
    expected = [subject.expected(x, masks)[:2] for masks in cases]
    order = [n % len(cases) for n in range(count)]
    random.Random(0).shuffle(order)
    firsts = torch.zeros(len(cases), *expected[0][0].shape, device=subject.device, dtype=x.dtype)
    seen = [False] * len(cases)
    of_bar = torch.zeros(count, device=subject.device)
    unequal = torch.zeros(count, dtype=torch.bool, device=subject.device)
    settled: dict[str, int] = {}
    for n, index in enumerate(order):
        if n == min(SETTLED, count - 1):
            settled = _memory(subject.device)
        if n % 2:
            subject.model.runner.poison()
        found = subject.model(x, cases[index])
        exact, bar = expected[index]
        of_bar[n] = (found.float() - exact).abs().max() / exact.abs().max() / bar
        if seen[index]:
            unequal[n] = (found != firsts[index]).any()
        else:
            firsts[index], seen[index] = found, True
    after = _memory(subject.device)
    wrong = int((~(of_bar <= 1)).sum())
    repeats, differ = count - sum(seen), int(unequal.sum())
    grown = {name: after[name] - settled[name] for name in after}
    still = all(growth <= (RSS_ROOM if name == "host" else 0) for name, growth in grown.items())
    return (
        {
            "replays": count,
            "distinct_masks": len(cases),
            "compared_with": "torch float32, dense and masked, for every one; bits, for every repeat",
            "wrong": wrong,
            "repeats": repeats,
            "repeats_that_differ": differ,
            "worst_of_bar": float(of_bar.max()),
            "passed": wrong == 0 and differ == 0,
        },
        {"settled_bytes": settled, "grown_bytes": grown, "passed": still},
    )


def _memory(device: str) -> dict[str, int]:
    """Bytes: the host's peak, and on a GPU what torch gave out, what it holds, what anyone holds."""
    host = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}
    if device != "cuda":
        return host
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return host | {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "device": total - free,
    }


def streams(subject: Subject, rounds: int = 25) -> dict[str, Any]:
    """Two streams, then two threads, each bit-equal to calls on their own."""
    xs, masks = [subject.images(7), subject.images(8)], [subject.masks(0), subject.masks(3)]
    alone = [subject.model(x, given).clone() for x, given in zip(xs, masks, strict=True)]
    on_gpu = subject.device == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    both = [torch.cuda.Stream(), torch.cuda.Stream()] if on_gpu else [None, None]
    found: list[tuple[int, Tensor]] = []

    def call(index: int) -> None:
        with torch.cuda.stream(both[index]) if on_gpu else nullcontext():
            found.append((index, subject.model(xs[index], masks[index])))

    def many(index: int) -> None:
        with torch.inference_mode():
            for _ in range(rounds):
                call(index)

    for n in range(2 * rounds):
        call(n % 2)
    threads = [threading.Thread(target=many, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if on_gpu:
        torch.cuda.synchronize()
    wrong = sum(not torch.equal(result, alone[index]) for index, result in found)
    return {"calls": len(found), "wrong": wrong, "passed": wrong == 0 and len(found) == 4 * rounds}


def waiting(subject: Subject) -> dict[str, Any]:
    """What waits in a call; only on a GPU."""
    x, masks = subject.images(9), subject.masks(0)
    for _ in range(3):  # by then every graph is captured
        subject.model(x, masks)
    torch.cuda.synchronize()
    words = "none"
    torch.cuda.set_sync_debug_mode("error")
    try:
        subject.model(x, masks)
    except RuntimeError as error:
        words = str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda._sleep(BUSY_CYCLES)
    start = time.perf_counter()
    subject.model(x, masks)
    host_ms = 1e3 * (time.perf_counter() - start)
    done.record()
    still_busy = not done.query()
    torch.cuda.synchronize()
    return {
        "synchronisation": words,
        "host_ms_of_a_call": host_ms,
        "returned_before_it_was_done": still_busy,
        "passed": words == "none" and still_busy,
    }


def prove(model: CompiledModel, *, count: int, distinct: int) -> dict[str, Any]:
    """Every part by name."""
    subject = Subject(model)
    with torch.inference_mode():
        parts: dict[str, Any] = {"errors": errors(subject)}
        parts["replays"], parts["memory"] = replays(subject, count, distinct)
        parts["streams"] = streams(subject)
        if subject.device == "cuda":
            parts["waiting"] = waiting(subject)
    return {
        "target": model.target.name,
        "device": torch.cuda.get_device_name() if subject.device == "cuda" else "cpu",
        "shape": list(model.shape),
        "dtype": model.dtype,
        "laudc": laudc.__version__,
        "torch": torch.__version__,
        "parts": parts,
        "passed": all(part["passed"] for part in parts.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a name of gpu_networks.py, or a compiled .laud file")
    parser.add_argument("--target", default="h200")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--trust", action="store_true", help="use the machine code inside the file")
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=250, help="masks among the replays")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-proof.json"))
    options = parser.parse_args()
    if options.network.endswith(".laud"):
        model = read(Path(options.network)).model(trust=options.trust)
        assert isinstance(model, CompiledModel), f"{options.network} is not compiled"
    else:
        from gpu_networks import Case

        model = Case.named(options.network, dtype=options.dtype).compiled(options.target)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    result = {"network": options.network, **prove(model, count=options.replays, distinct=options.distinct)}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, part in result["parts"].items():
        told = ", ".join(f"{key} {value}" for key, value in part.items() if not isinstance(value, list))
        print(f"{name}: {told}", flush=True)
    sys.exit(not result["passed"])


if __name__ == "__main__":
    main()
