"""One table of types: names, Arrow, DuckDB, Polars, and the lanes of the wire; nothing is cast silently."""

import math
import re
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
from featurestore.testing.strategies import dtypes, nested_dtypes
from featurestore.types import (
    INT64_MAX,
    INT64_MIN,
    DType,
    Float32,
    List,
    Struct,
    Vector,
    decimal_parameters,
    from_arrow,
    from_micros,
    from_wire,
    instant,
    to_arrow,
    to_duckdb,
    to_micros,
    to_polars,
    to_wire,
)

INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
PLAIN = ["bool", *INTEGERS, "float32", "float64", "string", "binary", "timestamp", "date"]
NESTED = [
    *("list<int64>", "list<string>", "list<decimal(5,2)>", "list<timestamp>", "list<bool>", "list<list<float32>>"),
    *("struct<a:int64,b:string>", "struct<a:struct<b:list<date>>>", "list<struct<a:float64,b:vector<int8,2>>>"),
    *("vector<float32,4>", "vector<int64,1>", "list<vector<float64,2>>"),
]
NAMES = [*PLAIN, "decimal(12,2)", "decimal(38,10)", "decimal(38,0)", "decimal(5,5)", *NESTED]


def integers(bits):
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@st.composite
def decimals(draw, dtype):
    precision, scale = decimal_parameters(dtype)
    digits = draw(st.integers(-(10**precision) + 1, 10**precision - 1))
    sign, figures, _ = Decimal(digits).as_tuple()
    return Decimal((sign, figures, -scale))


def values(name):
    dtype = DType.of(name)
    match dtype.family:
        case "decimal":
            return decimals(dtype)
        case "list":
            return st.lists(st.none() | values(dtype.element.name), max_size=4)
        case "vector":
            return st.lists(values(dtype.element.name), min_size=dtype.length, max_size=dtype.length)
        case "struct":
            return st.fixed_dictionaries({name: st.none() | values(field.name) for name, field in dtype.fields})
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
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or (one != one and other != other))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


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
        ("float32", 1e300),
        ("date", 2**31),
        ("list<int64>", 5),
        ("list<int64>", "12"),
        ("list<int64>", np.int64(5)),
        ("struct<a:int64>", [1]),
        ("vector<float32,2>", {0: 1.0}),
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
        (pa.large_list(pa.large_string()), "list<string>"),
        (pa.list_(pa.float32(), 3), "vector<float32,3>"),
        (pa.struct([("a", pa.list_(pa.timestamp("ns")))]), "struct<a:list<timestamp>>"),
    ],
)
def test_other_arrow_forms_of_a_type_are_known(arrow_type, name):
    assert from_arrow(arrow_type) == DType.of(name)


@pytest.mark.parametrize(
    "arrow_type",
    [
        *(pa.list_(pa.uint64()), pa.time64("us"), pa.uint64(), pa.duration("s"), pa.list_(pa.string(), 3)),
        *(pa.struct([("a b", pa.int64())]), pa.map_(pa.string(), pa.int64()), pa.list_view(pa.int64())),
    ],
)
def test_an_arrow_type_without_counterpart_is_refused(arrow_type):
    with pytest.raises(InvalidArgumentError, match="no counterpart"):
        from_arrow(arrow_type)


@pytest.mark.parametrize(
    ("name", "value", "message", "place"),
    [
        ("list<int8>", [1, 300], "Expected int8, got int 300", "$.x[1]"),
        ("list<list<int8>>", [[], [1, "2"]], "Expected int8, got str '2'", "$.x[1][1]"),
        ("struct<a:int64,b:list<bool>>", {"a": 1, "b": [1]}, "Expected bool, got int 1", "$.x.b[0]"),
        ("struct<alpha:int64>", {"alpa": 1}, "Field 'alpa' of struct<alpha:int64> is unknown. There is 'alpha'", "$.x"),
        ("struct<a:int64,b:int64>", {"a": 1}, "Field 'b' of struct<a:int64,b:int64> is missing", "$.x"),
        ("vector<float32,2>", [1.0], "Expected vector<float32,2>, got 1 elements", "$.x"),
        ("vector<float32,2>", [1.0, None], "Expected float32, got NoneType None", "$.x[1]"),
        ("vector<float32,2>", np.zeros(3, np.float32), "got 3 elements", "$.x"),
        ("vector<int8,1>", np.array([300]), "Expected int8, got int 300", "$.x[0]"),
    ],
)
def test_a_wrong_part_of_a_nested_value_is_named_with_its_place(name, value, message, place):
    with pytest.raises(InvalidArgumentError) as refused:
        to_wire(DType.of(name), value, place="$.x")
    assert message in refused.value.message
    assert refused.value.place == place


