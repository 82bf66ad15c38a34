"""laudc's gathered convolutions against Triton's and cuDNN's dense ones: correct first, then milliseconds.

    python scripts/triton_compare.py --build                    anywhere: build laudc's kernels into the cache
    python scripts/triton_compare.py -o docs/benchmarks/triton  on the device: FILE.json (raw samples) and FILE.md

11 layers of a ResNet at batch 128, float16. Both sides read the same inputs and the same row list: patches of 4 x 4 for
3 x 3 layers, single pixels for 1 x 1. Each adds bias, and where it says so a residual in place, and applies ReLU.
Triton's configuration is the best of all for each layer and rate. laudc's is the tile that the compiler chooses by
predicted latency; the best of its tiles stands beside it. cuDNN computes the bare dense convolution. Medians of
interleaved rounds, each a CUDA graph of calls in a row.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laudc.compare import relative_error
from laudc.kernels.build import build_all
from laudc.kernels.kernel import Kernel
from laudc.kernels.run import load_functions
from laudc.latency.search import calibrations, fastest_kernel
from laudc.ops._lists import make_row_list
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Active, Work
from laudc.targets import load_target
from laudc.timing import interleaved_ms
from laudc.types import TensorType

BATCH = 128
RATES = (1.0, 0.5, 0.25)
BAR = 2e-3
IN_A_GRAPH = 10


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution of stride 1 on square maps; `patch` is the side of what is decided at once."""

    name: str
    taps: int
    channels: int
    columns: int
    side: int
    patch: int
    residual: bool

    def work(self, batch: int = BATCH) -> Work:
        around = self.taps // 2
        spec = Conv2dSpec(
            in_channels=self.channels,
            out_channels=self.columns,
            kernel=(self.taps, self.taps),
            padding=(around,) * 4,
            bias=True,
            activation="relu",
            rows=True,
            residual="in_place" if self.residual else "none",
        )
        pixels = self.side * self.side
        operands = [
            TensorType(shape=(batch, self.channels, self.side, self.side), dtype="float16"),
            TensorType(shape=(batch + 1 + batch * pixels,), dtype="int32"),
        ]
        if self.residual:
            operands.append(TensorType(shape=(batch, self.columns, self.side, self.side), dtype="float16"))
        return Work(spec=spec, operands=tuple(operands), results=spec.results(tuple(operands)))

    def chosen(self, target: str, rate: float) -> Kernel:
        """What the compiler takes at that rate."""
        active = Active(rows=rate * BATCH * self.side**2)
        device = load_target(target)
        return fastest_kernel(self.work(), device, batch=BATCH, cases=((1.0, active),), calibration=calibrations(None))

    def kernels(self, target: str) -> list[Kernel]:
        """With every tile that its schedule offers."""
        first = self.chosen(target, 1.0)
        offered = SCHEDULES[first.schedule].choices(first.work, first.target)
        return [
            Kernel(schedule=first.schedule, work=first.work, batch=BATCH, choice=choice, target=first.target)
            for choice in offered
        ]


LAYERS = (
    *(Layer(f"3x3 {side}x{side} {width}", 3, width, width, side, 4, False) for side, width in
      ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Layer(f"3x3 {side}x{side} {width} + residual", 3, width, width, side, 4, True) for side, width in
      ((28, 128), (14, 256))),
    Layer("1x1 14x14 1024 to 256", 1, 1024, 256, 14, 1, False),
    Layer("1x1 14x14 256 to 1024 + residual", 1, 256, 1024, 14, 1, True),
    Layer("1x1 56x56 64 to 256 + residual", 1, 64, 256, 56, 1, True),
    Layer("1x1 56x56 256 to 64", 1, 256, 64, 56, 1, False),
    Layer("1x1 7x7 512 to 2048 + residual", 1, 512, 2048, 7, 1, True),
)  # fmt: skip


