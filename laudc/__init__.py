"""laudc compiles latency-aware dynamic networks: the work that a mask skips is really skipped.

    import laudc, torchvision

    model = laudc.transform(torchvision.models.resnet50(), paradigm="spatial")
    network = laudc.compile(model, target="cpu")

Importing laudc loads neither torch nor tvm: a public name is fetched when it is first used. It also installs the
hook of `laudc.torchvision_repair`, so import laudc before torchvision or timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from laudc import torchvision_repair
from laudc.errors import LaudcError

if TYPE_CHECKING:
    from laudc.api import compile, load, save, transform

__all__ = ["LaudcError", "__version__", "compile", "load", "save", "transform"]
__version__ = "0.1.0"

_HOMES = {"compile": "laudc.api", "load": "laudc.api", "save": "laudc.api", "transform": "laudc.api"}

torchvision_repair.install()


if not TYPE_CHECKING:  # or every misspelt name would have a type

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'laudc' has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
