"""Lines in panels, as PNG or SVG. The same lines make the same bytes, with one release of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from laudc.errors import InputError, ToolchainError

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""By label, points (x, y)."""

_FORMATS = {".png": {"Software": None}, ".svg": {"Creator": None, "Date": None}}
"""By suffix, what matplotlib would write into the file and we do not want there."""
_COLUMNS = 3
_PANEL_INCHES = (4.0, 3.0)


def check_plot(path: Path) -> None:
    """Before any work: InputError unless the file's suffix is one we draw, ToolchainError without matplotlib."""
    from importlib.util import find_spec

    if path.suffix not in _FORMATS:
        raise InputError(f"{path} is neither a .png nor a .svg", "name such a file, such as predict.svg")
    if find_spec("matplotlib") is None:
        raise ToolchainError("matplotlib is not installed, which draws the plots", "pip install matplotlib")


def ratio_plot(
    suffix: str, title: str, panels: Mapping[str, Lines], *, x_label: str, y_label: str, log_x: bool = False
) -> bytes:
    """A file with one panel for each set of lines; a dashed line stands at y = 1. `suffix`: ".png" or ".svg"."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = _PANEL_INCHES
    with matplotlib.rc_context({"svg.hashsalt": "laudc", "svg.fonttype": "path", "font.size": 8}):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        figure.suptitle(title)
        for number, (name, lines) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, columns, number)
            axes.set(title=name, xlabel=x_label, ylabel=y_label)
            axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
            for label, points in lines.items():
                axes.plot([x for x, _ in points], [y for _, y in points], marker=".", label=label)
            if log_x:
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter("{x:g}")
            axes.set_ylim(bottom=0)
            axes.legend()
        file = io.BytesIO()
        figure.savefig(file, format=suffix.removeprefix("."), dpi=150, metadata=_FORMATS[suffix])
    return file.getvalue()
