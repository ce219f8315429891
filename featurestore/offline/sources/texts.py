"""Texts -> typed values: strict, the same for CSV cells and for values in folder names, and guessed by one fixed ladder."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.types import DType, to_arrow

_ZONED = r"\d[ T].*(Z|[+-]\d\d(:?\d\d)?)$"
_WHOLE = r"^[+-]?\d+$"
_INFINITE = r"(?i)^[+-]?inf(inity)?$"
# What a type is guessed for. A number with leading zeros is a name, such as a zip code: it stays a string.
_LADDER = {
    "bool": r"^(?i:true|false)$",
    "int64": r"^-?(0|[1-9]\d*)$",
    "float64": r"^-?((0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|(?i:nan|inf))$",
    "date": r"^\d{4}-\d\d-\d\d$",
    "timestamp": r"^\d{4}-\d\d-\d\d([ T]\d\d|$)",
}


def typed(texts: pa.Array, dtype: DType) -> pa.Array:
    """Read texts as values of a type, exactly.

    Args:
        texts: Strings; null stays null.
        dtype: Their type; a timestamp without a zone is UTC.

    Raises:
        ArrowInvalid: A text is not of the type, or does not fit it.

    >>> typed(pa.array(["2013-11-01T05:00-05", "2013-11-01"]), DType("timestamp")).cast(pa.int64()).to_pylist()
    [1383300000000000, 1383264000000000]
    """
    if dtype.name == "timestamp":
        return _instants(texts)
    if dtype.is_integer:
        _check_all(pc.match_substring_regex(texts, _WHOLE), "is not a whole number")
        texts = pc.replace_substring_regex(texts, r"^\+", "")
    if dtype.family == "decimal":
        return decimals(texts, to_arrow(dtype))
    values = texts.cast(to_arrow(dtype))
    if dtype.lane == "doubles":
        finite = pc.invert(pc.is_inf(values))
        _check_all(pc.or_(finite, pc.match_substring_regex(texts, _INFINITE)), "is out of range")
    return values


def decimals(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Read texts such as ``-12.50`` as decimals, exactly; raises ArrowInvalid for what does not fit.

    Arrow alone would wrap around where a value has too many digits before the point.

    >>> decimals(pa.array(["1.5"]), pa.decimal128(4, 2))[0]
    <pyarrow.Decimal128Scalar: Decimal('1.50')>
    """
    digits = rf"^[+-]?0*\d{{0,{wanted.precision - wanted.scale}}}(\.\d*)?$"
    _check_all(pc.match_substring_regex(texts, digits), "does not fit")
    return texts.cast(wanted)


def guess(possible: Iterable[str], texts: pa.Array) -> list[str]:
    """Return those of the possible types that every text fits.

    >>> guess(candidates(), pa.array(["1", None, "2.5"])), guess(candidates(), pa.array(["0123"]))
    (['float64', 'string'], ['string'])
    """
    return [name for name in possible if name == "string" or _fits(texts, name)]


def candidates() -> list[str]:
    """Return the types that texts can be guessed to be, in the order of preference; ``string`` fits every text."""
    return [*_LADDER, "string"]


def partition_type(texts: Iterable[str | None]) -> str:
    """Return the type of a column whose values stand in folder names: int64 or string."""
    return guess(("int64", "string"), pa.array(list(texts), pa.string()))[0]


def _fits(texts: pa.Array, name: str) -> bool:
    given = texts.drop_null()
    if not pc.all(pc.match_substring_regex(given, _LADDER[name]), min_count=0).as_py():
        return False
    try:
        typed(given, DType(name))
    except pa.ArrowInvalid:
        return False
    return True


def _instants(texts: pa.Array) -> pa.Array:
    zoned = pc.match_substring_regex(texts, _ZONED)
    null = pa.scalar(None, pa.string())
    instant = pa.timestamp("us", "UTC")
    absolute = pc.if_else(zoned, texts, null).cast(instant)
    naive = pc.if_else(zoned, null, texts).cast(pa.timestamp("us")).cast(instant)
    return pc.coalesce(absolute, naive)


def _check_all(good: pa.Array, said: str) -> None:
    if not pc.all(good, min_count=0).as_py():
        raise pa.ArrowInvalid(f"a text {said}")
