"""The answer of an online read as columns: views into the response where its rows have one stride, generated protobuf otherwise.

Rows that differ in the length of their texts alone are walked once; a text is decoded when its column is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from featurestore.errors import CorruptionError, InvalidArgumentError, NotFoundError
from featurestore.refs import ViewRef
from featurestore.types import DType, instant, numpy_type, wire_reader
from featurestore.v1 import serving_pb2 as pb

STATUSES = ("PRESENT", "NOT_FOUND", "EXPIRED", "NULL")

_NULL = STATUSES.index("NULL")
_STATUS_NAMES = np.array(STATUSES)
_MOVED_TAG = 0x22
_ROW_TAG, _EVENT_TAG, _STATE_TAG, _STRING_TAG = 0x0A, 0x09, 0x15, 0x32
_LANES = (("nulls", 0x1A, "<u8"), ("doubles", 0x22, "<f8"), ("integers", 0x2A, "<i8"))
_SMALLEST_ROW = 18
_VARINT_BITS = 70  # 7 of each of ten bytes
_SHORT = 2  # bytes of the tag and length of a text of up to 127 bytes
_SPECIAL = {"timestamp": "M8[us]", "date": "M8[D]"}


@dataclass(frozen=True, slots=True)
class _Output:
    """Where the values of one output lie.

    Attributes:
        kind: The type of its NumPy column, where that is another than the lane's.
    """

    dtype: DType
    view: int
    lane: str
    index: int
    bit: int
    kind: np.dtype[Any] | None

    @classmethod
    def of(cls, feature: pb.FeatureSchema) -> _Output:
        """Return where the schema says that a feature lies."""
        dtype, kind = DType(feature.dtype), None
        if feature.lane != "strings" and dtype.name not in {"float64", "int64"}:
            kind = np.dtype(_SPECIAL.get(dtype.name) or dtype.name)
        return cls(dtype, feature.view, feature.lane, feature.index, feature.bit, kind)


class Decoder:
    """Reads answers of one plan; keep it, since it remembers what their rows look like.

    Args:
        schema: The plan's schema.
    """

    def __init__(self, schema: pb.Schema) -> None:
        self.schema = schema
        self.outputs = {feature.name: _Output.of(feature) for feature in schema.features}
        self._views = [_ViewDecoder(view) for view in schema.views]

    def decode(self, response: bytes) -> OnlineRows:
        """Read the bytes of a ReadResponse; raises CorruptionError if they are not one, or do not fit the schema."""
        spans, time, position, moved = _split(response)
        if len(spans) != len(self._views):
            raise CorruptionError(f"The response has {len(spans)} views, the schema {len(self._views)}.")
        views = [view.decode(response, *span) for view, span in zip(self._views, spans, strict=True)]
        if len(views) > 1 and len({len(view.records) for view in views}) > 1:
            raise CorruptionError("The views of the response differ in their number of rows.")
        return OnlineRows(self.schema, time, position, views, self.outputs, moved)


def decode(schema: pb.Schema, response: bytes) -> OnlineRows:
    """Read the bytes of one ReadResponse; for several answers of a plan, keep a `Decoder`.

    Args:
        schema: The schema of the plan that was read.
        response: The serialized ReadResponse.

    Raises:
        CorruptionError: The bytes are not such a response, or do not fit the schema.
    """
    return Decoder(schema).decode(response)


class OnlineRows:
    """The rows of one online read: one per key, in the order of the request.

    Attributes:
        schema: The plan's schema.
        time: The instant t that ttl and windows used, microseconds since 1970 UTC.
        position: Sequence number of the last pushed row in the snapshot that was read.
        columns: Output name -> values; what stands at a null is not a value. Numbers, booleans and days in NumPy's types, instants as
            datetime64[us], vectors as one matrix [n, length], texts, binaries and decimals as Python objects, a list of numbers or
            booleans without nulls as an array of its type, other lists and structs as Python lists and dictionaries.
        valid: Output name -> bool[n], False where there is no value.
        status: Output name -> text[n]: PRESENT, NULL (the row says so), NOT_FOUND (no row) or EXPIRED (older than the ttl).
        event_time: Output name -> int64[n], event time of the row in microseconds since 1970 UTC; 0 where there is none.
    """

    def __init__(
        self,
        schema: pb.Schema,
        time: int,
        position: int,
        views: list[_ViewRows],
        outputs: Mapping[str, _Output],
        moved: Sequence[pb.MovedKeys] = (),
    ) -> None:
        self.schema = schema
        self.time = time
        self.position = position
        self._views = views
        self._outputs = outputs
        self._moved = {keys.view: keys for keys in moved}
        self.columns = _Lazy(outputs, self._column)
        self.valid = _Lazy(outputs, self._valid)
        self.status = _Lazy(outputs, self._status)
        self.event_time = _Lazy(outputs, self._event_time)

    def __len__(self) -> int:
        return len(self._views[0].records) if self._views else 0

    @property
    def in_flight(self) -> list[str]:
        """The outputs of which a share of the keys gets another version, while a rollout is under way."""
        return [name for name, output in self._outputs.items() if output.view in self._moved]

    def versions(self, name: str) -> list[str]:
        """Return which view version each key got of an output; all the same unless a rollout is under way.

        Raises:
            NotFoundError: There is no such output.
            CorruptionError: The answer does not say it for each key.
        """
        if name not in self._outputs:
            raise NotFoundError.of("output", name, self._outputs)
        view = self._outputs[name].view
        named = ViewRef.parse(self.schema.views[view].ref)
        usual, moved = f"{named.view}@v{named.version}", self._moved.get(view)
        if moved is None:
            return [usual] * len(self)
        bits = np.unpackbits(np.frombuffer(moved.keys, np.uint8), bitorder="little")[: len(self)].tolist()
        if len(bits) < len(self):
            raise CorruptionError(f"The answer says of {len(bits)} of {len(self)} keys which version they got.")
        return [moved.ref if bit else usual for bit in bits]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return output name -> values as exact Python types, None where there is no value.

        Instants and days outside of the years 1 to 9999 are integers: microseconds, or days since 1970.

        Raises:
            CorruptionError: Bytes that are no value of their type.
        """
        return {name: self._python(name) for name in self._outputs}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per key, in the order of the request."""
        columns = self.to_dict()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def __repr__(self) -> str:
        return f"OnlineRows({len(self)} x {list(self._outputs)}, time={instant(self.time)})"

    def _column(self, name: str) -> NDArray[Any]:
        output = self._outputs[name]
        view = self._views[output.view]
        if output.lane == "strings":
            dtype = output.dtype
            if dtype.family == "vector":
                return view.texts[output.index].matrix(numpy_type(dtype.element), dtype.length)
            arrays = dtype.family == "list" and dtype.element.family in _ARRAYS
            values = self._values(name)
            return np.fromiter(map(_array_of(dtype.element), values) if arrays else values, object, len(values))
        typed: NDArray[Any] = view.records[output.lane][:, output.index]
        return typed if output.kind is None else typed.astype(output.kind, copy=False)

    def _valid(self, name: str) -> NDArray[np.bool_]:
        output = self._outputs[name]
        return ~self._views[output.view].null(output.bit)

    def _status(self, name: str) -> NDArray[np.str_]:
        state = self._views[self._outputs[name].view].records["state"]
        return _STATUS_NAMES[np.where((state == 0) & ~self.valid[name], _NULL, state)]

    def _event_time(self, name: str) -> NDArray[np.int64]:
        times: NDArray[np.int64] = self._views[self._outputs[name].view].records["event_time"]
        return times

    def _python(self, name: str) -> list[Any]:
        output = self._outputs[name]
        if output.lane == "strings":
            return self._values(name)
        numbers = self._views[output.view].records[output.lane][:, output.index].tolist()
        return _read_each(wire_reader(output.dtype), numbers, self.valid[name])

    def _values(self, name: str) -> list[Any]:
        """Return the Python values of an output in the lane of strings."""
        output = self._outputs[name]
        texts = self._views[output.view].texts[output.index].values()
        try:
            return _read_each(wire_reader(output.dtype), texts, self.valid[name])
        except (InvalidArgumentError, UnicodeDecodeError, ArithmeticError) as error:
            raise CorruptionError(f"A value of '{name}' cannot be read: {error}") from error


def _read_each(read: Callable[[Any], Any], values: Sequence[Any], valid: NDArray[np.bool_]) -> list[Any]:
    if valid.all():
        return list(map(read, values))
    return [read(value) if ok else None for value, ok in zip(values, valid.tolist(), strict=True)]


_ARRAYS = {"bool", "int8", "int16", "int32", "int64", "float32", "float64"}


def _array_of(dtype: DType) -> Callable[[Any], Any]:
    def array(values: Any) -> Any:
        return values if values is None or None in values else np.array(values, dtype.name)

    return array


def read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length number at a position, and the position after it.

    Raises:
        IndexError: The buffer ends before the number does, or it has more than the ten bytes of protobuf's longest.

    >>> read_varint(bytes([0x96, 0x01]), 0)
    (150, 2)
    """
    value = shift = 0
    while shift < _VARINT_BITS:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError("The number has more than ten bytes.")


