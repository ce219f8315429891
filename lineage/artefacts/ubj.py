"""Universal Binary JSON, draft 12, as far as XGBoost writes it: https://ubjson.org."""

from __future__ import annotations

import struct
from typing import Any

_NUMBERS = {"i": ">b", "U": ">B", "I": ">h", "l": ">i", "L": ">q", "d": ">f", "D": ">d"}
_CONSTANTS = {"Z": None, "T": True, "F": False}


def decode_ubj(content: bytes) -> Any:
    r"""Return the value of a UBJ text.

    Args:
        content: The whole text.

    Raises:
        ValueError: It is no UBJ.

    >>> decode_ubj(b"{i\x01a[$U#i\x02\x01\x02}")
    {'a': [1, 2]}
    """
    try:
        value, end = _value(content, 0)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"no UBJ: {error}") from error
    if end != len(content):
        raise ValueError(f"no UBJ: there is more after byte {end}")
    return value


def _value(content: bytes, at: int, marker: str = "") -> tuple[Any, int]:
    if not marker:
        marker, at = chr(content[at]), at + 1
    if marker in _NUMBERS:
        size = struct.calcsize(_NUMBERS[marker])
        return struct.unpack_from(_NUMBERS[marker], content, at)[0], at + size
    if marker in _CONSTANTS:
        return _CONSTANTS[marker], at
    match marker:
        case "S":
            return _text(content, at)
        case "C":
            return chr(content[at]), at + 1
        case "[":
            return _array(content, at)
        case "{":
            return _object(content, at)
    raise ValueError(f"no UBJ: marker {marker!r} at byte {at - 1}")


def _text(content: bytes, at: int) -> tuple[str, int]:
    length, at = _value(content, at)
    if not isinstance(length, int) or length < 0 or at + length > len(content):
        raise ValueError(f"no UBJ: a length that cannot be, at byte {at}")
    return content[at : at + length].decode(), at + length


def _shape(content: bytes, at: int) -> tuple[str, int | None, int]:
    """Read type and count of a container, if it says them."""
    marker, count = "", None
    if content[at : at + 1] == b"$":
        marker, at = chr(content[at + 1]), at + 2
    if content[at : at + 1] == b"#":
        count, at = _value(content, at + 1)
        if not isinstance(count, int) or not 0 <= count <= len(content):
            raise ValueError(f"no UBJ: a count that cannot be, at byte {at}")
    return marker, count, at


def _array(content: bytes, at: int) -> tuple[list[Any], int]:
    marker, count, at = _shape(content, at)
    if marker in _NUMBERS and count is not None:
        form = f">{count}{_NUMBERS[marker][1]}"
        return list(struct.unpack_from(form, content, at)), at + struct.calcsize(form)
    found: list[Any] = []
    while count is None or len(found) < count:
        if count is None and content[at : at + 1] == b"]":
            return found, at + 1
        item, at = _value(content, at, marker)
        found.append(item)
    return found, at


def _object(content: bytes, at: int) -> tuple[dict[str, Any], int]:
    marker, count, at = _shape(content, at)
    found: dict[str, Any] = {}
    seen = 0
    while count is None or seen < count:
        if count is None and content[at : at + 1] == b"}":
            return found, at + 1
        key, at = _text(content, at)
        found[key], at = _value(content, at, marker)
        seen += 1
    return found, at
