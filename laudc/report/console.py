"""What a command says: a table or JSON on stdout, progress on stderr.

Piped output is not wrapped or cut, so a name found in a table can be searched for; `COLUMNS`, where it is set, is the
width for pipes and terminals alike.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

_PIPED_WIDTH = 10_000
_GAP = 3  # characters between two columns
_BAR = 24  # characters


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints `rows` below `title`; a column of numbers, or of gaps, stands on the right. No word is ever broken."""
    cells = [list(row) for row in rows]
    written = [[column, *(str(row[index]) for row in cells)] for index, column in enumerate(columns)]
    wide = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()  # rich reads it too
    console = Console(width=None if wide else _PIPED_WIDTH, highlight=False)
    widths = _widths(written, console.width - _GAP * len(columns))
    console.width = max(console.width, sum(widths) + _GAP * len(columns))
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        numbers = bool(cells) and all(row[index] == "" or isinstance(row[index], int | float) for row in cells)
        grid.add_column(Text(column), justify="right" if numbers else "left", width=width)
    for row in cells:
        grid.add_row(*(Text(str(cell)) for cell in row))
    console.print(Text(title, style="bold"))
    console.print(grid)


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Of each column at least its longest word; what room is left goes to the columns in order."""
    widths = [max(cell_len(word) for text in column for word in (text.split() or [""])) for column in columns]
    spare = max(room - sum(widths), 0)
    for index, column in enumerate(columns):
        wanted = min(spare, max(map(cell_len, column)) - widths[index])
        widths[index] += wanted
        spare -= wanted
    return widths


def print_json(value: Json) -> None:
    """Prints `value` for a program; NaN and infinity, which JSON lacks, are a ValueError."""
    print(json.dumps(value, indent=2, allow_nan=False), flush=True)


def bar(what: str, ready: int, total: int) -> str:
    """How far `what` is, for `progress`."""
    done = _BAR * ready // max(total, 1)
    return f"{what} {'━' * done}{'╌' * (_BAR - done)} {ready}/{total}"


@contextmanager
def progress(description: str, *, after_s: float = 2.0) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr, if it is a terminal and the work takes longer than `after_s`; yields what renames it."""
    if not sys.stderr.isatty():
        yield lambda description: None
        return
    spinner = Console(stderr=True).status(escape(description))
    start = threading.Timer(after_s, spinner.start)
    start.start()
    try:
        yield lambda description: spinner.update(escape(description))
    finally:
        start.cancel()
        start.join()
        spinner.stop()
