"""The networks that GPU scripts measure: by name, with random weights, the first block of each stage static.

    python scripts/gpu_networks.py --build                 anywhere: build the kernels into the cache ($LAUDC_CACHE)
    python scripts/gpu_networks.py -o FOLDER               where the cache is: write a .laud file for each
    python scripts/gpu_networks.py --batch 128 ...         those of one batch

Where TVM's compiler is absent (only its runtime), the second finds its kernels in the cache of the first. A name says
it all: resnet101-spatial-8-4-7-1-r0.5-b128 is ResNet-101 with patches of 8, 4, 7 and 1, tiles for rate .5, batch 128.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import laudc
from laudc.compiled import CompiledModel
from laudc.errors import InputError
from laudc.models import condition_random, open_model
from laudc.static_network import in_laudc


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One network; `rate` is what its tiles are chosen for."""

    network: str
    paradigm: str
    granularity: str | None
    rate: float
    batch: int
    dtype: str = "float16"
    size: int = 224

    def __str__(self) -> str:
        way = f"{self.paradigm}-{self.granularity}" if self.granularity else self.paradigm
        return f"{self.network}-{way}-r{self.rate:g}-b{self.batch}"

    @classmethod
    def named(cls, name: str, *, dtype: str = "float16", size: int = 224) -> Case:
        """The inverse of `str`. InputError for anything else."""
        found = re.fullmatch(r"(\w+)-([a-z+]+)(?:-([\d+-]+))?-r([\d.]+)-b(\d+)", name)
        if found is None:
            raise InputError(f"{name!r} is no network's name", "write resnet101-spatial-8-4-7-1-r0.5-b128")
        network, paradigm, granularity, rate, batch = found.groups()
        return cls(
            network=network,
            paradigm=paradigm,
            granularity=granularity,
            rate=float(rate),
            batch=int(batch),
            dtype=dtype,
            size=size,
        )

    def compiled(self, target: str) -> CompiledModel:
        """Built, or found in the cache."""
        module = open_model(self.network, seed=0, pretrained=False).module
        dynamic = laudc.transform(
            module,
            torch.randn(1, 3, self.size, self.size, generator=torch.Generator().manual_seed(0)),
            paradigm=self.paradigm,
            granularity=self.granularity,
            rate=self.rate,
            keep_first=True,
        )
        condition_random(dynamic.program)
        return laudc.compile(dynamic.eval(), target, self.batch, dtype=self.dtype)


JUDGED = tuple(
    Case.named(f"resnet101-{way}-b{batch}")
    for way, batches in (
        ("layer-r0.4", (128, 8, 1)),
        ("spatial-8-4-7-1-r0.5", (128,)),
        ("channel-16-r0.5", (128,)),
        ("channel-32-r0.5", (128,)),
        ("channel-64-r0.5", (128,)),
    )
    for batch in batches
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="by default those that are judged")
    parser.add_argument("--target", default="h200")
    parser.add_argument("--build", action="store_true", help="only build the kernels, the static networks' too")
    parser.add_argument("--batch", type=int, help="of those that are judged, only these")
    parser.add_argument("-o", "--output", type=Path, default=Path("."))
    options = parser.parse_args()
    cases = [Case.named(name) for name in options.names] or [
        case for case in JUDGED if options.batch in (None, case.batch)
    ]
    statics = set()
    for case in cases:
        start = time.perf_counter()
        model = case.compiled(options.target)
        static = (case.network, case.batch, case.dtype, case.size)
        if options.build and static not in statics:
            statics.add(static)
            in_laudc(model)
        print(f"{case}: {len(model.binaries)} kernels in {time.perf_counter() - start:.0f} s", flush=True)
        if not options.build:
            laudc.save(model, options.output / f"{case}.laud", force=True)


if __name__ == "__main__":
    main()
