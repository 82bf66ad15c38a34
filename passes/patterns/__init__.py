"""Residual blocks by name: one pattern a file, the most specific asked first."""

from __future__ import annotations

from laudc.passes.patterns.base import Match, Pattern, Region
from laudc.plugins import Plugins

PATTERNS: Plugins[Pattern] = Plugins(package="laudc.passes.patterns", attribute="PATTERN", kind="pattern")

__all__ = ["PATTERNS", "Match", "Pattern", "Region"]
