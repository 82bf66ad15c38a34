"""What the constants are fitted to: the kernels of a small network, timed where they stand.

A small bottleneck network, none of the zoo's, is compiled skipping patches and skipping channels, on a GPU also whole
blocks; its kernels are the micro-kernels. Each is timed at some batches and two rates. What was measured is plain data:
what the kernels asked and what they took. With it, the fit can be made again anywhere, such as after a change of the
model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from laudc.compiled import CompiledModel, Lowering, lower
from laudc.convert import convert
from laudc.dynamic_model import mask_shapes
from laudc.errors import StorageError
from laudc.kernels.build import build_all
from laudc.latency.constants import defaults
from laudc.latency.kernel import EVERYTHING, demands_of
from laudc.latency.measure import step_us
from laudc.latency.network import network_model
from laudc.plan import Plan
from laudc.rates import stratified_masks
from laudc.schedules import Demand
from laudc.targets import Target

SIZE = 256
BATCHES = {"cpu": (1, 8), "cuda": (1, 8, 64)}
"""From a small one to one that fills the device, and spills its caches."""
RATES = (0.3, 1.0)
_PATCHES, _CHANNELS, _LAYERS = ("spatial", "4-4-2"), ("channel", "16"), ("layer", None)
_VARIANTS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "cpu": (_PATCHES, _CHANNELS),
    "cuda": (_PATCHES, _CHANNELS, _LAYERS),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One kernel, measured."""

    kernel: str
    """Its schedule and the hash of its source."""
    cases: tuple[tuple[float, tuple[Demand, ...]], ...]
    """What it asks of the device, phase by phase, with the probability of each case."""
    measured_us: float
    again_us: float
    """The same once more, later."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Sample:
        """The inverse of `asdict`, also after it went through a file."""
        cases = tuple((float(p), tuple(Demand(**phase) for phase in phases)) for p, phases in values["cases"])
        return cls(**{**values, "cases": cases})


class Probe(nn.Module):
    """Bottlenecks on three sizes of map, two of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        width = 64
        for inner, stride in ((64, 1), (192, 2), (384, 4)):
            blocks += [_Bottleneck(width, inner, stride), _Bottleneck(4 * inner, inner, 1)]
            width = 4 * inner
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, 500)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
        return out


class _Bottleneck(nn.Module):
    def __init__(self, width: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if width != 4 * inner:
            self.shortcut = nn.Sequential(nn.Conv2d(width, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        added: Tensor = self.relu(out + self.shortcut(x))
        return added


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lowered:
    paradigm: str
    granularity: str | None
    batch: int
    plan: Plan
    lowering: Lowering

    def masks(self, rate: float) -> dict[str, Tensor]:
        """The decisions that are measured."""
        shapes = mask_shapes(self.lowering.converted, self.plan)
        return stratified_masks(shapes, batch=self.batch, rate=rate, seed=0)


def _lowered(target: Target, paradigm: str, granularity: str | None, batch: int) -> _Lowered:
    torch.manual_seed(0)
    model = convert(Probe().eval(), torch.randn(1, 3, SIZE, SIZE), paradigm=paradigm, granularity=granularity)
    lowering = lower(
        model.program,
        target,
        plan=model.plan,
        shape=(batch, 3, SIZE, SIZE),
        dtype=target.default_dtype,
        without=(),
        calibration=defaults(target),  # not an earlier one: the same kernels every time
    )
    return _Lowered(paradigm=paradigm, granularity=granularity, batch=batch, plan=model.plan, lowering=lowering)


def _networks(target: Target) -> list[_Lowered]:
    return [
        _lowered(target, *variant, batch) for variant, batch in product(_VARIANTS[target.kind], BATCHES[target.kind])
    ]


def build_probes(target: Target, say: Callable[[str], None]) -> None:
    """Build the kernels that are measured, so that they are in the cache for the device."""
    for network in _networks(target):
        _compiled(network, target, say)


def _compiled(network: _Lowered, target: Target, say: Callable[[str], None]) -> CompiledModel:
    kernels = {step.kernel.key: step.kernel for step in network.lowering.executable.steps}
    say(f"building {len(kernels)} kernels for {network.paradigm}, batch {network.batch}")
    return CompiledModel(
        plan=network.plan,
        target=target,
        dtype=target.default_dtype,
        without=(),
        lowering=network.lowering,
        binaries=build_all(kernels.values()),
    )


def measure(target: Target, *, rounds: int, say: Callable[[str], None]) -> list[Sample]:
    """Every kernel in every setting on the device that is here, each distinct one once."""
    found: dict[tuple[object, ...], list[Sample]] = {}
    for network in _networks(target):
        model = _compiled(network, target, say)
        x = torch.randn(model.shape).to(target.kind)
        for rate in RATES:
            say(f"measuring {network.paradigm} at batch {network.batch}, rate {rate:g}")
            on_host = network.masks(rate)
            masks = {key: mask.to(target.kind) for key, mask in on_host.items()}
            first, again = (step_us(model, x, masks, rounds=rounds) for _ in range(2))
            for call in network_model(network.lowering.lowered).calls:
                cases = EVERYTHING if call.lists is None else call.lists.given(on_host)
                sample = Sample(
                    kernel=f"{call.kernel.schedule} {call.kernel.key[:12]}",
                    cases=tuple((p, demands_of(call.kernel, active)) for p, active in cases),
                    measured_us=first[call.name],
                    again_us=again[call.name],
                )
                found.setdefault((sample.kernel, sample.cases), []).append(sample)
    return [_merged(samples) for samples in found.values()]


def to_json(samples: Sequence[Sample], state: Mapping[str, str]) -> dict[str, Any]:
    """Plain data; `from_json` reads it back. state: what the measurement holds for."""
    return {"state": dict(state), "samples": [asdict(sample) for sample in samples]}


def from_json(values: Mapping[str, Any]) -> tuple[list[Sample], dict[str, str]]:
    """The inverse of `to_json`. StorageError for anything else."""
    try:
        return [Sample.from_json(one) for one in values["samples"]], dict(values["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError("these are no measurements of this laudc", "measure again with `laudc calibrate`") from error


def _merged(samples: Sequence[Sample]) -> Sample:
    first = samples[0]
    return replace(
        first,
        measured_us=statistics.median(sample.measured_us for sample in samples),
        again_us=statistics.median(sample.again_us for sample in samples),
    )
