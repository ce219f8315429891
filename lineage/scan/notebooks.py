"""The Python and the SQL of a notebook, with where each line stands in its file."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = re.compile(r"^\s*([%!?]|\w+\s*=\s*[%!])")
_SQL_CELL = re.compile(r"^%%(sql|bigquery|read_sql)\b")
_SQL_LINE = re.compile(r"^\s*(?:\w+\s*(?:<<|=)\s*)?%sql\s+(.+)$")


@dataclass(frozen=True, slots=True)
class Cell:
    """A code cell.

    Attributes:
        number: From 1, over all cells.
        lines: For each line of the text its line in the file, from 1.
    """

    number: int
    text: str
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Notebook:
    """The code of a notebook.

    Attributes:
        text: The Python of all cells, one after the other, with magics taken out.
        cells: The Python cells; their lines make up the text.
        statements: The SQL cells and SQL magics.
    """

    text: str
    cells: tuple[Cell, ...]
    statements: tuple[Cell, ...]

    def place(self, line: int) -> tuple[int, int]:
        """Return the line of the file and the cell that a line of the text (from 1) stands in."""
        starts = []
        total = 0
        for cell in self.cells:
            starts.append(total)
            total += len(cell.lines)
        index = max(0, bisect_right(starts, line - 1) - 1)
        cell = self.cells[index]
        return cell.lines[min(line - 1 - starts[index], len(cell.lines) - 1)], cell.number


def read_notebook(text: str) -> Notebook:
    """Read a notebook.

    Args:
        text: The content of an ``.ipynb`` file.

    Raises:
        ValueError: It is no notebook.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise ValueError("it has no cells")  # noqa: TRY004 - the content of a file, not an argument
    places = _Places(text)
    cells: list[Cell] = []
    statements: list[Cell] = []
    for number, cell in enumerate(document["cells"], 1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        lines = ("".join(source) if isinstance(source, list) else str(source)).split("\n")
        at = tuple(places.line_of(line) for line in lines)
        if _SQL_CELL.match(lines[0]):
            statements.append(Cell(number, "\n".join(["", *lines[1:]]), at))
        elif not lines[0].startswith("%%") or lines[0].startswith(("%%time", "%%capture")):
            cells.append(Cell(number, "\n".join(_without_magic(lines)), at))
            statements += _magic_statements(number, lines, at)
    return Notebook("\n".join(cell.text for cell in cells), tuple(cells), tuple(statements))


def _without_magic(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not _MAGIC.match(line):
            yield line
        else:
            yield re.sub(r"\S.*", "pass", line, count=1)


def _magic_statements(number: int, lines: list[str], at: tuple[int, ...]) -> Iterator[Cell]:
    for line, place in zip(lines, at, strict=True):
        if match := _SQL_LINE.match(line):
            yield Cell(number, match[1], (place,))


class _Places:
    """Finds the lines of the cells in the file, in order."""

    def __init__(self, text: str) -> None:
        self._text, self._cursor, self._line = text, 0, 1

    def line_of(self, source: str) -> int:
        """Return the line of the file that holds a line of a cell, from 1."""
        found = self._text.find(json.dumps(source, ensure_ascii=False)[1:-1], self._cursor) if source.strip() else -1
        if found < 0:
            found = self._text.find(json.dumps(source)[1:-1], self._cursor) if source.strip() else -1
        if found >= 0:
            self._line += self._text.count("\n", self._cursor, found)
            self._cursor = found
        return self._line
