"""A compiled network against every static one that a user could run instead, in one run on one device.

All variants are called in rounds of shuffled order, so that a disturbance meets them all; figures are medians. Given
masks are fresh in every round, and copied in before the call that is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from laudc.baselines import Network, baselines
from laudc.compiled import CompiledModel
from laudc.errors import InputError, LaudcError
from laudc.latency.constants import Calibration, calibration_for
from laudc.latency.network import network_model
from laudc.rates import stratified_masks
from laudc.static_network import in_laudc
from laudc.timing import cuda_ms, fastest, host_ms, interleaved_ms

OURS = "laudc"
"""What runs the static network that laudc compiles."""
EVERYTHING_ON = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Dynamic:
    """The network at one rate."""

    nominal: float
    executed: float
    samples_ms: Sequence[float]
    predicted_ms: float
    blocks_ms: Mapping[str, float]
    """Predicted, by block."""

    @property
    def ms(self) -> float:
        return statistics.median(self.samples_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Everything that was measured."""

    static: Mapping[str, Sequence[float]]
    """Milliseconds of the calls, by what runs it."""
    dynamic: Sequence[Dynamic]
    """Everything on first, then as asked."""
    notes: Mapping[str, str]
    """Of the static variants that could not be run, why."""
    calibration: Calibration
    buffer_bytes: int

    @property
    def best(self) -> str:
        """The fastest static variant that is not laudc's own."""
        return fastest({name: times for name, times in self.static.items() if name != OURS})

    @property
    def asked(self) -> Dynamic:
        """At the first rate that was asked for."""
        return self.dynamic[min(1, len(self.dynamic) - 1)]

    def ms(self, name: str) -> float:
        return statistics.median(self.static[name])

    @property
    def kernels_gain(self) -> float | None:
        """The static network by laudc over the best of the others; None where laudc's was not run."""
        return self.ms(OURS) / self.ms(self.best) if OURS in self.static else None

    def break_even_rate(self) -> float | None:
        """The rate at which skipping takes as long as the best static network, between those measured; None where
        it is faster with everything on, or slower at the lowest."""
        points = sorted((one.executed, one.ms) for one in self.dynamic)
        limit = self.ms(self.best)
        for (low, fast), (high, slow) in pairwise(points):
            if fast <= limit < slow:
                return low + (high - low) * (limit - fast) / (slow - fast)
        return None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure."""

    rates: Sequence[float]
    rounds: int
    seed: int = 0
    compiled: bool = True
    """With torch.compile's variants, which take minutes."""
    now: Callable[[str], None] = field(default=lambda words: None)


def run_benchmark(model: CompiledModel, options: Options) -> Benchmark:
    """All variants on the device that is here, random images and random weights' or trained ones alike."""
    if model.plan is None:
        raise InputError("the network is static", "give a compiled one that can skip work")
    device = model.target.kind
    dtype = torch.float16 if model.dtype == "float16" else torch.float32
    generator = torch.Generator().manual_seed(options.seed)
    images = torch.randn(model.shape, generator=generator).to(device, dtype)
    networks, notes = _static_networks(model, images, options)
    rates = list(dict.fromkeys([EVERYTHING_ON, *options.rates]))
    pools = {rate: [_masks(model, rate, options.seed, call) for call in range(options.rounds)] for rate in rates}
    variants: dict[str, Callable[[int], object]] = {
        name: partial(_on, network, images) for name, network in networks.items()
    }
    for rate in rates:
        variants[_at(rate)] = partial(_masked, model, images, pools[rate])
    with torch.inference_mode():
        samples = interleaved_ms(
            variants,
            rounds=options.rounds,
            clock=cuda_ms if device == "cuda" else host_ms,
            progress=lambda name, call: options.now(f"timing {name}, round {call + 1} of {options.rounds}"),
        )
    calibration = calibration_for(model.target)
    priced = network_model(model.lowering.lowered)
    dynamic = []
    for rate in rates:
        masks = {key: mask.cpu() for key, mask in pools[rate][0].items()}
        predicted = priced.given(calibration, masks)
        units = sum(mask.numel() for mask in masks.values())
        dynamic.append(
            Dynamic(
                nominal=rate,
                executed=sum(float(mask.sum()) for mask in masks.values()) / units,
                samples_ms=samples[_at(rate)],
                predicted_ms=predicted.total_us / 1e3,
                blocks_ms={block: time.total_us / 1e3 for block, time in predicted.blocks.items() if block},
            )
        )
    return Benchmark(
        static={name: samples[name] for name in networks},
        dynamic=dynamic,
        notes=notes,
        calibration=calibration,
        buffer_bytes=model.lowering.executable.arena_bytes,
    )


def _on(network: Network, images: Tensor, call: int) -> Tensor:
    return network(images)


def _masked(model: CompiledModel, images: Tensor, pool: Sequence[Mapping[str, Tensor]], call: int) -> Tensor:
    return model(images, pool[call])


def _at(rate: float) -> str:
    return f"this network at rate {rate:g}"


def _masks(model: CompiledModel, rate: float, seed: int, call: int) -> dict[str, Tensor]:
    masks = stratified_masks(model.mask_shapes, batch=model.shape[0], rate=rate, seed=seed, call=call)
    return {key: mask.to(model.target.kind) for key, mask in masks.items()}


def _static_networks(
    model: CompiledModel, images: Tensor, options: Options
) -> tuple[dict[str, Network], dict[str, str]]:
    """Those that run here, each called once; why the others do not."""
    found: dict[str, Network] = {}
    notes: dict[str, str] = {}
    made: dict[str, Callable[[], Network]] = {OURS: lambda: in_laudc(model)}
    made |= baselines(model.lowering.converted, images, dtype=images.dtype, compiled=options.compiled)
    for name, make in made.items():
        options.now(f"preparing the static network by {name}")
        try:
            with torch.inference_mode():
                network = make()
                network(images)
        except LaudcError as error:
            notes[name] = error.fact
        except Exception as error:  # whatever torch's compilers raise; it is told, and the rest is measured
            notes[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no words'}"
        else:
            found[name] = network
    return found, notes
