"""Compiled networks against every static one that a user could run instead, in one run on one device.

All variants are called in rounds of shuffled order, so that a disturbance meets them all; figures are medians. Given
masks are fresh in every round, and copied in before the calls that are timed. Several networks may share the run, where
they are the same one without their masks: the static variants are then prepared once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from laudc.baselines import Network, as_fast_as_torch, baselines
from laudc.compiled import CompiledModel
from laudc.errors import InputError, LaudcError, UnknownName
from laudc.gpu_memory import measured_bytes
from laudc.latency.constants import Calibration, calibration_for
from laudc.latency.measure import block_us
from laudc.latency.network import network_model
from laudc.rates import executed_rates, stratified_masks
from laudc.static_network import in_laudc, static_program
from laudc.tf32 import torch_multiplies_as
from laudc.timing import cuda_ms, fastest, host_ms, interleaved_ms
from laudc.types import in_memory

OURS = "laudc"
"""What runs the static network that laudc compiles."""
EVERYTHING_ON = 1.0

Masks = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dynamic:
    """A network at one rate."""

    nominal: float
    executed: float
    rates: Mapping[str, float]
    """Executed, by masker; so are the next in the first round."""
    samples_ms: Sequence[float]
    predicted_ms: float
    blocks_ms: Mapping[str, tuple[float, float]]
    """Measured kernel by kernel (0: too short to measure) and predicted, by block."""

    @property
    def ms(self) -> float:
        return statistics.median(self.samples_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One network."""

    name: str
    dynamic: Sequence[Dynamic]
    """Everything on first, then as asked."""
    peak_bytes: int | None
    """Of GPU memory; None on a CPU."""
    buffer_bytes: int

    @property
    def everything_on(self) -> Dynamic:
        return self.dynamic[0]

    @property
    def asked(self) -> Dynamic:
        """At the first rate that was asked for."""
        return self.dynamic[min(1, len(self.dynamic) - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Everything that was measured."""

    static: Mapping[str, Sequence[float]]
    """Milliseconds of the calls, by what runs it."""
    static_bytes: Mapping[str, int | None]
    """Peak GPU memory."""
    static_blocks_ms: Mapping[str, float]
    """By block, of laudc's own, kernel by kernel; none where it was not run."""
    networks: Sequence[Measured]
    notes: Mapping[str, str]
    """Of the static variants that could not be run, why."""
    calibration: Calibration

    @property
    def best(self) -> str:
        """The fastest static variant that is not laudc's own."""
        return fastest({name: times for name, times in self.static.items() if name != OURS})

    def ms(self, name: str) -> float:
        return statistics.median(self.static[name])

    @property
    def kernels_gain(self) -> float | None:
        """The static network by laudc over the best of the others; None where laudc's was not run."""
        return self.ms(OURS) / self.ms(self.best) if OURS in self.static else None

    def speedup(self, network: Measured) -> float:
        """Of the fastest static variant over the network at the first rate that was asked for."""
        return self.ms(fastest(self.static)) / network.asked.ms

    def break_even_rate(self, network: Measured) -> float | None:
        """The rate at which skipping takes as long as the best static network, between those measured; None where
        it is faster with everything on, or slower at the lowest."""
        points = sorted((one.executed, one.ms) for one in network.dynamic)
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
    static: Sequence[str] = ()
    """Only these static variants, by name; by default all."""
    now: Callable[[str], None] = field(default=lambda words: None)

    @property
    def every_rate(self) -> Sequence[float]:
        return list(dict.fromkeys([EVERYTHING_ON, *self.rates]))


def run_benchmark(models: Mapping[str, CompiledModel], options: Options) -> Benchmark:
    """All variants on the device that is here, random images and random weights' or trained ones alike."""
    _refuse_different(models)
    first = next(iter(models.values()))
    device = first.target.kind
    dtype = getattr(torch, in_memory(first.dtype))
    images = torch.randn(first.shape, generator=torch.Generator().manual_seed(options.seed))
    images = images.to(device, dtype).contiguous(memory_format=torch.channels_last)
    pools = {name: _pools(model, options) for name, model in models.items()}
    with torch.inference_mode(), as_fast_as_torch(device), torch_multiplies_as(first.dtype):
        peaks = {name: _loaded(model, images, pools[name][EVERYTHING_ON]) for name, model in models.items()}
        static = _static_networks(first, images, options)
        variants: dict[str, Callable[[int], object]] = {
            _static(name): _Masked(network, images, [{}] * options.rounds)
            if isinstance(network, CompiledModel)
            else partial(_on, network, images)
            for name, network in static.networks.items()
        }
        for name, model in models.items():
            for rate, pool in pools[name].items():
                variants[_at(name, rate)] = _Masked(model, images, pool)
        samples = interleaved_ms(
            variants,
            rounds=options.rounds,
            clock=cuda_ms if device == "cuda" else host_ms,
            progress=lambda name, call: options.now(f"timing {name}, round {call + 1} of {options.rounds}"),
        )
        calibration = calibration_for(first.target)
        networks = []
        for name, model in models.items():
            options.now(f"timing the blocks of {name}")
            times = {rate: samples[_at(name, rate)] for rate in pools[name]}
            networks.append(
                Measured(
                    name=name,
                    dynamic=_dynamic(model, images, pools[name], times, calibration),
                    peak_bytes=peaks[name],
                    buffer_bytes=model.lowering.executable.arena_bytes,
                )
            )
        ours = static.networks.get(OURS)
        blocks = block_us(ours, images, {}, rounds=options.rounds) if isinstance(ours, CompiledModel) else {}
    return Benchmark(
        static={name: samples[_static(name)] for name in static.networks},
        static_bytes=static.peak_bytes,
        static_blocks_ms={block: us / 1e3 for block, us in blocks.items()},
        networks=networks,
        notes=static.notes,
        calibration=calibration,
    )


def _refuse_different(models: Mapping[str, CompiledModel]) -> None:
    """InputError unless each can skip work and all are the same network without it, made for the same thing."""
    held: tuple[str, dict[str, object]] | None = None
    for name, model in models.items():
        if model.plan is None:
            raise InputError(f"{name} is static", "give a compiled one that can skip work")
        facts: dict[str, object] = {
            "target": model.target.name,
            "input": "x".join(map(str, model.shape)),
            "data type": model.dtype,
            "network without masks": static_program(model.lowering.converted).digest,
        }
        first, same = held = held or (name, facts)
        for what, value in facts.items():
            if value != same[what]:
                words = "" if what.startswith("network") else f" ({same[what]}, {value})"
                raise InputError(f"{first} and {name} differ in the {what}{words}", "bench them one by one")


def _dynamic(
    model: CompiledModel,
    images: Tensor,
    pools: Mapping[float, Sequence[Masks]],
    samples: Mapping[float, Sequence[float]],
    calibration: Calibration,
) -> list[Dynamic]:
    priced = network_model(model.lowering.lowered)
    found = []
    for rate, pool in pools.items():
        masks = {key: mask.cpu() for key, mask in pool[0].items()}
        predicted = priced.given(calibration, masks)
        measured = block_us(model, images, pool[0], rounds=len(pool))
        units = sum(mask.numel() for mask in masks.values())
        found.append(
            Dynamic(
                nominal=rate,
                executed=sum(float(mask.sum()) for mask in masks.values()) / units,
                rates=executed_rates(masks),
                samples_ms=samples[rate],
                predicted_ms=predicted.total_us / 1e3,
                blocks_ms={block: (us / 1e3, predicted.blocks[block].total_us / 1e3) for block, us in measured.items()},
            )
        )
    return found


def _on(network: Network, images: Tensor, call: int) -> Tensor:
    return network(images)


class _Masked:
    """A network at masks that are fresh in every round; the first call of a round, which nobody times, copies them."""

    def __init__(self, model: CompiledModel, images: Tensor, pool: Sequence[Masks]) -> None:
        self._model, self._images, self._pool = model, images, pool
        self._round: int | None = None

    def __call__(self, number: int) -> None:
        masks = None if number == self._round else self._pool[number]
        self._model.runner(self._images, masks)
        self._round = number


def _static(name: str) -> str:
    return f"static by {name}"


def _at(name: str, rate: float) -> str:
    return f"{name} at rate {rate:g}"


def _pools(model: CompiledModel, options: Options) -> dict[float, list[Masks]]:
    """By rate, the masks of every round."""
    return {
        rate: [_masks(model, rate, options.seed, call) for call in range(options.rounds)] for rate in options.every_rate
    }


def _masks(model: CompiledModel, rate: float, seed: int, call: int) -> dict[str, Tensor]:
    masks = stratified_masks(model.mask_shapes, batch=model.shape[0], rate=rate, seed=seed, call=call)
    return {key: mask.to(model.target.kind) for key, mask in masks.items()}


def _loaded(model: CompiledModel, images: Tensor, pool: Sequence[Masks]) -> int | None:
    """Load it; the GPU memory it takes."""
    _, peak = measured_bytes(lambda: model, lambda network: network(images, pool[0]), device=model.target.kind)
    return peak


@dataclass(frozen=True, kw_only=True, slots=True)
class _Static:
    """What was prepared, why the others were not, and the memory it takes."""

    networks: dict[str, Network] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    peak_bytes: dict[str, int | None] = field(default_factory=dict)


def _static_networks(model: CompiledModel, images: Tensor, options: Options) -> _Static:
    """Those that run here, each called twice. InputError where none of them is torch's."""
    found = _Static()
    made: dict[str, Callable[[], Network]] = {OURS: lambda: in_laudc(model)}
    made |= baselines(model.lowering.converted, images, dtype=images.dtype, compiled=options.compiled)
    for name in options.static:
        if name not in made:
            raise UnknownName.among("static variant", name, made)
    network = static_program(model.lowering.converted).graph
    weights = sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers())) * images.element_size()
    for name in options.static or made:
        options.now(f"preparing the static network by {name}")
        try:
            found.networks[name], peak = measured_bytes(
                made[name], lambda network: network(images), device=images.device.type
            )
        except LaudcError as error:
            found.notes[name] = error.fact
        except Exception as error:  # whatever torch's compilers raise; it is told, and the rest is measured
            found.notes[name] = _words(error)
        else:
            shared = 0 if name == OURS else weights  # torch's variants share weights that stood before
            found.peak_bytes[name] = None if peak is None else peak + shared
    if found.networks.keys() <= {OURS}:
        why = "".join(f" ({name}: {words})" for name, words in found.notes.items())
        raise InputError(f"no static network by torch is there to compare with{why}", "let torch be among them")
    return found


def _words(error: Exception) -> str:
    """In one line; of what a compiler behind torch raised, not that one did."""
    error = getattr(error, "inner_exception", error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no words'}"
