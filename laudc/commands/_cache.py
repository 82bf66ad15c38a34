"""The cache is only a saving, so nothing fails where it cannot be written; but somebody should be told."""

from __future__ import annotations

import tempfile

import click

from laudc.kernels.cache import cache_dir


def warn_of_cache() -> None:
    """One line on stderr where the kernels that are built cannot be kept."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        said = (error.strerror or "unknown reason").lower()
        click.echo(f"kernels are not kept: {folder} cannot be used, {said}; set LAUDC_CACHE to a folder", err=True)
