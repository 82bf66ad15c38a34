#!/usr/bin/env python
"""The CPU kernels on every convolution of ResNet-50 at 224 x 224: against torch, and at half the rows or channels.

    python scripts/bench_cpu_conv.py [--threads N] [--repeat N] [--group G] [--choice name=number ...]

    torch    torch.nn.functional.conv2d, channels-last, inference mode, the same number of threads
    rows     4 x 4 patches, half of them on; against the same kernel with all of them on
    channels G channels a decision, half on: out for the first 1x1, in for the last, both for the 3x3

Numbers are the lower quartiles of samples that take turns, so that a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One convolution and how often the network has it."""

    channels: int
    columns: int
    kernel: int
    stride: int
    side: int
    count: int
    role: str

    @property
    def gflop(self) -> float:
        return 2e-9 * self.channels * self.columns * self.kernel**2 * (self.side // self.stride) ** 2


def resnet50() -> list[Shape]:
    shapes = [Shape(channels=3, columns=64, kernel=7, stride=2, side=224, count=1, role="stem")]

    def add(channels: int, columns: int, kernel: int, stride: int, side: int, count: int, role: str) -> None:
        shapes.append(
            Shape(channels=channels, columns=columns, kernel=kernel, stride=stride, side=side, count=count, role=role)
        )

    side, before = 56, 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        add(before, width, 1, 1, side, 1, "first")
        add(width, width, 3, stride, side, 1, "middle")
        add(before, 4 * width, 1, stride, side, 1, "skip")
        side //= stride
        add(width, 4 * width, 1, 1, side, blocks, "last")
        add(4 * width, width, 1, 1, side, blocks - 1, "first")
        add(width, width, 3, 1, side, blocks - 1, "middle")
        before = 4 * width
    return shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--choice", nargs="*", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--only", nargs="*", type=int, help="numbers of shapes")
    options = parser.parse_args()
    # all are read when the libraries wake up; without them TVM takes half of the cores, and idle threads spin
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "2000")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    choice = {name: int(number) for name, _, number in (item.partition("=") for item in options.choice)}
    Bench(threads=options.threads, repeat=options.repeat, group=options.group, choice=choice).table(options.only)


