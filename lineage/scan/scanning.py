"""Scans a repository: its Python, notebooks, SQL and configuration files."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from lineage.scan.calls import SQL
from lineage.scan.files import Modules, SourceFile, files_of, that_may_read
from lineage.scan.following import Sighting
from lineage.scan.interpreter import Interpreter
from lineage.scan.notebooks import Cell, Notebook, read_notebook
from lineage.scan.references import Confidence, Findings, Reference, Scan, Unread, Unresolved
from lineage.scan.run import TooInvolvedError
from lineage.scan.settings import settings_in
from lineage.scan.statements import tables_in
from lineage.scan.values import HOLE, Foreign, Service, Text

Found = Reference | Unresolved | Unread
_SETTINGS = (".yaml", ".yml", ".toml", ".json")
_LONGEST = 160  # characters of an expression that are shown


def scan(root: str | Path, *, tests: bool = False, exclude: Iterable[str] = (), repository: str = "") -> Scan:
    """Find what the code of a repository reads: features, feature services and tables.

    Nothing of it is executed or imported.

    Args:
        root: A folder, or one file.
        tests: Whether test code counts.
        exclude: Patterns of paths from the root to leave out, such as ``examples/``.
        repository: Its name; empty takes the name of the folder.

    Raises:
        NotFoundError: There is no such folder.
    """
    root = Path(root)
    findings = Findings()
    found: list[SourceFile] = []
    for file in files_of(root, tests=tests, exclude=exclude):
        if isinstance(file, SourceFile):
            found.append(file)
        else:
            findings.add([Unread(file[0], 1, file[1])])
    _scan_python(found, findings)
    for file in found:
        findings.add(_read_other(file))
    return Scan(
        repository or root.resolve().name,
        len(found) + len(findings.unread),
        tuple(sorted(findings.references.values())),
        tuple(sorted(findings.unresolved.values())),
        tuple(sorted(findings.unread.values())),
    )


def _read_other(file: SourceFile) -> Iterator[Found]:
    text = file.content.decode("utf-8", errors="replace")
    try:
        if file.name.endswith(".sql"):
            yield from _from_statement(text, file.name, _Lines(text).place, "sql", Confidence.literal)
        elif file.name.endswith(_SETTINGS) and _may_name(text):
            yield from _from_settings(file.name, text)
    except (ValueError, RecursionError) as error:
        yield Unread(file.name, 1, _one_line(error))


def _may_name(text: str) -> bool:
    return "feature" in text or ".parquet" in text or "://" in text or SQL.search(text) is not None


def _from_settings(name: str, text: str) -> Iterator[Found]:
    lines = _Lines(text)
    for setting in settings_in(name, text):
        line, column = lines.place(setting.offset)
        if setting.kind == "sql":
            place = partial(lines.place_after, setting.offset)
            yield from _from_statement(setting.text, name, place, "setting", Confidence.literal)
        elif setting.known:
            yield Reference(name, line, column, setting.kind, setting.text, Confidence.literal, "setting")
        else:
            kind = "table" if setting.kind == "table" else "feature"
            yield Unresolved(name, line, column, kind, setting.text, setting.text, "setting")


def _from_statement(
    text: str,
    file: str,
    place: Callable[[int], tuple[int, int]],
    call: str,
    confidence: Confidence,
    consumer: str = "",
    cell: int = 0,
) -> Iterator[Found]:
    for table in tables_in(text):
        line, column = place(table.offset)
        if table.known:
            yield Reference(file, line, column, "table", table.name, confidence, call, consumer, cell)
        else:
            yield Unresolved(file, line, column, "table", _shown(text), table.name, call, cell)


def _shown(text: str) -> str:
    plain = " ".join(text.replace(HOLE, "*").split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


def _one_line(error: Exception) -> str:
    return _shown(str(error)) or type(error).__name__


class _Lines:
    """Turns offsets in a text into lines and columns, both from 1."""

    def __init__(self, text: str) -> None:
        self._text = text

    def place(self, offset: int) -> tuple[int, int]:
        """Return the line and the column of an offset."""
        before = self._text.rfind("\n", 0, offset)
        return self._text.count("\n", 0, offset) + 1, offset - before

    def place_after(self, start: int, offset: int) -> tuple[int, int]:
        """Return the line and the column of an offset that counts from another."""
        return self.place(start + offset)


def _scan_python(found: Iterable[SourceFile], findings: Findings) -> None:
    sources = {file.name: file.content for file in found if file.name.endswith((".py", ".pyi"))}
    notebooks: dict[str, Notebook] = {}
    for file in found:
        if file.name.endswith(".ipynb"):
            try:
                notebooks[file.name] = read_notebook(file.content.decode("utf-8", errors="replace"))
            except (ValueError, RecursionError) as error:
                findings.add([Unread(file.name, 1, _one_line(error))])
    codes = {
        **sources,
        **{name: notebook.text.encode() for name, notebook in notebooks.items() if notebook.text.strip()},
    }
    _Python(codes, notebooks, findings).run()
    for name, notebook in notebooks.items():
        for cell in notebook.statements:
            findings.add(_from_cell(name, cell))


def _from_cell(name: str, cell: Cell) -> Iterator[Found]:
    lines = _Lines(cell.text)

    def place(offset: int) -> tuple[int, int]:
        line, column = lines.place(offset)
        return cell.lines[line - 1], column

    try:
        yield from _from_statement(cell.text, name, place, "sql", Confidence.literal, cell=cell.number)
    except ValueError as error:
        yield Unread(name, cell.lines[0], f"cell {cell.number}: {_one_line(error)}")


class _Python:
    """Scans the Python files and notebooks together, since they import each other."""

    def __init__(self, sources: Mapping[str, bytes], notebooks: Mapping[str, Notebook], findings: Findings) -> None:
        self._sources, self._notebooks, self._findings = sources, notebooks, findings
        self._sightings: list[Sighting] = []
        self._interpreter = Interpreter(self._parse, Modules(sources), self._sightings.append)

    def run(self) -> None:
        names = that_may_read(self._sources)
        # Functions are run twice: a class may be made in a file that comes later.
        for step in (self._interpreter.run, self._interpreter.run_functions, self._interpreter.run_functions):
            for name in names:
                try:
                    step(name)
                except TooInvolvedError:
                    self._findings.add([Unread(name, 1, "it is too involved to be followed to its end")])
                except RecursionError:
                    self._findings.add([Unread(name, 1, "it is nested too deeply")])
        for sighting in self._sightings:
            self._findings.add(self._found(sighting))

    def _parse(self, name: str) -> ast.Module | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the code that is scanned
                return ast.parse(self._sources[name], filename=name)
        except SyntaxError as error:
            line, _ = self._line(name, error.lineno or 1)
            self._findings.add([Unread(name, line, f"it is no Python 3: {error.msg}")])
        except (ValueError, RecursionError, MemoryError) as error:
            self._findings.add([Unread(name, 1, _one_line(error))])
        return None

    def _line(self, name: str, line: int) -> tuple[int, int]:
        notebook = self._notebooks.get(name)
        return notebook.place(line) if notebook else (line, 0)

    def _found(self, sighting: Sighting) -> Iterator[Found]:
        file, node, read = sighting.file, sighting.node, sighting.read
        line, cell = self._line(file, getattr(node, "lineno", 1))
        column = getattr(node, "col_offset", 0) + 1
        atom = sighting.atom
        if isinstance(atom, Service):
            if atom.recorded:
                return
            kind, text = "service", atom.name
        elif isinstance(atom, Text):
            kind, text = read.kind, atom
        else:
            causes = _foreign_leaves(atom)
            yield from self._unresolved(sighting, line, column, cell, "*", causes)
            return
        if read.kind == "sql":
            yield from self._statement(sighting, text, line, column, cell)
        elif not text.known:
            yield from self._unresolved(
                sighting, line, column, cell, text.text.replace(HOLE, "*"), _foreign_leaves(text)
            )
        elif text.text:
            if kind == "feature" and ":" not in text.text:
                kind = "service"
            yield Reference(
                file, line, column, kind, text.text, _confidence(text, sighting), read.call, read.consumer, cell
            )

    def _statement(self, sighting: Sighting, text: Text, line: int, column: int, cell: int) -> Iterator[Found]:
        read = sighting.read
        try:
            found = _from_statement(
                text.text,
                sighting.file,
                lambda _: (line, column),
                read.call,
                _confidence(text, sighting),
                read.consumer,
                cell,
            )
            for item in found:
                if isinstance(item, Reference) or not self._settled(_foreign_leaves(text)):
                    yield item
        except ValueError:
            yield from self._unresolved(sighting, line, column, cell, _shown(text.text), ())

    def _unresolved(
        self, sighting: Sighting, line: int, column: int, cell: int, pattern: str, causes: Iterable[Foreign]
    ) -> Iterator[Unresolved]:
        if not self._settled(causes):
            kind = "table" if sighting.read.kind in ("table", "sql") else "feature"
            expression = _shown(ast.unparse(sighting.argument))
            yield Unresolved(sighting.file, line, column, kind, expression, pattern, sighting.read.call, cell)

    def _settled(self, causes: Iterable[Foreign]) -> bool:
        """Say whether all that is missing are parameters of functions whose calls are in the repository."""
        found = list(causes)
        return bool(found) and all(
            c.causes and c.causes <= self._interpreter.called - self._interpreter.cut for c in found
        )


def _foreign_leaves(atom: object) -> list[Foreign]:
    if isinstance(atom, Foreign):
        return [atom]
    return [leaf for leaf in atom.leaves if isinstance(leaf, Foreign)] if isinstance(atom, Text) else []


def _confidence(text: Text, sighting: Sighting) -> Confidence:
    if text.made_of:
        return Confidence.folded
    node = sighting.node
    start = (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
    end = (getattr(node, "end_lineno", 0), getattr(node, "end_col_offset", 0))
    inside = text.file == sighting.file and start <= text.at < end
    return Confidence.literal if inside else Confidence.alias
