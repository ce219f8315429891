"""The graph as one file that is mapped into memory: nothing is read or decoded before it is asked for.

    32 bytes    magic, format version, length of the head
    head        JSON: the key that says what the graph was built from, and name, type and length of each part
    parts       arrays of integers, each at a multiple of eight bytes; names as UTF-8

The file is a copy: whoever finds none, or one with another key, builds the graph again. It is written beside and renamed, so a reader
never sees half of it.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lineage.graph.graph import Graph
from lineage.graph.nodes import NodeTable
from lineage.graph.rows import Rows, Times, as_array

_HEAD = struct.Struct("<16sQQ")
_MAGIC = b"lineage graph\0\0\0"
_VERSION = 1
_ALIGN = 8


def save_graph(path: Path, graph: Graph, key: str) -> bool:
    """Write a graph; False when the folder may not be written.

    Args:
        path: The file.
        graph: The graph.
        key: What it was built from; `load_graph` asks for it.
    """
    parts = [(name, values.typecode, values) for name, values in _arrays(graph)]
    head = {"key": key, "parts": [[name, code, len(values)] for name, code, values in parts]}
    text = json.dumps(head).encode()
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(_HEAD.pack(_MAGIC, _VERSION, len(text)) + text)
            for _, _, values in parts:
                file.write(bytes(-file.tell() % _ALIGN))
                file.write(values)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        return False
    return True


def load_graph(path: Path, key: str) -> Graph | None:
    """Return the graph of a file; None when there is none, or one that was built from something else or is damaged."""
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        magic, version, length = _HEAD.unpack_from(content)
        head = json.loads(bytes(content[_HEAD.size : _HEAD.size + length]))
        if (magic, version) != (_MAGIC, _VERSION) or head["key"] != key:
            return None
        return _graph(dict(_parts(content, head["parts"], _HEAD.size + length)))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _parts(content: memoryview, parts: Iterable[Any], at: int) -> Iterator[tuple[str, memoryview]]:
    for name, code, length in parts:
        at += -at % _ALIGN
        end = at + length * struct.calcsize(code)
        if end > len(content):
            raise ValueError("the file is cut off")
        yield name, content[at:end].cast(code)
        at = end


def _arrays(graph: Graph) -> Iterator[tuple[str, Any]]:
    from array import array

    down, up, kinds = graph.rows

    def part(code: str, values: Sequence[int]) -> array[int]:
        if isinstance(values, array) and values.typecode == code:
            return values
        if isinstance(values, (memoryview, bytes)) or hasattr(values, "dtype"):
            packed = array(code)
            packed.frombytes(as_array(values).astype({"q": "<i8", "i": "<i4", "B": "u1"}[code]).tobytes())
            return packed
        return array(code, values)

    yield "starts", part("q", graph.nodes.starts)
    yield "name_offsets", part("q", graph.nodes.offsets)
    names = array("B")
    names.frombytes(bytes(graph.nodes.names))
    yield "names", names
    yield "down_offsets", part("q", down.offsets)
    yield "down_targets", part("i", down.targets)
    yield "up_offsets", part("q", up.offsets)
    yield "up_targets", part("i", up.targets)
    yield "up_edges", part("i", up.edges if up.edges is not None else range(len(up.targets)))
    yield "kinds", part("B", kinds)
    if down.times is not None:
        for name in ("valid_from", "valid_to", "known_from", "known_to"):
            yield name, part("q", getattr(down.times, name))


def _graph(parts: dict[str, memoryview]) -> Graph:
    times = None
    if "valid_from" in parts:
        times = Times(parts["valid_from"], parts["valid_to"], parts["known_from"], parts["known_to"])
    return Graph.of_rows(
        NodeTable(parts["starts"], parts["name_offsets"], parts["names"]),
        Rows(parts["down_offsets"], parts["down_targets"], None, times),
        Rows(parts["up_offsets"], parts["up_targets"], parts["up_edges"], times),
        parts["kinds"],
    )