def _split(response: bytes) -> tuple[list[tuple[int, int]], int, int, list[pb.MovedKeys]]:
    """Return where each view's rows lie, the time, the position, and which keys got another version."""
    spans, time, position = [], 0, 0
    moved: list[pb.MovedKeys] = []
    at, size = 0, len(response)
    try:
        while at < size:
            tag = response[at]
            if tag == 0x0A:
                length, first = read_varint(response, at + 1)
                at = first + length
                spans.append((first, at))
            elif tag in (0x11, 0x19):
                number = int.from_bytes(response[at + 1 : at + 9], "little", signed=tag == 0x11)
                time, position = (number, position) if tag == 0x11 else (time, number)
                at += 9
            elif tag == _MOVED_TAG:
                length, first = read_varint(response, at + 1)
                at = first + length
                moved.append(pb.MovedKeys.FromString(response[first:at]))
            else:
                raise CorruptionError(f"Unknown field tag {tag:#x} in the response.", place=f"byte {at}")
    except (IndexError, DecodeError) as error:
        raise CorruptionError("The response is cut off.", place=f"byte {size}") from error
    if at != size:
        raise CorruptionError("The response is cut off.", place=f"byte {size}")
    return spans, time, position, moved


class _Lazy(Mapping[str, Any]):
    """Columns that are made when they are first looked at."""

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], Any]) -> None:
        self._names = names
        self._make = make
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        made = self._made.get(name)
        if made is None:
            if name not in self._names:
                raise NotFoundError.of("output", name, self._names)
            made = self._made[name] = self._make(name)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, slots=True)
