"""The free constants of the model, fitted on the device that is here.

They are those that bring the model's times of the probe's kernels (`probe.py`) nearest to the measured ones: least
squares of log ratios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace

from laudc.errors import InputError
from laudc.latency.constants import UNKNOWN, Calibration, Constants, defaults
from laudc.latency.kernel import priced
from laudc.latency.machine import refuse_busy, state_of
from laudc.latency.probe import Sample, measure
from laudc.targets import Target

_MOST_REPEAT = 0.1
"""Median relative difference of a repeated measurement."""
_SOFT = 0.1
"""Log ratio beyond which an outlier counts less."""
_LEAST_US = 0.3
"""Below it, kernels are not told apart."""
_PRIOR = 0.2
"""What a constant's distance from its default weighs: little, but for one that the kernels say nothing of."""


def measure_undisturbed(
    target: Target, *, rounds: int = 15, say: Callable[[str], None] = lambda words: None
) -> tuple[list[Sample], dict[str, str]]:
    """Measure on the local device, which is `target`; and the state it is in.

    InputError if others use the machine, or its state changes in between.
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
    return samples, dict(after)


def calibrate(target: Target, samples: Sequence[Sample], state: Mapping[str, str]) -> Calibration:
    """The fit, if it is of use. InputError where the measurements contradict each other."""
    found = fit(target, samples)
    if found.errors["repeat_median"] > _MOST_REPEAT or _width(found.interval) > _width(UNKNOWN):
        raise InputError(
            f"measured again, kernels differ by {found.errors['repeat_median']:.0%}, and from what is fitted by "
            f"{found.errors['after_median']:.0%}: that is no better than the defaults",
            "leave the machine alone and run `laudc calibrate` again",
        )
    return replace(found, state=state)


def _width(interval: tuple[float, float]) -> float:
    return interval[1] / interval[0]


def fit(target: Target, samples: Sequence[Sample]) -> Calibration:
    """The constants nearest to the samples, long kernels counting more than short ones."""
    import numpy as np
    from scipy.optimize import least_squares

    start = defaults(target).constants
    names = [one.name for one in fields(start) if one.name not in start.kept]
    measured = np.array([max(sample.measured_us, _LEAST_US) for sample in samples])
    logs, weights = np.log(measured), measured**0.3
    weights /= weights.mean()

    begin = np.log([getattr(start, name) for name in names])

    def made(point: Sequence[float]) -> Constants:
        fitted = {name: math.exp(value) for name, value in zip(names, point, strict=True)}
        return type(start)(**asdict(start) | fitted)

    def residuals(point: Sequence[float]) -> object:
        errors = (np.log(_predicted(target, samples, made(point))) - logs) * weights
        return np.concatenate([errors, _PRIOR * (np.asarray(point) - begin)])

    found = least_squares(residuals, begin, loss="soft_l1", f_scale=_SOFT, bounds=(begin - 3, begin + 3))
    fitted = made(found.x)
    ratios = np.exp(logs) / np.array(_predicted(target, samples, fitted))
    errors = {
        "before_median": _median_error(target, samples, start),
        "after_median": _median_error(target, samples, fitted),
        "after_p90": float(np.quantile(np.abs(1 / ratios - 1), 0.9)),
        "repeat_median": statistics.median(abs(s.again_us / max(s.measured_us, _LEAST_US) - 1) for s in samples),
        "kernels": float(len({sample.kernel for sample in samples})),
        "samples": float(len(samples)),
    }
    order = np.argsort(ratios)
    time = np.cumsum(np.exp(logs)[order]) / np.exp(logs).sum()
    low, high = (float(ratios[order][np.searchsorted(time, share)]) for share in (0.05, 0.95))
    return Calibration(constants=fitted, interval=(low, high), calibrated=True, errors=errors)


def _predicted(target: Target, samples: Sequence[Sample], constants: Constants) -> list[float]:
    return [priced(sample.cases, target, constants).total_us for sample in samples]


def _median_error(target: Target, samples: Sequence[Sample], constants: Constants) -> float:
    predicted = _predicted(target, samples, constants)
    return statistics.median(
        abs(p / max(s.measured_us, _LEAST_US) - 1) for p, s in zip(predicted, samples, strict=True)
    )
