"""The operations of a Program, one a file: a frozen spec, a plain torch reference, a count of its arithmetic."""

from __future__ import annotations

from laudc.ops.base import Op, Spec
from laudc.plugins import Plugins

OPS: Plugins[type[Op]] = Plugins(package="laudc.ops", attribute="OP", kind="operation")

__all__ = ["OPS", "Op", "Spec"]
