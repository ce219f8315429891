"""ONNX: the protobuf is read field by field, as far as it says which inputs have weight.

Understood are graphs in which every input column can be followed by its place to trees and linear models of ``ai.onnx.ml``: through
Concat, Cast, Identity, Scaler, Imputer and Flatten. Any other operator on the way makes the model opaque.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lineage.artefacts.artefact import artefact, opaque

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SAME_COLUMNS = frozenset({"Cast", "Identity", "Scaler", "Imputer", "Flatten"})


def parse_onnx(content: bytes) -> dict[str, Any]:
    """Return what a model uses.

    Args:
        content: A ModelProto.

    Raises:
        ValueError: It is none.
    """
    graphs = [value for number, value in _fields(content) if number == 7]
    if len(graphs) != 1 or not isinstance(graphs[0], bytes):
        raise ValueError("no ONNX model")
    return _graph(graphs[0])


@dataclass(slots=True)
class _Node:
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, _Attribute] = field(default_factory=dict)


@dataclass(slots=True)
class _Attribute:
    name: str = ""
    floats: list[float] = field(default_factory=list)
    ints: list[int] = field(default_factory=list)
    strings: list[bytes] = field(default_factory=list)


def _graph(content: bytes) -> dict[str, Any]:
    columns: dict[str, list[int]] = {}  # value -> the inputs in its columns
    names: list[str] = []
    nodes: list[_Node] = []
    for number, value in _fields(content):
        if number == 1:
            nodes.append(_node(_bytes(value)))
        elif number == 11:
            name, width = _input(_bytes(value))
            if width != 1:
                return opaque("onnx", f"its input {name} holds many columns without names")
            columns[name] = [len(names)]
            names.append(name)
    used: set[int] = set()
    for node in nodes:
        reason = _follow(node, columns, used)
        if reason:
            return opaque("onnx", reason, names)
    return artefact("onnx", names, used)


def _follow(node: _Node, columns: dict[str, list[int]], used: set[int]) -> str:
    """Take one node into account; return why it cannot be understood, or an empty text."""
    known = [name for name in node.inputs if name in columns]
    if not known:
        return ""
    flat = [place for name in known for place in columns[name]]
    if node.operator == "Concat" or node.operator in _SAME_COLUMNS:
        for output in node.outputs:
            columns[output] = flat
        return ""
    weights = _weights(node, len(flat))
    if weights is None:
        return f"its operator {node.operator} is not understood"
    used.update(flat[place] for place in weights if place < len(flat))
    return ""


def _weights(node: _Node, width: int) -> Sequence[int] | None:
    """Return the columns that a model has weight for; None when it is no model that is known."""
    if node.operator.startswith("TreeEnsemble") and "nodes_featureids" in node.attributes:
        modes = node.attributes["nodes_modes"].strings
        ids = node.attributes["nodes_featureids"].ints
        return [place for place, mode in zip(ids, modes, strict=True) if mode != b"LEAF"]
    if node.operator in ("LinearClassifier", "LinearRegressor") and width:
        weights = node.attributes["coefficients"].floats
        return [place % width for place, weight in enumerate(weights) if weight]
    return None


def _node(content: bytes) -> _Node:
    node = _Node()
    for number, value in _fields(content):
        match number:
            case 1:
                node.inputs.append(_text(value))
            case 2:
                node.outputs.append(_text(value))
            case 4:
                node.operator = _text(value)
            case 5:
                attribute = _attribute(_bytes(value))
                node.attributes[attribute.name] = attribute
    return node


def _attribute(content: bytes) -> _Attribute:
    attribute = _Attribute()
    for number, value in _fields(content):
        match number:
            case 1:
                attribute.name = _text(value)
            case 7:
                attribute.floats += _floats(value)
            case 8:
                attribute.ints += [value] if isinstance(value, int) else list(_varints(_bytes(value)))
            case 9:
                attribute.strings.append(_bytes(value))
    return attribute


def _input(content: bytes) -> tuple[str, int | None]:
    """Return name and number of columns of an input; None when the number is not said."""
    name, width = "", None
    for number, value in _fields(content):
        if number == 1:
            name = _text(value)
        elif number == 2:
            width = _width(_bytes(value))
    return name, width


def _width(content: bytes) -> int | None:
    """Return the last dimension of a tensor type."""
    tensor = [value for number, value in _fields(content) if number == 1]
    shape = [value for number, value in _fields(_bytes(tensor[0])) if number == 2] if tensor else []
    dimensions = [value for number, value in _fields(_bytes(shape[0])) if number == 1] if shape else []
    sizes = [value for number, value in _fields(_bytes(dimensions[-1])) if number == 1] if dimensions else []
    return sizes[0] if sizes and isinstance(sizes[0], int) else None


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            length, at = _varint(content, at)
        if length is None or not number or at + length > len(content):
            raise ValueError(f"no protobuf, at byte {at}")
        yield number, content[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError(f"no protobuf, at byte {at}")
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varints(content: bytes) -> Iterator[int]:
    at = 0
    while at < len(content):
        value, at = _varint(content, at)
        yield value


def _floats(value: int | bytes) -> list[float]:
    content = _bytes(value)
    return list(struct.unpack(f"<{len(content) // 4}f", content))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("no ONNX model: a number where a message should be")  # noqa: TRY004 - bad input, not a bad call
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()
