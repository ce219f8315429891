"""The pages of a Parquet file as they were before compression: what a search for bytes has to look through.

Page headers are read through Thrift's compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md),
with the fields of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_TYPE, _PLAIN_SIZE, _SIZE, _V2_HEADER = 1, 2, 3, 8
_V2, _DEFINITIONS, _REPETITIONS = 3, 5, 6
_TRUE, _FALSE, _BYTE, _SHORT, _INT, _LONG, _DOUBLE, _TEXT, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12


def decompressed_pages(path: Path) -> Iterator[bytes]:
    """Go through the pages of all columns, dictionaries included.

    Args:
        path: The file.

    Raises:
        OSError: It is no Parquet file, or a page cannot be decompressed; also pyarrow.ArrowException.
    """
    content = pa.memory_map(str(path)).read_buffer()
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            yield from _pages(content.slice(start, chunk.total_compressed_size), chunk.compression.lower())


def _pages(chunk: pa.Buffer, codec: str) -> Iterator[bytes]:
    at = 0
    while at < len(chunk):
        header, at = _struct(memoryview(chunk).cast("B"), at)
        page = chunk.slice(at, header[_SIZE])
        at += header[_SIZE]
        levels = 0
        if header[_TYPE] == _V2:
            levels = header[_V2_HEADER].get(_DEFINITIONS, 0) + header[_V2_HEADER].get(_REPETITIONS, 0)
        body = page.slice(levels)
        if codec == "uncompressed" or not len(body):
            yield page.to_pybytes()
        else:
            plain = pa.decompress(body, header[_PLAIN_SIZE] - levels, codec=codec, asbytes=True)
            yield page.slice(0, levels).to_pybytes() + plain


def _struct(raw: memoryview, at: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by their numbers, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := raw[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(raw, at)
        fields[number], at = _value(raw, at, head & 15)
    return fields, at + 1


def _value(raw: memoryview, at: int, kind: int) -> tuple[Any, int]:
    """Return a field's value and where it ends; a number in floating point is passed over."""
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind in (_BYTE, _DOUBLE):
        return None, at + (1 if kind == _BYTE else 8)
    read = {_SHORT: _zigzag, _INT: _zigzag, _LONG: _zigzag, _TEXT: _text, _STRUCT: _struct, _LIST: _list, _SET: _list}
    if kind not in read:
        raise OSError(f"a page header has a field of the unknown type {kind}")
    return read[kind](raw, at)


def _text(raw: memoryview, at: int) -> tuple[bytes, int]:
    length, at = _varint(raw, at)
    return bytes(raw[at : at + length]), at + length


def _list(raw: memoryview, at: int) -> tuple[list[Any], int]:
    count, kind = raw[at] >> 4, raw[at] & 15
    at += 1
    if count == 15:
        count, at = _varint(raw, at)
    items = []
    for _ in range(count):
        item, at = _value(raw, at, kind)
        items.append(item)
    return items, at


def _zigzag(raw: memoryview, at: int) -> tuple[int, int]:
    number, at = _varint(raw, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        digit = raw[at]
        at += 1
        number |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return number, at
