"""The free constants of the model, fitted on the device that is here.

A small bottleneck network, none of the zoo's, is compiled skipping patches and skipping channels; its kernels are the
micro-kernels. Each is timed where it stands, at two batches and two rates, and the constants are those that bring the
model's times nearest to the measured ones (least squares of log ratios).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from laudc.compiled import CompiledModel, lower
from laudc.convert import convert
from laudc.dynamic_model import mask_shapes
from laudc.errors import InputError
from laudc.kernels.build import build_all
from laudc.kernels.kernel import Kernel
from laudc.latency.constants import UNKNOWN, Calibration, Constants, defaults
from laudc.latency.kernel import EVERYTHING, Weighted, expected_time
from laudc.latency.machine import refuse_busy, state_of
from laudc.latency.measure import step_us
from laudc.latency.network import network_model
from laudc.rates import stratified_masks
from laudc.targets import Target

SIZE = 256
BATCHES = {"cpu": (1, 8), "cuda": (4, 64)}
"""A small one and one that fills the device, and spills its caches."""
RATES = (0.3, 1.0)
_VARIANTS = (("spatial", "4-4-2"), ("channel", "16"))
_MOST_REPEAT = 0.1
"""Median relative difference of a repeated measurement."""
_SOFT = 0.1
"""Log ratio beyond which an outlier counts less."""
_PRIOR = 0.2
"""What a constant's distance from its default weighs: little, but for one that the kernels say nothing of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One kernel, measured."""

    kernel: Kernel
    cases: Weighted
    measured_us: float
    again_us: float
    """The same once more, later."""


