"""The tables that SQL reads, with their places; templates of dbt and Jinja are understood as far as they name tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lineage.querylog import tables_read
from lineage.scan.values import HOLE

_MARK = "unknown_name"  # stands in a statement for a name that is not known
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_CONTROL = re.compile(r"\{%.*?%\}", re.DOTALL)
_REF = re.compile(r"""\{\{\s*ref\(\s*['"]([\w.]+)['"]\s*\)\s*\}\}""")
_SOURCE = re.compile(r"""\{\{\s*source\(\s*['"]([\w.]+)['"]\s*,\s*['"]([\w.]+)['"]\s*\)\s*\}\}""")
_OTHER = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_PARAMETER = re.compile(r"%\(\w+\)s|%s|\$\{\w+\}|(?<![:\w]):(?=[a-z_])(?!:)")


@dataclass(frozen=True, slots=True)
class TableRead:
    """A table that a statement reads.

    Attributes:
        name: As the statement names it; ``*`` stands for what is not known.
        offset: Where in the text its name begins, from 0.
    """

    name: str
    offset: int

    @property
    def known(self) -> bool:
        """Whether the whole name is known."""
        return "*" not in self.name


def tables_in(text: str) -> Iterator[TableRead]:
    """Yield the tables a SQL text reads, in the order of their names.

    Args:
        text: Statements; HOLE stands for what is not known.

    Raises:
        ValueError: It is no SQL that can be read.

    >>> [table.name for table in tables_in("select * from {{ source('raw', 'flights') }} join plane using (tailnum)")]
    ['plane', 'raw.flights']
    """
    plain = _plain(text)
    for name in sorted(_read(plain)):
        shown = re.sub(f"{_MARK}\\d*", "*", name)
        yield TableRead(shown, _offset(text, shown))


def _read(statement: str) -> frozenset[str]:
    try:
        return tables_read(statement)
    except ValueError:
        for dialect in ("postgres", "spark", "bigquery", "snowflake"):
            try:
                return tables_read(statement, dialect=dialect)
            except ValueError:
                continue
        raise


def _plain(text: str) -> str:
    text = _COMMENT.sub(" ", text)
    text = _SOURCE.sub(r"\1.\2", _REF.sub(r"\1", text))
    text = _CONTROL.sub(" ", text)
    text = _OTHER.sub(_MARK, text).replace(HOLE, _MARK)
    return _PARAMETER.sub(lambda match: "$" if match[0] == ":" else _MARK, text)


def _offset(text: str, name: str) -> int:
    last = name.rpartition(".")[2] if "/" not in name else name
    for wanted in (name, last):
        if "*" not in wanted and (
            match := re.search(rf"(?<![\w.]){re.escape(wanted)}\b|['\"`]{re.escape(wanted)}", text)
        ):
            return match.start()
    return max(0, text.find(HOLE))
