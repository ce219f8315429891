"""Arrow IPC streams in parts, for both ends of a training read: batches become bytes of bounded size, and bytes become batches.

Neither end holds more than a batch: a part is made when it is asked for, and received when a batch needs it. pyarrow is imported where
Arrow is asked for, since the client does without it elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidArgumentError

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 3 << 20  # of a message: well below every limit on its size


def to_parts(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[bytes, int]]:
    """Return batches as parts of an IPC stream, each with the number of rows that it completes.

    >>> import pyarrow as pa
    >>> batch = pa.record_batch({"a": [1, 2]})
    >>> [rows for part, rows in to_parts(batch.schema, [batch])]
    [2, 0]
    """
    import pyarrow as pa

    file = _Written()
    with pa.ipc.new_stream(pa.PythonFile(file, mode="w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield from _cut(file.take(), batch.num_rows)
    yield from _cut(file.take(), 0)


def from_parts(parts: Iterable[bytes]) -> pa.RecordBatchReader:
    """Return the batches of an IPC stream that comes in parts, cut anywhere.

    Raises:
        InvalidArgumentError: The bytes are no such stream.

    >>> import pyarrow as pa
    >>> batch = pa.record_batch({"a": [1, 2]})
    >>> from_parts(part for part, _ in to_parts(batch.schema, [batch])).read_all().to_pydict()
    {'a': [1, 2]}
    """
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(pa.PythonFile(_Received(iter(parts)), mode="r"))
    except pa.ArrowInvalid as error:
        raise _no_stream(error) from error


def batches_of(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a stream, and say so when it breaks off.

    Raises:
        InvalidArgumentError: The stream is damaged, or ends before its time.
    """
    import pyarrow as pa

    try:
        yield from reader
    except (pa.ArrowInvalid, OSError) as error:
        raise _no_stream(error) from error


def _no_stream(error: Exception) -> InvalidArgumentError:
    return InvalidArgumentError(f"The bytes are not an Arrow IPC stream: {error}.", place="$.spine")


def _cut(data: bytes, rows: int) -> Iterator[tuple[bytes, int]]:
    for start in range(0, len(data), PART_BYTES):
        yield data[start : start + PART_BYTES], rows if start + PART_BYTES >= len(data) else 0


class _Written:
    """A file that keeps what was written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._data: list[bytes] = []

    def write(self, data: Any) -> int:
        self._data.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._data = b"".join(self._data), []
        return data

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Nothing is open."""


class _Received:
    """A file whose bytes come in parts."""

    closed = False

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        taken: list[memoryview] = []
        missing = size if size >= 0 else 1 << 62
        while missing and (self._rest or self._receive()):
            taken.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(taken[-1])
        return b"".join(taken)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """The stream ends by itself."""

    def _receive(self) -> bool:
        self._rest = memoryview(next((part for part in self._parts if part), b""))
        return bool(self._rest)