class Probe(nn.Module):
    """Bottlenecks on three sizes of map, two of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 48, 7, 2, 3, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        width = 48
        for inner, stride in ((48, 1), (128, 2), (384, 4)):
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


def calibrate(target: Target, *, rounds: int = 15, say: Callable[[str], None] = lambda words: None) -> Calibration:
    """Measure on the local device and fit. `target` is what it is.

    InputError if others use the machine, its state changes in between, or the measurements contradict each other.
    """
    refuse_busy("calibrate")
    before = state_of(target)
    samples = measure(target, rounds=rounds, say=say)
    after = state_of(target)
    changed = sorted(key for key in before if before[key] != after.get(key))
    if changed:
        words = ", ".join(f"{key} from {before[key]} to {after[key]}" for key in changed)
        raise InputError(
            f"the machine changed while it was measured: {words}", "leave it alone and run `laudc calibrate` again"
        )
    say("fitting")
    found = fit(target, samples)
    if found.errors["repeat_median"] > _MOST_REPEAT or _width(found.interval) > _width(UNKNOWN):
        raise InputError(
            f"measured again, kernels differ by {found.errors['repeat_median']:.0%}, and from what is fitted by "
            f"{found.errors['after_median']:.0%}: that is no better than the defaults",
            "leave the machine alone and run `laudc calibrate` again",
        )
    return replace(found, state=after)


def _width(interval: tuple[float, float]) -> float:
    return interval[1] / interval[0]


def probes(target: Target, say: Callable[[str], None]) -> list[CompiledModel]:
    """The networks whose kernels are measured. Elsewhere than on the device this only fills the cache for it."""
    return [
        _compiled(target, paradigm, granularity, batch, say)
        for paradigm, granularity in _VARIANTS
        for batch in BATCHES[target.kind]
    ]


def measure(target: Target, *, rounds: int, say: Callable[[str], None]) -> list[Sample]:
    """Every kernel of the probe in every setting, each distinct one once."""
    models = probes(target, say)
    found: dict[tuple[object, ...], list[Sample]] = {}
    for model in models:
        for rate in RATES:
            say(f"measuring at batch {model.shape[0]}, rate {rate:g}")
            for sample in _measured(model, rate, rounds):
                cases = tuple(sample.cases)
                key = (sample.kernel.schedule, sample.kernel.work, tuple(sorted(sample.kernel.choice.items())), cases)
                found.setdefault(key, []).append(sample)
    return [_merged(samples) for samples in found.values()]


def _compiled(target: Target, paradigm: str, granularity: str, batch: int, say: Callable[[str], None]) -> CompiledModel:
    torch.manual_seed(0)
    model = convert(Probe().eval(), torch.randn(1, 3, SIZE, SIZE), paradigm=paradigm, granularity=granularity)
    dtype = target.default_dtype
    shape = (batch, 3, SIZE, SIZE)
    lowering = lower(
        model.program,
        target,
        plan=model.plan,
        shape=shape,
        dtype=dtype,
        without=(),
        calibration=defaults(target),  # not an earlier one: the same kernels every time
    )
    kernels = {step.kernel.key: step.kernel for step in lowering.executable.steps}
    say(f"building {len(kernels)} kernels for {paradigm}, batch {batch}")
    binaries = build_all(kernels.values())
    return CompiledModel(plan=model.plan, target=target, dtype=dtype, without=(), lowering=lowering, binaries=binaries)


def _measured(model: CompiledModel, rate: float, rounds: int) -> list[Sample]:
    assert model.plan is not None
    shapes = mask_shapes(model.lowering.converted, model.plan)
    masks = stratified_masks(shapes, batch=model.shape[0], rate=rate, seed=0)
    device = model.target.kind
    x = torch.randn(model.shape).to(device)
    masks = {key: mask.to(device) for key, mask in masks.items()}
    times = [step_us(model, x, masks, rounds=rounds) for _ in range(2)]
    on_host = {key: mask.cpu() for key, mask in masks.items()}
    return [
        Sample(
            kernel=call.kernel,
            cases=EVERYTHING if call.lists is None else call.lists.given(on_host),
            measured_us=times[0][call.name],
            again_us=times[1][call.name],
        )
        for call in network_model(model.lowering.lowered).calls
    ]


def _merged(samples: Sequence[Sample]) -> Sample:
    first = samples[0]
    return replace(
        first,
        measured_us=statistics.median(sample.measured_us for sample in samples),
        again_us=statistics.median(sample.again_us for sample in samples),
    )


def fit(target: Target, samples: Sequence[Sample]) -> Calibration:
    """The constants nearest to the samples, long kernels counting more than short ones."""
    import numpy as np
    from scipy.optimize import least_squares

    start = defaults(target).constants
    names = [one.name for one in fields(start)]
    logs = np.log([sample.measured_us for sample in samples])
    weights = np.array([sample.measured_us for sample in samples]) ** 0.3
    weights /= weights.mean()

    begin = np.log([getattr(start, name) for name in names])

    def made(point: Sequence[float]) -> Constants:
        return type(start)(**{name: math.exp(value) for name, value in zip(names, point, strict=True)})

    def residuals(point: Sequence[float]) -> object:
        errors = (np.log(_predicted(samples, made(point))) - logs) * weights
        return np.concatenate([errors, _PRIOR * (np.asarray(point) - begin)])

    found = least_squares(residuals, begin, loss="soft_l1", f_scale=_SOFT, bounds=(begin - 3, begin + 3))
    fitted = made(found.x)
    ratios = np.exp(logs) / np.array(_predicted(samples, fitted))
    errors = {
        "before_median": _median_error(samples, start),
        "after_median": _median_error(samples, fitted),
        "after_p90": float(np.quantile(np.abs(1 / ratios - 1), 0.9)),
        "repeat_median": statistics.median(abs(s.again_us / s.measured_us - 1) for s in samples),
        "kernels": float(len({sample.kernel.key for sample in samples})),
        "samples": float(len(samples)),
    }
    order = np.argsort(ratios)
    time = np.cumsum(np.exp(logs)[order]) / np.exp(logs).sum()
    low, high = (float(ratios[order][np.searchsorted(time, share)]) for share in (0.05, 0.95))
    return Calibration(constants=fitted, interval=(low, high), calibrated=True, errors=errors)


def _predicted(samples: Sequence[Sample], constants: Constants) -> list[float]:
    return [_time_us(sample.kernel, sample.cases, constants) for sample in samples]


def _time_us(kernel: Kernel, cases: Weighted, constants: Constants) -> float:
    return expected_time(kernel.schedule, kernel.work, kernel.choice, kernel.target, constants, cases).total_us


def _median_error(samples: Sequence[Sample], constants: Constants) -> float:
    predicted = _predicted(samples, constants)
    return statistics.median(abs(p / s.measured_us - 1) for p, s in zip(predicted, samples, strict=True))
