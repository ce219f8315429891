"""One table of types: names, Arrow, DuckDB, Polars, and the lanes of the wire; nothing is cast silently."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurestore.errors import DefinitionError, InvalidArgumentError
from featurestore.types import (
    INT64_MAX,
    INT64_MIN,
    DType,
    decimal_parameters,
    from_arrow,
    from_micros,
    from_wire,
    to_arrow,
    to_duckdb,
    to_micros,
    to_polars,
    to_wire,
)

INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
PLAIN = ["bool", *INTEGERS, "float32", "float64", "string", "binary", "timestamp", "date"]
NAMES = [*PLAIN, "decimal(12,2)", "decimal(38,10)", "decimal(38,0)", "decimal(5,5)"]


def integers(bits):
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@st.composite
def decimals(draw, dtype):
    precision, scale = decimal_parameters(dtype)
    digits = draw(st.integers(-(10**precision) + 1, 10**precision - 1))
    sign, figures, _ = Decimal(digits).as_tuple()
    return Decimal((sign, figures, -scale))


def values(name):
    if name.startswith("decimal"):
        return decimals(DType.of(name))
    strategies = {
        "bool": st.booleans(),
        "float32": st.floats(width=32),
        "float64": st.floats(),
        "string": st.text(),
        "binary": st.binary(),
        "timestamp": st.datetimes(timezones=st.just(UTC)),
        "date": st.dates(),
    }
    return integers(INTEGERS[name]) if name in INTEGERS else strategies[name]


typed_values = st.sampled_from(NAMES).flatmap(lambda name: values(name).map(lambda value: (DType.of(name), value)))


def same(one, other):
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or (one != one and other != other))
    return type(one) is type(other) and one == other


@given(typed_values)
def test_a_value_comes_back_from_the_wire_as_it_was(typed):
    dtype, value = typed
    assert same(value, from_wire(dtype, to_wire(dtype, value)))


@given(typed_values)
def test_a_lane_carries_only_its_own_kind_of_value(typed):
    dtype, value = typed
    kinds = {"doubles": float, "integers": int, "strings": bytes}
    assert type(to_wire(dtype, value)) is kinds[dtype.lane]


@given(st.sampled_from([name for name in NAMES if name in INTEGERS]), st.integers())
def test_an_integer_travels_only_if_it_fits(name, value):
    fits = -(2 ** (INTEGERS[name] - 1)) <= value < 2 ** (INTEGERS[name] - 1)
    if fits:
        assert to_wire(DType.of(name), value) == value
    else:
        with pytest.raises(InvalidArgumentError, match=f"Expected {name}"):
            to_wire(DType.of(name), value)


@given(st.decimals(allow_nan=False, allow_infinity=False), st.sampled_from(["decimal(12,2)", "decimal(38,10)"]))
@example(Decimal("1." + "0" * 90 + "1"), "decimal(12,2)")
@example(Decimal(123456789012345678901234567890), "decimal(38,0)")
@example(Decimal("1E+999999"), "decimal(12,2)")
@example(Decimal("1E-999999"), "decimal(12,2)")
@example(Decimal("9999999999.99"), "decimal(12,2)")
@example(Decimal(10000000000), "decimal(12,2)")
def test_a_decimal_travels_exactly_or_not_at_all(value, name):
    dtype = DType.of(name)
    try:
        packed = to_wire(dtype, value)
    except InvalidArgumentError:
        precision, scale = decimal_parameters(dtype)
        _, digits, exponent = value.normalize().as_tuple() if len(value.as_tuple().digits) <= 28 else value.as_tuple()
        assert value != 0
        assert -exponent > scale or len(digits) + exponent > precision - scale
    else:
        assert from_wire(dtype, packed) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("int64", 1001.7),
        ("int64", 3.0),
        ("int64", True),
        ("int64", "3"),
        ("int64", None),
        ("bool", 1),
        ("float64", "1.0"),
        ("float64", True),
        ("float64", 2**53 + 1),
        ("string", b"JFK"),
        ("string", 5),
        ("string", "\ud800"),
        ("binary", "JFK"),
        ("timestamp", date(2013, 11, 1)),
        ("timestamp", "2013-11-01"),
        ("timestamp", INT64_MAX + 1),
        ("date", datetime(2013, 11, 1)),
        ("date", 5),
        ("decimal(12,2)", 1.5),
        ("decimal(12,2)", Decimal("1.005")),
        ("decimal(12,2)", Decimal("NaN")),
        ("decimal(12,2)", Decimal("Infinity")),
        ("int8", np.int64(300)),
        ("timestamp", np.datetime64("2013-11-01T00:00:00.000000001", "ns")),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(name, value):
    with pytest.raises(InvalidArgumentError) as refused:
        to_wire(DType.of(name), value, place="$.keys.user[3]")
    assert str(refused.value).startswith(f"Expected {DType.of(name)}, got {type(value).__name__}")
    assert refused.value.place == "$.keys.user[3]"


@pytest.mark.parametrize(
    ("name", "scalar", "packed"),
    [
        ("int16", np.int16(7), 7),
        ("float64", np.float32(0.5), 0.5),
        ("bool", np.bool_(True), 1),
        ("string", np.str_("JFK"), b"JFK"),
        ("timestamp", np.datetime64("2013-11-01T00:00:00", "ns"), 1383264000000000),
        ("timestamp", np.datetime64("2013-11-01T00:00:00", "s"), 1383264000000000),
        ("date", np.datetime64("1970-01-03", "D"), 2),
    ],
)
def test_numpy_scalars_count_as_the_value_they_hold(name, scalar, packed):
    assert to_wire(DType.of(name), scalar) == packed


@given(st.datetimes())
def test_a_naive_time_counts_as_utc(instant):
    assert to_micros(instant) == to_micros(instant.replace(tzinfo=UTC))


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-23, 23))
def test_an_instant_survives_micros_from_any_zone(instant, hours):
    elsewhere = timezone(timedelta(hours=hours))
    try:
        local = instant.astimezone(elsewhere)
    except OverflowError:  # the calendar ends there
        return
    assert from_micros(to_micros(local)) == instant
    assert to_micros(local.isoformat()) == to_micros(instant)


@pytest.mark.parametrize("name", NAMES)
def test_every_type_comes_back_from_arrow(name):
    dtype = DType.of(name)
    assert from_arrow(to_arrow(dtype)) == dtype


@pytest.mark.parametrize("name", NAMES)
def test_arrow_duckdb_and_polars_mean_the_same_type(name):
    dtype = DType.of(name)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    empty = connection.sql(f"SELECT NULL::{to_duckdb(dtype)} AS value").to_arrow_table()
    assert from_arrow(empty.schema.field("value").type) == dtype
    assert from_arrow(pl.Series([None], dtype=to_polars(dtype)).to_arrow().type) == dtype


@pytest.mark.parametrize(
    ("arrow_type", "name"),
    [
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.large_binary(), "binary"),
        (pa.dictionary(pa.int32(), pa.string()), "string"),
        (pa.timestamp("ns"), "timestamp"),
        (pa.timestamp("s", tz="America/New_York"), "timestamp"),
        (pa.date64(), "date"),
        (pa.decimal256(20, 3), "decimal(20,3)"),
    ],
)
def test_other_arrow_forms_of_a_type_are_known(arrow_type, name):
    assert from_arrow(arrow_type) == DType.of(name)


@pytest.mark.parametrize("arrow_type", [pa.list_(pa.int64()), pa.time64("us"), pa.uint64(), pa.duration("s")])
def test_an_arrow_type_without_counterpart_is_refused(arrow_type):
    with pytest.raises(InvalidArgumentError, match="no counterpart"):
        from_arrow(arrow_type)


@pytest.mark.parametrize("name", ["decimal", "decimal(39,2)", "decimal(0,0)", "decimal(5,6)", "Int64", "", "double"])
def test_an_unknown_type_is_refused(name):
    with pytest.raises(DefinitionError):
        DType.of(name)


def test_an_unknown_type_names_the_nearest():
    with pytest.raises(DefinitionError, match=r"No type 'timestmap'\. Did you mean 'timestamp'\?"):
        DType.of("timestmap")


def test_a_decimal_type_has_one_spelling():
    assert DType.of("decimal(05,02)") == DType.of("decimal(5,2)")


def test_only_exact_types_can_be_keys():
    assert {name for name in NAMES if DType.of(name).is_key} == set(PLAIN) - {"float32", "float64"}


def test_the_ends_of_int64_travel():
    assert from_wire(DType.of("int64"), to_wire(DType.of("int64"), INT64_MIN)) == INT64_MIN
    assert from_wire(DType.of("int64"), to_wire(DType.of("int64"), INT64_MAX)) == INT64_MAX