@pytest.mark.parametrize(
    ("name", "array", "value"),
    [
        ("list<int64>", np.array([1, 2], np.int16), [1, 2]),
        ("list<list<float64>>", np.array([[1.5], [2.5]]), [[1.5], [2.5]]),
        ("list<string>", np.array(["a", "b"]), ["a", "b"]),
        ("list<timestamp>", np.array(["1970-01-01T00:00:00.000007"], "M8[us]"), [7]),
        ("vector<float32,2>", np.array([1.5, -0.0], np.float32), [1.5, -0.0]),
        ("vector<float32,2>", np.array([1.5, 2.5], ">f4"), [1.5, 2.5]),
        ("vector<float32,2>", np.array([1.5, 9.0, 2.5], np.float32)[::2], [1.5, 2.5]),
        ("vector<float64,2>", (1, 2.5), [1.0, 2.5]),
    ],
)
def test_arrays_and_tuples_count_as_the_list_they_hold(name, array, value):
    assert to_wire(DType.of(name), array) == to_wire(DType.of(name), value)


@given(st.sampled_from(NESTED).flatmap(lambda name: values(name).map(lambda value: (DType.of(name), value))), st.data())
def test_bytes_that_are_no_value_are_refused_or_another_value(typed, data):
    dtype, value = typed
    raw = bytearray(to_wire(dtype, value))
    change = data.draw(st.sampled_from(["cut", "longer", "flip"]))
    if change == "cut":
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    elif change == "longer":
        raw += data.draw(st.binary(min_size=1, max_size=3))
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = from_wire(dtype, bytes(raw))
    except InvalidArgumentError:
        return
    assert change == "flip"
    assert not same(found, value) or "float" in dtype.name or None in _parts(found)


def _parts(value):
    """Every value inside a nested one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(part for item in inner for part in _parts(item))]


@pytest.mark.parametrize("micros", [INT64_MIN, -62_135_596_800_000_001, 253_402_300_800_000_000, INT64_MAX])
def test_an_instant_outside_of_the_calendar_is_an_integer(micros):
    assert from_wire(DType.of("timestamp"), to_wire(DType.of("timestamp"), micros)) == micros
    assert instant(micros) == micros
    with pytest.raises(InvalidArgumentError, match="outside of the years 1 to 9999"):
        from_micros(micros)


@pytest.mark.parametrize("days", [-(2**31), -719_163, 2_932_897, 2**31 - 1])
def test_a_day_outside_of_the_calendar_is_an_integer(days):
    assert from_wire(DType.of("date"), to_wire(DType.of("date"), days)) == days


@pytest.mark.parametrize("first", [True, False])
def test_the_ends_of_the_calendar_are_datetimes(first):
    end = datetime.min if first else datetime.max
    assert instant(to_micros(end)) == end.replace(tzinfo=UTC)
    day = end.date()
    assert from_wire(DType.of("date"), to_wire(DType.of("date"), day)) == day


@given(nested_dtypes(dtypes()))
def test_the_name_of_a_type_is_read_as_it_is_written(dtype):
    spaced = re.sub(r"([<>,:()])", r" \1 ", dtype.name)
    assert DType.of(dtype.name) == dtype
    assert DType.of(spaced) == dtype
    assert from_arrow(to_arrow(dtype)) == dtype


def test_types_are_built_from_types():
    built = Struct({"a": List(Vector(Float32, 128)), "b": "decimal(5,2)"})
    assert built == DType.of("struct<a:list<vector<float32,128>>,b:decimal(5,2)>")
    assert [name for name, _ in built.fields] == ["a", "b"]
    assert (built.fields[0][1].element.length, built.fields[0][1].element.element) == (128, Float32)


@pytest.mark.parametrize("ask", ["element", "fields", "length"])
def test_a_scalar_is_made_of_nothing(ask):
    with pytest.raises(InvalidArgumentError, match="int64 has no"):
        getattr(DType.of("int64"), ask)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("list<flaot64>", "Did you mean 'float64'"),
        ("lst<int64>", "Did you mean 'list<T>'"),
        ("list", "Did you mean 'list<T>'"),
        ("map<int64>", "There is: bool"),
        ("list<int64", "expected '>', not the end"),
        ("list<int64>>", "expected the end, not '>'"),
        ("struct<>", "'' cannot be the name of a field"),
        ("struct<a int64>", "expected ':', not 'int64>'"),
        ("struct<a:int64,A:int8>", "differs from another in case alone"),
        ("vector<string,3>", "a vector has integers or floats, not string"),
        ("vector<float32>", "expected ',', not '>'"),
        ("vector<float32,0>", "a vector has 1 to 65536 elements, not '0'"),
        ("vector<float32,99999999999>", "a vector has 1 to 65536 elements"),
        ("list<" * 2000, "nested at most 16 deep"),
    ],
)
def test_what_is_wrong_with_the_name_of_a_nested_type_is_said(name, message):
    with pytest.raises(DefinitionError) as refused:
        DType.of(name)
    assert message in str(refused.value)


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
