"""Masks at a wanted rate, stratified and not drawn: how many units are on is exact, only which ones is random.

The whole (block x sample x unit) grid holds round(rate * N) active units. Each block gets its share rounded down;
the units that remain are given to the blocks whose FLOPs bring the total nearest to the rate, out of some random
ways to give them. At batch 1 that balances whole blocks by FLOPs. The masks are a pure function of the shapes, the
batch (its samples share one count), the rate, the seed and the call.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.plan import check_rate

_CANDIDATES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskShape:
    """One masker: the name of its masks, one sample's units, and what its block costs when all is on."""

    key: str
    units: tuple[int, ...]
    macs: float


def stratified_masks(
    shapes: Sequence[MaskShape], *, batch: int, rate: float, seed: int, call: int = 0
) -> dict[str, Tensor]:
    """Decisions (batch, *units), float32, by key."""
    check_rate(rate)
    counts = _counts(shapes, batch, rate, _generator(seed, call, ""))
    return {
        shape.key: _one(shape, batch, count, _generator(seed, call, shape.key))
        for shape, count in zip(shapes, counts, strict=True)
    }


def _generator(seed: int, call: int, key: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {call} {key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _counts(shapes: Sequence[MaskShape], batch: int, rate: float, generator: torch.Generator) -> list[int]:
    """How many units of each block are on, over all samples."""
    sizes = [batch * math.prod(shape.units) for shape in shapes]
    counts = [math.floor(rate * size) for size in sizes]
    missing = round(rate * sum(sizes)) - sum(counts)
    can_take = [index for index, size in enumerate(sizes) if counts[index] < size]
    if missing <= 0 or not can_take:
        return counts
    per_unit = [shape.macs / size for shape, size in zip(shapes, sizes, strict=True)]
    wanted = rate * sum(shape.macs for shape in shapes) - sum(c * m for c, m in zip(counts, per_unit, strict=True))
    drawn = [torch.randperm(len(can_take), generator=generator)[:missing].tolist() for _ in range(_CANDIDATES)]
    chosen = min(drawn, key=lambda picks: abs(sum(per_unit[can_take[pick]] for pick in picks) - wanted))
    for pick in chosen:
        counts[can_take[pick]] += 1
    return counts


def _one(shape: MaskShape, batch: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` units on over the samples, as even as it goes, in random places."""
    units = math.prod(shape.units)
    per_sample = torch.full((batch,), count // batch)
    extra = torch.randperm(batch, generator=generator)[: count % batch]
    per_sample[extra] += 1
    mask = torch.zeros(batch, units)
    for sample in range(batch):
        on = torch.randperm(units, generator=generator)[: int(per_sample[sample])]
        mask[sample, on] = 1.0
    return mask.view(batch, *shape.units)


def executed_rates(decisions: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of units that were on, by masker."""
    return {key: float((mask != 0).float().mean()) for key, mask in decisions.items()}
