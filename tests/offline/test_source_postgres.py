"""Tables and queries of a real PostgreSQL server: exact types, read-only, stopped in time, and never a password in what is said."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from featurestore.definitions import Entity, Feature, FeatureView, PostgresSource, SQLSource
from featurestore.errors import ConfigError, DefinitionError, UnavailableError
from featurestore.offline.sources import Limits, SourceReader
from featurestore.registry.resolution import stored_view
from featurestore.rows import RowSchema
from featurestore.store import FeatureStore

ORIGIN = Entity("origin", {"origin": "string"})
TEMP = Feature("temp", "float64")
TABLE = PostgresSource("weather", "warehouse", table="weather", event_timestamp="at")
SECRET = "s3cr3t-canary"


@pytest.fixture(scope="module")
def database(postgres):
    """One database for all: nothing here can change it."""
    with postgres.database() as name:
        postgres.run(
            "CREATE TABLE weather (origin text, at timestamptz, temp float8, gate int)",
            """INSERT INTO weather VALUES ('JFK', 'epoch', 1.5, 1), ('LGA', '1970-01-01 00:00:00.000002+00', NULL, 2),
               (NULL, '1970-01-01 02:00:00.000003+02', 0.1, 3)""",
            'CREATE SCHEMA "Raw"',
            'CREATE TABLE "Raw"."we""ather" AS SELECT * FROM weather',
            "CREATE SEQUENCE numbers",
            database=name,
        )
        yield name


@pytest.fixture
def url(postgres, database):
    return postgres.url(database)


@pytest.fixture
def reader(tmp_path, url):
    return SourceReader(tmp_path, {"warehouse": url}.__getitem__, Limits(seconds=30))


def view(source, *features, **more):
    return FeatureView("weather", ORIGIN, source, features or [TEMP], **more)


def check(reader, definition):
    record = stored_view(definition)
    return reader.check("weather", record, RowSchema.of(record))


def read(reader, definition, **more):
    return reader.read(check(reader, definition), RowSchema.of(stored_view(definition)), **more)


def query(sql, **more):
    return PostgresSource("weather", "warehouse", query=sql, event_timestamp="at", **more)


def test_a_table_gives_its_rows_exactly(reader):
    rows = read(reader, view(TABLE, TEMP, Feature("gate", "int64"))).sort_by("gate")
    assert rows["at"].cast("int64").to_pylist() == [0, 2, 3]
    assert rows.drop_columns("at").to_pydict() == {
        "origin": ["JFK", "LGA", None],
        "temp": [1.5, None, 0.1],
        "gate": [1, 2, 3],
    }


def test_a_query_runs_on_the_server(reader):
    sql = "SELECT origin, max(at) AS at, avg(gate)::float8 AS temp FROM weather WHERE temp IS NOT NULL GROUP BY origin -- each"
    assert sorted(read(reader, view(query(sql)))["temp"].to_pylist()) == [1.0, 3.0]


def test_a_table_of_another_schema_with_an_odd_name(reader):
    assert read(reader, view(replace(TABLE, table='Raw.we"ather'))).num_rows == 3


TYPES = {
    "smallint": ("-32768", "int16", -32768),
    "integer": ("2147483647", "int32", 2147483647),
    "bigint": ("'-9223372036854775808'", "int64", -(2**63)),
    "real": ("0.1", "float32", pytest.approx(0.1)),
    "double precision": ("'NaN'", "float64", pytest.approx(float("nan"), nan_ok=True)),
    "boolean": ("true", "bool", True),
    "text": ("'é\u2028'", "string", "é\u2028"),
    "varchar(3)": ("'abc'", "string", "abc"),
    "char(4)": ("'ab'", "string", "ab  "),
    "bytea": (r"'\x00ff'", "binary", b"\x00\xff"),
    "date": ("'0001-01-01'", "date", date(1, 1, 1)),
    "timestamp": ("'2013-11-01 05:00:00.000001'", "timestamp", datetime(2013, 11, 1, 5, 0, 0, 1, UTC)),
    "timestamptz": ("'2013-11-01 05:00:00+02'", "timestamp", datetime(2013, 11, 1, 3, tzinfo=UTC)),
    "numeric(12,2)": ("1234567890.5", "decimal(12,2)", Decimal("1234567890.50")),
    "numeric": ("0.1", "decimal(38,18)", Decimal("0.1")),
    "uuid": ("'6b087942-ae0d-4c33-80ff-651d6ee231cf'", "string", "6b087942-ae0d-4c33-80ff-651d6ee231cf"),
    "jsonb": ("""'{"a": 1}'""", "string", '{"a": 1}'),
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_comes_as_it_is(reader, kind):
    literal, dtype, value = TYPES[kind]
    sql = f"SELECT 'JFK' AS origin, now() AS at, CAST({literal} AS {kind}) AS v UNION ALL SELECT NULL, now(), CAST(NULL AS {kind})"
    definition = view(query(sql), Feature("v", dtype))
    assert read(reader, definition)["v"].to_pylist() == [value, None]
    assert dict(check(reader, definition).columns)["v"] == dtype


def test_an_array_comes_as_a_list(reader):
    sql = "SELECT 'JFK' AS origin, now() AS at, ARRAY[1.5, NULL]::float8[] AS v"
    assert read(reader, view(query(sql), Feature("v", "list<float64>")))["v"].to_pylist() == [[1.5, None]]


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        ("'infinity'::timestamptz", "timestamp", "Value infinity of column 'v'"),
        ("'-infinity'::timestamp", "timestamp", "Value infinity of column 'v'"),
        ("'NaN'::numeric", "decimal(12,2)", "Value 'nan' of column 'v' of source 'weather' is not decimal128"),
        ("1e30::numeric", "decimal(12,2)", "is not decimal128.*CAST"),
        ("1.234::numeric", "decimal(12,2)", "does not fit decimal"),
        ("300", "int8", "Value 300 of column 'v' of source 'weather' does not fit int8"),
    ],
)
def test_a_value_that_does_not_fit_is_said_with_its_row(reader, value, dtype, said):
    sql = f"SELECT 'JFK' AS origin, now() AS at, NULL AS v WHERE false UNION ALL SELECT 'JFK', now(), {value}"
    with pytest.raises(DefinitionError, match=said) as wrong:
        read(reader, view(query(sql.replace("NULL AS v", f"{value} AS v")), Feature("v", dtype)))
    assert wrong.value.place == "warehouse:query, row 1"


def test_rows_that_became_known_later_are_left_out_by_the_server(reader):
    assert read(reader, view(TABLE), known_until=2).num_rows == 2


def test_it_can_be_a_table_of_a_query_over_several_sources(reader):
    sql = "SELECT a.origin, a.at, a.temp + b.gate AS temp FROM a JOIN b ON a.origin = b.origin"
    tables = {"a": TABLE, "b": query("SELECT origin, gate FROM weather")}
    definition = view(SQLSource("both", sql, tables, "at"))
    frozen = check(reader, definition)
    assert read(reader, definition)["temp"].to_pylist() in ([2.5, None], [None, 2.5])
    assert frozen.table_columns["b"] == (("origin", "string"), ("gate", "int32"))
    assert frozen.table("a").columns[1] == ("at", "timestamp")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM weather",
        "WITH gone AS (DELETE FROM weather RETURNING *) SELECT origin, at, temp FROM gone",
        "SELECT 1; DELETE FROM weather",
        "SELECT origin, at, temp FROM weather) AS x; DROP TABLE weather; --",
        "COPY weather TO '/tmp/stolen'",
        "SELECT origin, at, temp FROM weather FOR UPDATE",
        "SELECT set_config('transaction_read_only', 'off', false) AS origin, now() AS at, 1.5::float8 AS temp",
        "SELECT nextval('numbers')::text AS origin, now() AS at, 1.5::float8 AS temp",
        "CREATE TABLE stolen AS SELECT * FROM weather",
        "SET default_transaction_read_only = off",
    ],
)
def test_a_query_can_change_nothing(reader, sql):
    with pytest.raises(DefinitionError, match="cannot be read"):
        read(reader, view(query(sql)))
    assert read(reader, view(TABLE)).num_rows == 3


def test_a_query_that_takes_too_long_is_stopped_by_the_server(tmp_path, url):
    reader = SourceReader(tmp_path, lambda name: url, Limits(seconds=0.3))
    sql = "SELECT pg_sleep(60)::text AS origin, now() AS at, 1.5::float8 AS temp"
    with pytest.raises(UnavailableError, match=r"took longer than 0\.3 seconds on 'warehouse'") as late:
        read(reader, view(query(sql)))
    assert "timeout_seconds" in late.value.repair


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (replace(TABLE, table="wether"), r"No table 'wether'. Did you mean 'weather'"),
        (replace(TABLE, table="public.wether"), r"No table 'public.wether'. Did you mean 'public.weather'"),
        (query("SELECT origin, at, tmep AS temp FROM weather"), r'column "tmep" does not exist.*weather.temp'),
        (query("SELECT origin, at temp FROM FROM"), "syntax error"),
        (query("SELECT origin, origin, at, temp FROM weather"), "two columns 'origin'"),
        (query("SELECT origin AS orign, at, temp FROM weather"), "Did you mean 'orign'"),
        (query("SELECT origin, at, 1 / (gate - 1) AS temp FROM weather"), "division by zero"),
    ],
)
def test_what_the_server_refuses_is_said_in_its_words(reader, source, said):
    with pytest.raises(DefinitionError, match=said):
        read(reader, view(source))


def said_of(error):
    """All that an error and its causes say."""
    words = []
    while error is not None:
        words += [str(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    return "\n".join(words)


@pytest.mark.parametrize("wrong", ["password", "port", "database", "host"])
def test_a_server_that_does_not_answer_is_named_without_the_password(tmp_path, postgres, database, wrong):
    url = postgres.url(database, password=SECRET if wrong == "password" else None)
    url = url.replace(postgres.password, SECRET) if wrong != "database" else url
    elsewhere = {"port": (f":{postgres.port}", ":1"), "host": ("127.0.0.1", "nosuch.invalid")}
    url = postgres.url("nosuch") if wrong == "database" else url.replace(*elsewhere.get(wrong, ("", "")))
    reader = SourceReader(tmp_path, lambda name: url)
    with pytest.raises(UnavailableError, match=r"PostgreSQL connection 'warehouse' \(postgresql://owner@") as failed:
        check(reader, view(TABLE))
    assert failed.value.repair
    assert SECRET not in said_of(failed.value)
    assert postgres.password not in said_of(failed.value)


def test_an_unknown_connection_says_how_to_name_one(tmp_path):
    with pytest.raises(ConfigError, match=r"No connection 'warehouse'.*\[connections\]"):
        check(SourceReader(tmp_path), view(TABLE))


def test_a_url_of_another_database_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="begins with postgresql://"):
        check(SourceReader(tmp_path, lambda name: "mysql://ann@db/sales"), view(TABLE))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "a table or a query"),
        ({"table": "a", "query": "SELECT 1"}, "a table or a query"),
        ({"table": "a", "connection": "postgresql://ann:x@db/sales"}, "is not a name.*[connections]"),
    ],
)
def test_a_definition_that_cannot_be_is_refused(more, said):
    with pytest.raises(DefinitionError, match=said):
        PostgresSource(**{"name": "w", "connection": "warehouse"} | more)


def test_the_password_stays_out_of_the_registry(reader, postgres):
    record = check(reader, view(query("SELECT origin, at, temp FROM weather")))
    assert (record.connection, record.dialect) == ("warehouse", "postgres")
    assert postgres.password not in repr(record)


FEATURES = """
from featurestore import CSVSource, Entity, Feature, FeatureView, PostgresSource, SQLSource
origin = Entity("origin", join_keys={"origin": "string"})
stock = SQLSource(
    "stock",
    query="SELECT w.origin, w.at, temp, name FROM w JOIN airports a ON a.code = w.origin",
    tables={"w": PostgresSource("w", "warehouse", table="weather"), "airports": CSVSource("airports", "data/airports.csv")},
    event_timestamp="at",
)
named = FeatureView("named", origin, stock, [Feature("temp", "float64"), Feature("name", "string")])
"""


def test_a_project_reads_a_server_and_its_password_is_nowhere_in_it(project, postgres, database, monkeypatch):
    (project / "features.py").write_text(FEATURES)
    (project / "data" / "airports.csv").write_text("code,name\nJFK,Kennedy\nLGA,LaGuardia\n")
    (project / "featurestore.toml").write_text(
        f'[project]\nname = "small"\n[connections]\nwarehouse = "{postgres.url("nosuch")}"\n'
    )
    monkeypatch.setenv("FEATURESTORE_CONNECTION_WAREHOUSE", postgres.url(database))
    with FeatureStore(project) as store:
        store.apply()
        assert store.ingest("named").accepted == 2
        assert store.ingest("named").repeated == 2
        assert not store.plan()
        rows = store.get_historical_features(
            {"origin": ["JFK"], "event_timestamp": [datetime(2020, 1, 1, tzinfo=UTC)]}, ["named:name"]
        )
        assert rows.to_arrow()["name"].to_pylist() == ["Kennedy"]
    written = b"".join(file.read_bytes() for file in (project / "store").rglob("*") if file.is_file())
    assert b"warehouse" in written
    assert postgres.password.encode() not in written
