"""The keys of the plainest reads, taken from the bytes of a request without making its message.

Most reads name their plan and one key column, and every protobuf library writes that in one way: the plan, then the column with its
name and its values. A request of another form is for generated protobuf, which gives the same keys for this one too; a test compares
them.

    0a N plan   12 N (0a N name   12 N 8 bytes each)          one column of whole numbers
    0a N plan   12 N (0a N name   22 N bytes   22 N bytes …)  one column of texts

Requests for as many numbers are alike in all but the numbers, so what came before them is remembered, and compared in one go. Only the
shortest form is: lengths may be written longer, in ways without end, and such a request is for generated protobuf.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featurestore.decoding import read_varint
from featurestore.keys import MAX_KEY_BYTES, NUMBER, TEXT, pack_numbers
from featurestore.online.codec import varint
from featurestore.planning import ReadPlan

_PLAN, _COLUMN, _NAME, _INTEGERS, _STRINGS = 0x0A, 0x12, 0x0A, 0x12, 0x22
_FEW = 24  # keys that are sooner packed one by one
_REMEMBERED = 256  # keys of the largest request whose form is remembered
_LONGEST = 6  # bytes of a tag and a length, as protobuf takes them
_LONGEST_KEY = 3  # likewise of a key shorter than MAX_KEY_BYTES
_NOTHING: tuple[bytes, Callable[[bytes], list[bytes]]] = (b"", lambda _: [])
_KEY = np.dtype([("kind", "u1"), ("number", ">u8")])
_SIGN = np.uint64(1 << 63)


def named_plan(body: bytes) -> bytes:
    """Return the plan that a request names first, or nothing for a request of another form."""
    return body[2 : 2 + body[1]] if len(body) > 2 and body[0] == _PLAN and body[1] < 0x80 else b""


@dataclass(frozen=True, slots=True)
class PlainKeys:
    """What a plain request for some plan looks like.

    Attributes:
        start: Position of the column.
        name: The column's name, with its tag and length.
        tag: Of its values.
        known: Bytes of a request for numbers -> what stood before them in one of that size, and how they are read.
    """

    start: int
    name: bytes
    tag: int
    known: dict[int, tuple[bytes, Callable[[bytes], list[bytes]]]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, plan: ReadPlan) -> PlainKeys | None:
        """Return it for a plan of one key column of whole numbers or text and no request data, None for any other."""
        if plan.request or len(plan.key_sets) != 1 or len(plan.key_sets[0].columns) != 1:
            return None
        (name,), (dtype,) = plan.key_sets[0].columns, plan.key_sets[0].dtypes
        tag = {"int64": _INTEGERS, "string": _STRINGS, "binary": _STRINGS}.get(dtype.name)
        text = name.encode()
        if tag is None or len(text) > 0x7F or len(plan.fingerprint) > 0x7F:
            return None
        return cls(2 + len(plan.fingerprint), bytes([_NAME, len(text)]) + text, tag)

    def read(self, body: bytes) -> list[bytes] | None:
        """Return the keys of a request, or None when it has another form or a key that is too long."""
        head, keys = self.known.get(len(body), _NOTHING)
        if head and body.startswith(head, self.start):
            return keys(body)
        try:
            if body[self.start] != _COLUMN:
                return None
            length, at = read_varint(body, self.start + 1)
            if at + length != len(body) or at - self.start > _LONGEST or not body.startswith(self.name, at):
                return None
            at += len(self.name)
            return self._numbers(body, at) if self.tag == _INTEGERS else _texts(body, at)
        except IndexError:
            return None

    def _numbers(self, body: bytes, at: int) -> list[bytes] | None:
        size, at = read_varint(body, at + 1) if body[at] == _INTEGERS else (-1, at)
        head = body[self.start : at]
        if at + size != len(body) or size % 8 or head != self._head(size):
            return None
        keys = _few(at, size >> 3) if size >> 3 < _FEW else _many(at, size >> 3)
        if size >> 3 <= _REMEMBERED:
            self.known[len(body)] = (head, keys)
        return keys(body)

    def _head(self, size: int) -> bytes:
        """Return what stands before so many bytes of numbers."""
        column = self.name + bytes([_INTEGERS]) + varint(size)
        return bytes([_COLUMN]) + varint(len(column) + size) + column


def _few(at: int, count: int) -> Callable[[bytes], list[bytes]]:
    unpack = struct.Struct(f"<{count}q").unpack_from
    return lambda body: pack_numbers(unpack(body, at))


def _many(at: int, count: int) -> Callable[[bytes], list[bytes]]:
    keys: Any = np.empty(count, _KEY)
    keys["kind"] = NUMBER[0]
    numbers, whole = keys["number"], keys.view(f"V{_KEY.itemsize}")

    def read(body: bytes) -> list[bytes]:
        np.bitwise_xor(np.frombuffer(body, "<u8", count, at), _SIGN, out=numbers)
        return whole.tolist()  # type: ignore[no-any-return]  # bytes each

    return read


def _texts(body: bytes, at: int) -> list[bytes] | None:
    keys, last = [], len(body)
    while at < last:
        size, first = read_varint(body, at + 1)
        if body[at] != _STRINGS or size >= MAX_KEY_BYTES or first - at > _LONGEST_KEY:
            return None
        at = first + size
        keys.append(TEXT + body[first:at])
    return keys if at == last and keys else None