class Data:
    """One layer's tensors on a device."""

    def __init__(self, layer: Layer, *, batch: int, device: str, dtype: torch.dtype = torch.float16) -> None:
        generator = torch.Generator(device).manual_seed(1)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        self.layer, self._generator = layer, generator
        side, depth = layer.side, layer.taps**2 * layer.channels
        self.x = normal(batch, side, side, layer.channels).to(dtype)
        self.weight = (normal(layer.columns, layer.channels, layer.taps, layer.taps) / depth**0.5).to(dtype)
        self.bias = normal(layer.columns)
        self.residual = normal(batch, side, side, layer.columns).to(dtype) if layer.residual else None
        flat = self.weight.permute(0, 2, 3, 1).reshape(layer.columns, depth).contiguous()
        self.flat = (flat, flat.t().contiguous())
        self.y = torch.empty(batch, side, side, layer.columns, device=device, dtype=dtype)

    def pixels(self, rate: float) -> Tensor:
        """A mask of exactly that share of the patches, over the pixels."""
        batch, patch, side = self.x.shape[0], self.layer.patch, self.layer.side
        across = -(-side // patch)
        total = batch * across * across
        order = torch.randperm(total, generator=self._generator, device=self.x.device)
        on = torch.zeros(total, dtype=torch.bool, device=self.x.device)
        on[order[: round(rate * total)]] = True
        spread = on.view(batch, across, across).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        return spread[:, :side, :side]

    def reset(self) -> None:
        """The result as a call finds it: poisoned, or the residual."""
        self.y.copy_(self.residual) if self.residual is not None else self.y.fill_(torch.nan)

    def expected(self) -> Tensor:
        """With everything on, by torch in float32."""
        maps = self.x.float().permute(0, 3, 1, 2)
        dense = F.conv2d(maps, self.weight.float(), self.bias, padding=self.layer.taps // 2).permute(0, 2, 3, 1)
        return (dense if self.residual is None else dense + self.residual.float()).relu()

    def error(self, call: Callable[[Tensor], object], pixels: Tensor, expected: Tensor) -> float:
        """The relative error at listed pixels; infinite where others changed."""
        self.reset()
        before = self.y.clone()
        call(make_row_list(pixels))
        kept = (self.y[~pixels] == before[~pixels]) | before[~pixels].isnan() & self.y[~pixels].isnan()
        return relative_error(self.y[pixels].float(), expected[pixels]) if bool(kept.all()) else math.inf


def ours(data: Data, kernel: Kernel, function: Callable[..., object]) -> Callable[[Tensor], object]:
    """A call of laudc's kernel for a row list."""
    named = {"weight": data.weight.float().cpu(), "bias": data.bias.cpu()}
    packed = [one.to(data.x.device) for one in kernel.plan.pack(kernel.work, kernel.choice, named)]
    dtypes = {"float16": torch.float16, "float32": torch.float32, "int32": torch.int32, "uint8": torch.uint8}
    spaces = [
        torch.empty(space.stored, dtype=dtypes[space.dtype], device=data.x.device)
        for space in kernel.plan.workspace(kernel.work, kernel.choice)
    ]
    return lambda rows: function(data.x, rows, *packed, *spaces, data.y)


def tritons(data: Data, config: Any) -> Callable[[Tensor], object]:
    """The same of Triton's."""
    from triton_kernels import gathered_conv

    processors = torch.cuda.get_device_properties(0).multi_processor_count if data.x.is_cuda else 1
    fixed = {"taps": data.layer.taps, "residual": data.layer.residual, "processors": processors}
    return lambda rows: gathered_conv(config, data.x, rows, data.flat, data.bias, data.y, **fixed)


def in_graph(call: Callable[[], object]) -> Callable[[], float]:
    """What replays some calls in a row and says how many milliseconds one took."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(IN_A_GRAPH):
            call()

    def timed() -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / IN_A_GRAPH

    return timed


def tuned(calls: dict[str, Callable[[], object]]) -> str:
    """The fastest, by few replays."""
    quick = {name: in_graph(call) for name, call in calls.items()}
    return min(quick, key=lambda name: statistics.median(quick[name]() for _ in range(4)))


def measure(layer: Layer, target: str, rounds: int) -> dict[str, Any]:
    """One layer at every rate. AssertionError where a kernel is wrong."""
    from triton_kernels import configs

    data = Data(layer, batch=BATCH, device="cuda")
    kernels = {str(dict(kernel.choice)): kernel for kernel in layer.kernels(target)}
    functions = load_functions(build_all(list(kernels.values())), device="cuda")
    mine = {name: ours(data, kernel, functions[kernel.key]) for name, kernel in kernels.items()}
    theirs = {str(asdict(config)): tritons(data, config) for config in configs(layer.columns, layer.channels)}
    expected = data.expected()
    part = data.pixels(0.37)
    errors: dict[str, float] = {}
    for name, call in (*mine.items(), *theirs.items()):
        try:
            errors[name] = max(data.error(call, pixels, expected) for pixels in (part, torch.ones_like(part)))
        except Exception as error:  # a configuration that does not fit the chip
            if name in mine:
                raise
            print(f"  {name}: {type(error).__name__}", flush=True)
    wrong = [name for name, error in errors.items() if not error <= BAR]
    assert not wrong, f"{layer.name}: {wrong}"
    maps, weight = data.x.permute(0, 3, 1, 2), data.weight.contiguous(memory_format=torch.channels_last)
    rates = {}
    for rate in RATES:
        rows = make_row_list(data.pixels(rate))
        chosen = str(dict(layer.chosen(target, rate).choice))
        data.reset()
        best = tuned({name: partial(call, rows) for name, call in mine.items()})
        data.reset()
        rival = tuned({name: partial(call, rows) for name, call in theirs.items() if name in errors})
        data.reset()
        graphs = {
            "laudc": in_graph(partial(mine[chosen], rows)),
            "laudc, best tile": in_graph(partial(mine[best], rows)),
            "Triton": in_graph(partial(theirs[rival], rows)),
            "cuDNN, dense": in_graph(lambda: F.conv2d(maps, weight, padding=layer.taps // 2)),
        }
        samples = interleaved_ms(
            {name: lambda _, timed=timed: timed() for name, timed in graphs.items()},
            rounds=rounds,
            clock=lambda call: call(),  # a replay says itself what it took
        )
        rates[f"{rate:g}"] = {"samples_ms": samples, "tiles": {"laudc": chosen, "best": best, "Triton": rival}}
    worst = {
        "laudc": max(errors[name] for name in mine),
        "Triton": max(errors[name] for name in theirs if name in errors),
    }
    return {"layer": layer.name, "errors": worst, "rates": rates}


def ratios(raw: dict[str, Any], rate: str, side: str = "laudc") -> list[float]:
    """Triton's time over laudc's, by layer."""
    medians = [
        {name: statistics.median(times) for name, times in one["rates"][rate]["samples_ms"].items()}
        for one in raw["layers"]
    ]
    return [one["Triton"] / one[side] for one in medians]


def table(raw: dict[str, Any]) -> str:
    """The medians as Markdown."""
    rates = list(raw["layers"][0]["rates"])
    worst = {side: max(one["errors"][side] for one in raw["layers"]) for side in ("laudc", "Triton")}
    lines = [
        f"# Gathered convolutions against Triton on {raw['device']}",
        "",
        f"`python scripts/triton_compare.py`: batch {raw['batch']}, float16, random data and row lists; each call adds",
        "bias and applies ReLU. Medians of interleaved rounds of CUDA graphs, in microseconds; the ratio is Triton's",
        "time over that of the tile that laudc's compiler chooses. Triton's configuration is the best of all, for each",
        f"layer and rate. Largest error against float32: laudc {worst['laudc']:.1e}, Triton {worst['Triton']:.1e}.",
        "",
        "| layer | rate | laudc | laudc, best tile | Triton | cuDNN, dense | ratio |",
        "| --- " * 7 + "|",
    ]
    for one in raw["layers"]:
        for rate in rates:
            medians = {name: statistics.median(times) for name, times in one["rates"][rate]["samples_ms"].items()}
            cells = [f"{1e3 * medians[name]:.1f}" for name in ("laudc", "laudc, best tile", "Triton", "cuDNN, dense")]
            ratio = medians["Triton"] / medians["laudc"]
            lines.append(f"| {one['layer']} | {rate} | {' | '.join(cells)} | {ratio:.2f} |")
    lines += ["", "| rate | geometric mean | with the best tile | least |", "| --- " * 4 + "|"]
    for rate in rates:
        found, best = ratios(raw, rate), ratios(raw, rate, "laudc, best tile")
        mean, best_mean = statistics.geometric_mean(found), statistics.geometric_mean(best)
        lines.append(f"| {rate} | {mean:.3f} | {best_mean:.3f} | {min(found):.2f} |")
    everything = statistics.geometric_mean([ratio for rate in rates for ratio in ratios(raw, rate)])
    return "\n".join([*lines, "", f"Over all rates: {everything:.3f}.", ""])


def prewarm(layer: Layer) -> None:
    """Have Triton compile every configuration of a layer into its cache."""
    from triton_kernels import configs

    data = Data(layer, batch=BATCH, device="cuda")
    nothing = make_row_list(torch.zeros_like(data.pixels(0.0)))
    for config in configs(layer.columns, layer.channels):
        try:
            tritons(data, config)(nothing)
        except Exception as error:  # one that does not fit the chip
            print(f"{layer.name}, {config}: {type(error).__name__}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="h200")
    parser.add_argument("--build", action="store_true", help="only build laudc's kernels")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--table", type=Path, help="only print the table of a file of raw samples")
    parser.add_argument("--prewarm", type=int, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path("triton"))
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    if options.build:
        kernels = [kernel for layer in LAYERS for kernel in layer.kernels(options.target)]
        print(f"{len(build_all(kernels))} kernels")
        return
    if options.prewarm is not None:
        prewarm(LAYERS[options.prewarm])
        return
    compiling = [subprocess.Popen([sys.executable, __file__, "--prewarm", str(n)]) for n in range(len(LAYERS))]
    for process in compiling:
        process.wait()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    raw: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "batch": BATCH}
    raw["layers"] = []
    with torch.inference_mode():
        for layer in LAYERS:
            raw["layers"].append(measure(layer, options.target, options.rounds))
            print(layer.name, flush=True)
    options.output.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(table(raw))
    print(table(raw))


if __name__ == "__main__":
    main()
