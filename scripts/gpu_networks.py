"""The networks that GPU scripts measure: by name, with random weights, the first block of each stage static.

    python scripts/gpu_networks.py --build                 anywhere: build the kernels into the cache ($LAUDC_CACHE)
    python scripts/gpu_networks.py b128 -o FOLDER          where the cache is: write a .laud file for each of that part
    python scripts/gpu_networks.py NAME ...                those networks

Where TVM's compiler is absent (only its runtime), the second finds its kernels in the cache of the first. A name says
it all: resnet101-spatial-8-4-7-1-r0.5-b128 is ResNet-101 with patches of 8, 4, 7 and 1, tiles for rate .5, batch 128;
behind it -without-gather-conv leaves a fusion out, -without-all all of them.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

import laudc
from laudc.compiled import CompiledModel
from laudc.errors import InputError
from laudc.models import condition_random, open_model
from laudc.pipeline import optional_passes
from laudc.static_network import in_laudc

ALL = "all"
_THREADS = 2
"""Of each process that makes networks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One network; `rate` is what its tiles are chosen for, `without` the fusion that is left out, or `ALL`."""

    network: str
    paradigm: str
    granularity: str | None
    rate: float
    batch: int
    without: str | None = None
    dtype: str | None = None
    """By default the target's."""
    size: int = 224

    def __str__(self) -> str:
        way = f"{self.paradigm}-{self.granularity}" if self.granularity else self.paradigm
        less = f"-without-{self.without}" if self.without else ""
        return f"{self.network}-{way}-r{self.rate:g}-b{self.batch}{less}"

    @classmethod
    def named(cls, name: str, *, dtype: str | None = None, size: int = 224) -> Case:
        """The inverse of `str`. InputError for anything else."""
        found = re.fullmatch(r"(\w+)-([a-z+]+)(?:-([\d+-]+))?-r([\d.]+)-b(\d+)(?:-without-([a-z-]+))?", name)
        if found is None:
            raise InputError(f"{name!r} is no network's name", "write resnet101-spatial-8-4-7-1-r0.5-b128")
        network, paradigm, granularity, rate, batch, without = found.groups()
        return cls(
            network=network,
            paradigm=paradigm,
            granularity=granularity,
            rate=float(rate),
            batch=int(batch),
            without=without,
            dtype=dtype,
            size=size,
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """The fusions that are left out."""
        return optional_passes() if self.without == ALL else (self.without,) if self.without else ()

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
        return laudc.compile(dynamic.eval(), target, self.batch, dtype=self.dtype, without=self.left_out)


_SPATIAL = "spatial-8-4-7-1-r0.5"
_WAYS = ("layer-r0.5", _SPATIAL, "channel-32-r0.5")
_STATIC_FUSIONS = ("max-pool", "shortcut", "conv-add")
_FUSIONS = {
    "layer-r0.5": ("", *_STATIC_FUSIONS, "gather-conv", "scatter-add", "whole-samples", "keep-sums", ALL),
    _SPATIAL: ("", *_STATIC_FUSIONS, "masker-conv", "gather-conv", "scatter-add", "row-lists", "keep-means", ALL),
}
"""By way, the optional passes that change it."""


def _cases(network: str, batch: int, *ways: str) -> tuple[Case, ...]:
    return tuple(Case.named(f"{network}-{way}-b{batch}") for way in ways)


PARTS: Mapping[str, tuple[Case, ...]] = {
    "b1": _cases("resnet101", 1, "layer-r0.4"),
    "b8": _cases("resnet101", 8, "layer-r0.4"),
    "b128": _cases("resnet101", 128, "layer-r1", "layer-r0.4", _SPATIAL, "channel-16-r0.5", "channel-32-r0.5"),
    "resnet50": _cases("resnet50", 128, "layer-r0.5", _SPATIAL, "channel-16-r0.5"),
    "granularity": _cases(
        "resnet101",
        128,
        "spatial-4-4-2-1-r0.5",
        *(f"channel-{width}-r0.5" for width in (1, 2, 8, 16, 32)),
        "spatial+channel-8-4-7-1+32-r0.5",
    ),
    "ways-b8": _cases("resnet101", 8, *_WAYS),
    "ways-b32": _cases("resnet101", 32, *_WAYS),
    "curves": _cases("resnet101", 128, *_WAYS),
    "fusion": tuple(
        Case.named(f"resnet101-{way}-b128" + (f"-without-{less}" if less else ""))
        for way, left_out in _FUSIONS.items()
        for less in left_out
    ),
}
"""By part of `gpu_all`, each one run of `laudc bench`; docs/benchmarks/judged.toml asks for the first three."""


def make(case: Case, target: str, folder: Path | None, *, static: bool) -> str:
    """Compile it, `static`: also the network without its masks, and write its file into the folder; what was made."""
    start = time.perf_counter()
    model = case.compiled(target)
    if static:
        in_laudc(model)
    if folder is not None:
        laudc.save(model, folder / f"{case}.laud", force=True)
    return f"{case}: {len(model.binaries)} kernels in {time.perf_counter() - start:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(PARTS), help=f"networks or {', '.join(PARTS)}; by default all")
    parser.add_argument("--target", default="h200")
    parser.add_argument("--build", action="store_true", help="only build the kernels, the static networks' too")
    parser.add_argument("-o", "--output", type=Path, default=Path("."))
    options = parser.parse_args()
    asked = [PARTS.get(name) or (Case.named(name),) for name in options.names]
    cases = list(dict.fromkeys(case for some in asked for case in some))
    of_static = {(case.network, case.batch): case for case in reversed(cases)} if options.build else {}
    folder = None if options.build else options.output
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    workers = min(len(cases), max(1, (os.cpu_count() or 1) // _THREADS))
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (_THREADS,)) as pool:
        made = [pool.submit(make, case, options.target, folder, static=case in of_static.values()) for case in cases]
        for one in made:
            print(one.result(), flush=True)


if __name__ == "__main__":
    main()