class _Texts:
    """Where the values of one text column lie in a response.

    Attributes:
        response: The response.
        starts: Position of each value.
        ends: Position after it.
        stride: Bytes between the values, if it is the same everywhere and they are of one length; else 0.
    """

    response: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    stride: int = 0

    def values(self) -> list[bytes]:
        """Return them."""
        response = self.response
        return [response[start:end] for start, end in zip(self.starts, self.ends, strict=True)]

    def matrix(self, kind: np.dtype[Any], length: int) -> NDArray[Any]:
        """Return vectors as [n, length], zeros where nothing is: a view into the response if they have one stride."""
        wide, count = kind.itemsize * length, len(self.starts)
        if self.stride and self.ends[0] - self.starts[0] == wide:
            return np.ndarray((count, length), kind, self.response, self.starts[0], (self.stride, kind.itemsize))
        vectors = [value or bytes(wide) for value in self.values()]
        if any(len(vector) != wide for vector in vectors):
            raise CorruptionError(f"A vector does not have {wide} bytes.")
        return np.frombuffer(b"".join(vectors), kind).reshape(count, length)


@dataclass(frozen=True, slots=True)
class _ViewRows:
    """The rows of one view by lanes, however they were read."""

    records: NDArray[Any]
    texts: Sequence[_Texts]

    def null(self, bit: int) -> NDArray[np.bool_]:
        """Return which rows are null in one feature."""
        if not len(self.records):
            return np.zeros(0, np.bool_)
        nulls: NDArray[np.bool_] = (self.records["nulls"][:, bit // 64] & np.uint64(1 << (bit % 64))) != 0
        return nulls


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a row looks like: tags, lengths and fixed values at their places.

    Attributes:
        stride: Bytes of the row.
        head: Bytes before its texts.
        constants: (position, byte) of tags and lengths before the texts, without the row's own length.
        lengths: Likewise of the texts, and of the row's length.
        texts: (first byte, byte after the last) of each text.
        whole: The fields before the texts, one record a row.
        heads: Likewise, one record a head.
    """

    stride: int
    head: int
    constants: tuple[tuple[int, bytes], ...]
    lengths: tuple[tuple[int, bytes], ...]
    texts: tuple[tuple[int, int], ...]
    whole: np.dtype[Any]
    heads: np.dtype[Any]

    @classmethod
    def of(cls, row: bytes, view: pb.ViewSchema) -> _Shape | None:
        """Return the shape of a row, or None where its fields have another order or number than the server gives them."""
        _, body = read_varint(row, 1)
        if row[0] != _ROW_TAG or row[body] != _EVENT_TAG or row[body + 9] != _STATE_TAG:
            return None
        fields: list[tuple[str, Any, int]] = [("event_time", "<i8", body + 1), ("state", "<u4", body + 10)]
        constants, at = [0, body, body + 9], body + 14
        counts = {"nulls": None, "doubles": view.doubles, "integers": view.integers}
        for name, tag, kind in _LANES:
            if counts[name] == 0:
                continue
            size, start = read_varint(row, at + 1)
            if row[at] != tag or size != 8 * (counts[name] or size // 8):
                return None
            fields.append((name, (kind, (size // 8,)), start))
            constants += range(at, start)
            at = start + size
        head, lengths, texts = at, list(range(1, body)), []
        for _ in range(view.strings):
            size, start = read_varint(row, at + 1)
            if row[at] != _STRING_TAG:
                return None
            texts.append((start, start + size))
            lengths += range(at, start)
            at = start + size
        if at != len(row):
            return None
        return cls(
            stride=len(row),
            head=head,
            constants=tuple((i, row[i : i + 1]) for i in constants),
            lengths=tuple((i, row[i : i + 1]) for i in lengths),
            texts=tuple(texts),
            whole=_record(fields, len(row)),
            heads=_record(fields, head),
        )


def _record(fields: Sequence[tuple[str, Any, int]], size: int) -> np.dtype[Any]:
    form: dict[str, Any] = {"names": [], "formats": [], "offsets": [], "itemsize": size}
    for field in fields:
        for key, value in zip(("names", "formats", "offsets"), field, strict=True):
            form[key].append(value)
    return np.dtype(form)  # type: ignore[call-overload, no-any-return]  # NumPy's form for a record with gaps


class _ViewDecoder:
    """Reads the rows of one view, and remembers the shape of the last ones."""

    def __init__(self, view: pb.ViewSchema) -> None:
        self._view = view
        self._shape: _Shape | None = None

    def decode(self, response: bytes, first: int, last: int) -> _ViewRows:
        """Return the rows that lie there; raises CorruptionError for bytes that are none."""
        rows = self._rows(response, first, last)
        if rows is None:
            self._shape = self._shape_of(response, first, last)
            rows = self._rows(response, first, last)
        return rows or _parsed(response[first:last], self._view)

    def _rows(self, response: bytes, first: int, last: int) -> _ViewRows | None:
        """Return the rows if they have the shape that is known, or differ from it in the length of texts alone."""
        shape = self._shape
        if shape is None:
            return None
        if _all_have(shape, response, first, last):
            return _strided(shape, response, first, last)
        return _walked(shape, response, first, last) if shape.texts else None

    def _shape_of(self, response: bytes, first: int, last: int) -> _Shape | None:
        if last - first < _SMALLEST_ROW:
            return None
        try:
            length, body = read_varint(response, first + 1)
            return _Shape.of(response[first : min(body + length, last)], self._view)
        except IndexError:
            return None


def _all_have(shape: _Shape, response: bytes, first: int, last: int) -> bool:
    """Say whether all rows have this shape, texts included."""
    count, rest = divmod(last - first, shape.stride)
    if rest or not count:
        return False
    return all(
        response[first + at : last : shape.stride] == byte * count
        for part in (shape.lengths, shape.constants)
        for at, byte in part
    )


def _strided(shape: _Shape, response: bytes, first: int, last: int) -> _ViewRows:
    """View the rows where they lie."""
    stride, size = shape.stride, last - first
    records = np.frombuffer(response, shape.whole, size // stride, first)
    texts = [
        _Texts(response, range(start, start + size, stride), range(end, end + size, stride), stride)
        for start, end in ((first + start, first + end) for start, end in shape.texts)
    ]
    return _ViewRows(records, texts)


def _walked(shape: _Shape, response: bytes, first: int, last: int) -> _ViewRows | None:
    """Read rows that differ in the length of their texts alone, or return None for others."""
    starts, at = [], first
    try:
        while at < last:
            starts.append(at)
            at += _SIZES[response[at + 1 : at + 4]]
    except KeyError:
        return None
    head, count = shape.head, len(starts)
    wide = head + _SHORT  # with the tag and length of a short first text
    heads = b"".join([response[start : start + wide] for start in starts])
    if at != last or len(heads) != wide * count:
        return None
    if not all(heads[at::wide] == byte * count for at, byte in shape.constants):
        return None
    bounds = np.array([*starts, last])
    texts = _short_texts(response, heads, bounds, head) if len(shape.texts) == 1 else None
    texts = texts or _texts_of(response, bounds, shape)
    records = np.ndarray((count,), shape.heads, heads, 0, (wide,))
    return None if texts is None else _ViewRows(records, texts)


class _Sizes(dict[bytes, int]):
    """The length of a row as it is written -> bytes of the row, with its tag and length; as the server writes it, in three bytes."""

    def __missing__(self, written: bytes) -> int:
        size = int.from_bytes(written, "little")
        more = [byte & 0x80 for byte in written] == [0x80, 0x80, 0]
        row = 4 + (size & 0x7F) + (size >> 1 & 0x3F80) + (size >> 2 & 0x1FC000)
        if not more or row < _SMALLEST_ROW:
            raise KeyError(written)
        if len(self) >= _MOST_SIZES:
            self.clear()
        self[written] = row
        return row


_MOST_SIZES = 4096
_SIZES = _Sizes()


def _short_texts(response: bytes, heads: bytes, bounds: NDArray[np.int64], head: int) -> list[_Texts] | None:
    """Return where the one text of each row lies, or None when some have more than 127 bytes or do not fill their rows."""
    wide = head + _SHORT
    lengths = bounds[1:] - bounds[:-1] - wide
    if lengths.min() < 0 or lengths.max() > 0x7F:
        return None
    if (
        heads[head::wide] != bytes([_STRING_TAG]) * len(lengths)
        or heads[head + 1 :: wide] != lengths.astype("u1").tobytes()
    ):
        return None
    return [_Texts(response, (bounds[:-1] + wide).tolist(), bounds[1:].tolist())]


def _texts_of(response: bytes, bounds: NDArray[np.int64], shape: _Shape) -> list[_Texts] | None:
    """Return where the texts of rows lie, or None when they do not fill the rows."""
    raw = np.frombuffer(response, np.uint8, bounds[-1])
    at, ends = bounds[:-1] + shape.head, bounds[1:]
    texts = []
    try:
        for _ in shape.texts:
            if (raw[at] != _STRING_TAG).any():
                return None
            length, at = _varints(raw, at + 1)
            texts.append(_Texts(response, at.tolist(), (at + length).tolist()))
            at = at + length
    except IndexError:
        return None
    return texts if (at == ends).all() else None


def _varints(raw: NDArray[np.uint8], at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers at these positions, and the positions after them."""
    byte = raw[at].astype(np.int64)
    value, at, shift = byte & 0x7F, at + 1, 7
    while (more := byte > 0x7F).any() and shift < 32:
        byte = np.where(more, raw[np.where(more, at, 0)], 0)
        value, at, shift = value | (byte & 0x7F) << shift, at + more, shift + 7
    return value, at


def _parsed(body: bytes, view: pb.ViewSchema) -> _ViewRows:
    """Read the rows of a view through generated protobuf."""
    try:
        rows = pb.ViewRows.FromString(body).rows
        lanes = {
            "nulls": _lane([row.nulls for row in rows], len(rows[0].nulls) if rows else 1),
            "doubles": _lane([row.doubles for row in rows], view.doubles),
            "integers": _lane([row.integers for row in rows], view.integers),
        }
        strings = [_exactly(row.strings, view.strings) for row in rows]
    except (DecodeError, ValueError) as error:
        raise CorruptionError(f"The rows of {view.ref} cannot be read: {error}.") from error
    forms = [(name, kind, (len(lanes[name][0]) if rows else 1,)) for name, _, kind in _LANES]
    records = np.zeros(len(rows), [("event_time", "<i8"), ("state", "<u4"), *forms])
    for name in ("event_time", "state"):
        records[name] = [getattr(row, name) for row in rows]
    for name, values in lanes.items():
        if values and values[0]:
            records[name] = values
    return _ViewRows(records, [_joined([row[i] for row in strings]) for i in range(view.strings)])


def _lane(rows: Sequence[Sequence[float]], width: int) -> list[list[Any]]:
    return [_exactly(row, width) for row in rows]


def _joined(values: Sequence[bytes]) -> _Texts:
    ends = [0, *accumulate(map(len, values))]
    return _Texts(b"".join(values), ends[:-1], ends[1:])


def _exactly(values: Sequence[Any], count: int) -> list[Any]:
    if len(values) != count:
        raise ValueError(f"{len(values)} values where the schema has {count}")
    return list(values)
