"""Tables in files that people hand to the command line: Parquet, CSV, JSON lines, Arrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    import pyarrow as pa


def read_table(path: Path) -> pa.Table:
    """Read a table; the ending says the format.

    Raises:
        NotFoundError: There is no such file.
        InvalidArgumentError: Another ending, or a file that is not what its ending says.
    """
    import pyarrow as pa

    if not path.is_file():
        raise NotFoundError.of(
            "file", str(path), [str(p) for p in path.parent.glob("*")] if path.parent.is_dir() else []
        )
    reader = _readers().get(path.suffix)
    if reader is None:
        raise InvalidArgumentError(f"'{path.name}' has no known ending.", repair=f"Use one of {', '.join(_readers())}.")
    try:
        return reader(path)
    except pa.ArrowException as error:
        raise InvalidArgumentError(f"'{path}' cannot be read as {path.suffix}: {error}.", place=str(path)) from error


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet (zstd)."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _readers() -> Mapping[str, Callable[[Path], pa.Table]]:
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.json
    import pyarrow.parquet

    return {
        ".parquet": pyarrow.parquet.read_table,
        ".csv": pyarrow.csv.read_csv,
        ".jsonl": pyarrow.json.read_json,
        ".arrow": pyarrow.feather.read_table,
    }
