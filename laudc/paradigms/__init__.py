"""Ways to be dynamic, one a file: what is decided, where the masker sits, where the mask acts."""

from __future__ import annotations

from laudc.paradigms.base import Paradigm
from laudc.plugins import Plugins

PARADIGMS: Plugins[Paradigm] = Plugins(package="laudc.paradigms", attribute="PARADIGM", kind="paradigm")

__all__ = ["PARADIGMS", "Paradigm"]