@dataclass(frozen=True, kw_only=True)
class Bench:
    threads: int
    repeat: int
    group: int
    choice: dict[str, int]

    def table(self, only: list[int] | None) -> None:
        import torch

        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        print("  # role      C    N k s side  x |  torch    ours  ratio GF/s |  rows.5  of 1 | channels.5  of 1")
        totals = [0.0, 0.0, 0.0, 0.0]
        for number, shape in enumerate(resnet50()):
            if only and number not in only:
                continue
            with torch.inference_mode():
                theirs, ours, rows_all, rows, channels_all, channels = self.measure(shape)
            totals = [
                total + shape.count * ms for total, ms in zip(totals, (theirs, ours, rows, channels), strict=True)
            ]
            name = f"{number:3} {shape.role:7}{shape.channels:5}{shape.columns:5} {shape.kernel} {shape.stride}"
            static = f"{theirs:7.3f} {ours:7.3f} {ours / theirs:6.2f} {shape.gflop / ours * 1e3:4.0f}"
            sparse = f"{rows:8.3f}  {rows / rows_all:.2f} |{channels:11.3f}  {channels / channels_all:.2f}"
            print(f"{name} {shape.side:4} {shape.count:2} |{static} |{sparse}", flush=True)
        print(f"all: torch {totals[0]:.2f} ms, ours {totals[1]:.2f} ms, ratio {totals[1] / totals[0]:.2f}, "
              f"rows .5 {totals[2]:.2f} ms, channels .5 {totals[3]:.2f} ms")  # fmt: skip

    def measure(self, shape: Shape) -> list[float]:
        """ms of torch, ours, all rows, half the rows, all channels, half the channels."""
        import torch
        import torch.nn.functional as F

        from laudc.ops._lists import make_channel_list, make_row_list
        from laudc.ops.conv2d import Conv2dSpec

        pad, size = shape.kernel // 2, shape.side // shape.stride
        spec = Conv2dSpec(
            in_channels=shape.channels, out_channels=shape.columns, kernel=(shape.kernel,) * 2,
            stride=(shape.stride,) * 2, padding=(pad,) * 4, bias=True, activation="relu",
        )  # fmt: skip
        x = torch.randn(1, shape.channels, shape.side, shape.side).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(shape.columns, shape.channels, shape.kernel, shape.kernel) * 0.1
        weight = weight.contiguous(memory_format=torch.channels_last)
        bias = torch.randn(shape.columns)
        grid = -(-size // 4)
        patches = half_on(grid * grid).view(1, grid, grid)
        pixels = patches.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :size, :size]
        on = torch.ones_like(pixels)
        in_group = self.group if shape.role in ("middle", "last") else 0
        out_group = self.group if shape.role in ("middle", "first") else 0
        calls: list[Callable[[], object]] = [
            lambda: F.conv2d(x, weight, bias, shape.stride, pad),
            self.kernel(spec, x, weight, bias, []),
        ]
        sparse = replace(spec, rows=True)
        calls += [self.kernel(sparse, x, weight, bias, [make_row_list(mask)]) for mask in (on, pixels)]
        if in_group or out_group:
            count = shape.channels // in_group if in_group else shape.columns // out_group
            lists = [make_channel_list(mask[None]) for mask in (torch.ones(count), half_on(count))]
            sparse = replace(spec, channels_in=in_group, channels_out=out_group)
            calls += [self.kernel(sparse, x, weight, bias, [channels]) for channels in lists]
        else:
            calls += [calls[1], calls[1]]
        return take_turns(calls, self.repeat)

    def kernel(self, spec: Any, x: Any, weight: Any, bias: Any, lists: list[Any]) -> Callable[[], object]:
        import torch
        import tvm
        from tvm.target import Target

        from laudc.kernels.cpu_features import detect_cpu
        from laudc.schedules.base import Work
        from laudc.schedules.conv_cpu import SCHEDULE
        from laudc.targets import TARGETS
        from laudc.types import TensorType

        operands = (
            TensorType(shape=tuple(x.shape), dtype="float32"),
            *(TensorType(shape=tuple(one.shape), dtype="int32") for one in lists),
        )
        work = Work(spec=spec, operands=operands, results=spec.results(operands))
        target = replace(detect_cpu().refine(TARGETS["cpu"]), sm_count=self.threads)
        choice = {**SCHEDULE.choices(work, target)[0], **self.choice}
        lowered = SCHEDULE.build(work, target, choice)
        function = tvm.compile(lowered.module, Target(detect_cpu().tvm_target_json()), tir_pipeline=lowered.pipeline)[
            "kernel"
        ]
        packed = SCHEDULE.pack(work, choice, {"weight": weight, "bias": bias})
        scratch = [torch.empty(type_.shape) for type_ in SCHEDULE.workspace(work, choice)]
        _, columns, height, width = work.results[0].shape
        out = torch.empty(1, height, width, columns)
        arguments = (x.permute(0, 2, 3, 1), *lists, *packed, *scratch, out)
        return lambda: function(*arguments)


def half_on(count: int) -> Any:
    """Random, but exactly half (rounded up)."""
    import torch

    mask = torch.zeros(count)
    mask[torch.randperm(count)[: (count + 1) // 2]] = 1
    return mask


def take_turns(calls: list[Callable[[], object]], repeat: int) -> list[float]:
    """The lower quartile of each call, in ms."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeat):
        for call, taken in zip(calls, times, strict=True):
            time.sleep(0.002)  # the threads of the one before go to sleep
            call()
            for _ in range(4):
                start = time.perf_counter()
                call()
                taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.quantiles(taken, n=4)[0] for taken in times]


if __name__ == "__main__":
    main()
