"""Make torchvision (and so timm) importable where its binary does not load.

The torchvision wheel is linked to CUDA libraries. Beside a CPU build of torch its binary stays unloaded, and

    import torchvision    ->    RuntimeError: operator torchvision::nms does not exist

although no network here needs the binary. After `import laudc`, the first import of torchvision, by whomever, first
asks torchvision whether its binary loads. If it does, nothing is touched. If not, the two operators that the import
itself asks for are defined, and `nms` computes in plain torch on the CPU:

    works             classification, Faster R-CNN, Mask R-CNN, RetinaNet, FCOS: inference and training
    stays broken      deform_conv2d, ps_roi_align, ps_roi_pool, torchvision.io (read images with PIL)

The hook leaves once torchvision is there. An import that failed before laudc came is no obstacle: what it left behind
is cleared, and the next `import torchvision` works. A torchvision that is already there is left alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[torch.library.Library] = []  # torch forgets an operator when its Library is collected


def install() -> None:
    """Repair torchvision when it is first imported; does nothing if it is there, or the hook is."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The rows of `boxes` that no better-scored kept box overlaps by more than the threshold, best first."""
    import torch

    order = scores.argsort(descending=True, stable=True)
    left, top, right, bottom = boxes[order].double().unbind(1)
    area = (right - left) * (bottom - top)
    alive = torch.ones_like(order, dtype=torch.bool)
    for best in range(len(order)):
        if not alive[best]:
            continue
        rest = slice(best + 1, None)
        width = right[rest].clamp(max=right[best]) - left[rest].clamp(min=left[best])
        height = bottom[rest].clamp(max=bottom[best]) - top[rest].clamp(min=top[best])
        overlap = width.clamp(min=0) * height.clamp(min=0)
        alive[rest] &= ~(overlap / (area[best] + area[rest] - overlap) > iou_threshold)
    return order[alive]


class _Finder(MetaPathFinder):
    """Finds torchvision where it is, and has it loaded with care."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]  # left by an import that failed
        # Of torchvision's own files only this one can run before the operators exist, and it knows if the binary loads.
        broken = not importlib.import_module("torchvision.extension")._has_ops()
        if broken:
            _define_operators()
        super().exec_module(module)
        if broken:
            importlib.import_module("torchvision.ops.boxes").__dict__["_assert_has_ops"] = _has_ops_enough
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def _define_operators() -> None:
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms" + _SCHEMA)
    library.define("qnms" + _SCHEMA)  # for quantised boxes: torchvision only registers its shape
    library.impl("nms", nms, "CPU")
    _kept.append(library)


def _has_ops_enough() -> None:
    """In place of the check that guards `nms`, which is there now."""
