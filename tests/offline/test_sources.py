"""Sources are read by DuckDB from the named files and nothing else, and what does not fit is said before an apply."""

import tempfile
from datetime import timedelta

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from featurestore.definitions import (
    Aggregation,
    ArrowSource,
    CSVSource,
    DeltaSource,
    Entity,
    Feature,
    FeatureView,
    ParquetSource,
    PushSource,
    SQLSource,
)
from featurestore.errors import DefinitionError, UnavailableError
from featurestore.offline.sources import Limits, SourceReader
from featurestore.registry.resolution import stored_view
from featurestore.rows import RowSchema

ORIGIN = Entity("origin", {"origin": "string"})
AT = pa.array([1, 2, 2], pa.timestamp("us", tz="UTC"))
ROWS = pa.table({"origin": ["JFK", "LGA", "LGA"], "seen": AT, "temp": [1.5, None, 3.5], "gate": [1, 2, 2]})
SECRET = pa.table({"origin": ["JFK"], "seen": AT[:1], "temp": [99.0], "secret": ["x"]})


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    pq.write_table(ROWS, folder / "data" / "weather.parquet")
    pq.write_table(SECRET, folder / "data" / "secret.parquet")
    pq.write_table(SECRET, tmp_path / "outside.parquet")
    return folder


def view(source, *features, **more):
    return FeatureView("weather", ORIGIN, source, features or [Feature("temp", "float64")], **more)


def parquet(path="data/weather.parquet"):
    return ParquetSource("weather", path, event_timestamp="seen")


def sql(query):
    return SQLSource("weather", query, {"raw": "data/weather.parquet"}, event_timestamp="seen")


def record_and_schema(definition):
    record = stored_view(definition)
    return record, RowSchema.of(record)


def check(root, definition):
    record, schema = record_and_schema(definition)
    SourceReader(root).check("weather", record, schema)


def read(root, definition):
    record, schema = record_and_schema(definition)
    return schema.canonical(SourceReader(root).read(record.source, schema)).rows


def temps(rows):
    return sorted(rows["temp"].to_pylist(), key=str)


def test_a_file_gives_the_columns_a_view_needs_and_no_other(root):
    record, schema = record_and_schema(view(parquet()))
    check(root, view(parquet()))
    assert SourceReader(root).read(record.source, schema).column_names == ["origin", "seen", "temp"]
    assert temps(read(root, view(parquet()))) == [1.5, 3.5, None]


def test_a_feature_may_have_another_name_than_its_column(root):
    definition = view(parquet(), Feature("celsius", "float64", column="temp"))
    check(root, definition)
    assert read(root, definition).column_names[-1] == "celsius"


def test_columns_are_known_without_reading_rows(root):
    record, _ = record_and_schema(view(parquet()))
    found = SourceReader(root).columns(record.source)
    assert list(found) == ["origin", "seen", "temp", "gate"]
    assert found["gate"] == pa.int64()


@pytest.mark.parametrize("path", ["parts", "parts/", "parts/**/*.parquet", "parts/*/*.parquet", "parts/b/?.parquet"])
def test_a_folder_or_a_pattern_gives_all_its_files(root, path):
    for part, rows in (("b/1", ROWS[:1]), ("b/2", ROWS[1:])):
        (root / "parts" / "b").mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, root / "parts" / f"{part}.parquet")
    (root / "parts" / "README.md").write_text("not a table")
    check(root, view(parquet(path)))
    assert temps(read(root, view(parquet(path)))) == [1.5, 3.5, None]


def test_a_path_with_a_quote_is_only_a_path(root):
    (root / "data" / "weather.parquet").rename(root / "data" / "it's.parquet")
    assert len(read(root, view(parquet("data/it's.parquet")))) == 3


def test_a_query_reads_its_tables(root):
    definition = view(sql("SELECT origin, seen, max(temp) AS temp FROM raw GROUP BY ALL ORDER BY 1 -- the highest"))
    check(root, definition)
    assert temps(read(root, definition)) == [1.5, 3.5]


def test_times_without_a_zone_are_utc(root):
    definition = view(sql("SELECT origin, TIMESTAMP '2013-11-01 00:00:00' AS seen, temp FROM raw LIMIT 1"))
    assert read(root, definition)["__event_timestamp"].cast(pa.int64()).to_pylist() == [1383264000000000]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/wether.parquet", r"no file 'data/wether.parquet'.*Did you mean 'data/weather.parquet'"),
        ("dat/weather.parquet", "no file 'dat/weather.parquet'"),
        ("data/none*.parquet", "no file"),
        ("empty", "no file 'empty'"),
    ],
)
def test_a_missing_file_is_named_with_the_nearest(root, path, said):
    (root / "empty").mkdir()
    with pytest.raises(DefinitionError, match=said) as missing:
        check(root, view(parquet(path)))
    assert missing.value.place == "weather"


def test_a_file_that_is_not_parquet_is_said_so(root):
    (root / "data" / "weather.parquet").write_text("origin,at,temp\n")
    with pytest.raises(DefinitionError, match="Source 'weather' cannot be read"):
        check(root, view(parquet()))


@pytest.mark.parametrize(
    ("definition", "column", "said"),
    [
        (view(parquet(), Feature("tmep", "float64")), "tmep", "Did you mean 'temp'"),
        (
            view(ParquetSource("weather", "data/weather.parquet", "observed_at")),
            "observed_at",
            "No column 'observed_at'",
        ),
        (
            view(ParquetSource("weather", "data/weather.parquet", "seen", "loaded_at")),
            "loaded_at",
            "No column 'loaded_at'",
        ),
        (view(parquet(), event_key={"gaet": "int64"}), "gaet", "Did you mean 'gate'"),
        (view(sql("SELECT origin AS orign, seen, temp FROM raw")), "origin", "Did you mean 'orign'"),
    ],
)
def test_a_missing_column_is_named_with_the_nearest_and_its_place(root, definition, column, said):
    with pytest.raises(DefinitionError, match=said) as missing:
        check(root, definition)
    assert missing.value.place == f"weather.{column}"


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (view(parquet(), Feature("temp", "int64")), "Column 'temp' is double, declared int64"),
        (view(parquet(), Feature("temp", "float32")), "Column 'temp' is double, declared float32"),
        (view(parquet(), Feature("gate", "string")), "Column 'gate' is int64, declared string"),
        (view(ParquetSource("weather", "data/weather.parquet", "gate")), "Column 'gate' is int64, declared timestamp"),
        (view(sql("SELECT [origin] AS origin, seen, temp FROM raw")), "Column 'origin' is list"),
        (view(sql("SELECT origin, seen, TIME '10:00' AS temp FROM raw")), "Column 'temp' is time"),
    ],
)
def test_a_type_that_does_not_fit_is_said_with_both(root, definition, said):
    with pytest.raises(DefinitionError, match=said) as wrong:
        check(root, definition)
    assert wrong.value.place.startswith("weather.")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT origin, seen, tmep FROM raw", "tmep"),
        ("SELECT origin, seen, temp FROM row", "row"),
        ("SELECT origin, seen, temp FROM source", "source"),
        ("SELECT origin FROM FROM", "syntax error"),
        ("SELECT nosuch(temp) AS temp, origin, seen FROM raw", "nosuch"),
        ("", "not one SELECT"),
        ("VALUES (1)", "origin"),
    ],
)
def test_a_query_that_does_not_resolve_is_refused(root, query, said):
    with pytest.raises(DefinitionError, match=said) as wrong:
        check(root, view(sql(query)))
    assert wrong.value.place.startswith("weather")


ELSEWHERE = [
    "SELECT * FROM read_parquet('{root}/data/secret.parquet')",
    "SELECT * FROM '{root}/data/secret.parquet'",
    "SELECT * FROM read_parquet('{root}/data/*.parquet')",
    "SELECT * FROM read_parquet('{root}/../outside.parquet')",
    "SELECT * FROM raw UNION ALL BY NAME SELECT * FROM read_parquet('{root}/data/secret.parquet')",
    "SELECT content AS temp, 'JFK' AS origin, now() AS seen FROM read_text('/etc/hostname')",
    "SELECT file AS temp, 'JFK' AS origin, now() AS seen FROM glob('{root}/data/*')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM 'https://example.com/weather.parquet'",
    "WITH a AS (SELECT * FROM read_blob('{root}/data/secret.parquet')) SELECT * FROM a",
    "SELECT * FROM raw WHERE temp > (SELECT count(*) FROM '{root}/data/secret.parquet')",
    "SELECT * FROM parquet_metadata('{root}/data/secret.parquet')",
    "SELECT * FROM parquet_scan(['{root}/data/weather.parquet', '{root}/data/secret.parquet'])",
    "SELECT * FROM read_parquet('{root}/data/weather.parquet/../secret.parquet')",
    "SELECT * FROM read_parquet('file://{root}/data/secret.parquet')",
    "SELECT * FROM read_json('{root}/featurestore.toml')",
    "SELECT Delimiter AS origin, now() AS seen, 1.5::DOUBLE AS temp FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM query('SELECT * FROM ''{root}/data/secret.parquet''')",
    "SELECT * FROM query_table('{root}/data/secret.parquet')",
    "SELECT * FROM read_csv('/proc/self/environ')",
    "SELECT getenv('HOME') AS origin, now() AS seen, 1.5::DOUBLE AS temp",
    "SELECT * FROM sqlite_scan('{root}/store/registry.db', 'tokens')",
    "SELECT * FROM postgres_scan('host=localhost', 'public', 'weather')",
    "SELECT * FROM iceberg_scan('{root}')",
    "SELECT * FROM read_parquet('s3://bucket/weather.parquet')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM ''{root}/data/secret.parquet'''))",
    "FROM '{root}/data/secret.parquet'",
    "SELECT * FROM python_map_function",
    "SELECT * FROM duckdb_secrets_nosuch",
]


@pytest.mark.parametrize("query", ELSEWHERE)
def test_a_query_cannot_read_another_file(root, query):
    with pytest.raises(DefinitionError, match="cannot be read"):
        read(root, view(sql(query.format(root=root))))


STATEMENTS = [
    "COPY raw TO '{root}/data/stolen.parquet'",
    "ATTACH '{root}/data/new.db' AS new",
    "SET threads = 1",
    "SET enable_external_access = true",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CREATE TABLE t AS SELECT * FROM raw",
    "DROP VIEW raw",
    "INSERT INTO raw SELECT * FROM raw",
    "EXPORT DATABASE '{root}/data/dump'",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "USE memory",
    "RESET lock_configuration",
    "SET VARIABLE a = 1",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE MACRO f() AS 1",
    "CHECKPOINT",
    "EXECUTE prepared",
    "EXPLAIN ANALYZE COPY raw TO '{root}/data/stolen.parquet'",
    "UPDATE raw SET temp = 0",
    "DELETE FROM raw",
]
WRAPPED = ["{}", "SELECT * FROM raw; {}", "SELECT * FROM raw); {}; SELECT * FROM (SELECT 1"]


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_query_is_one_select_and_can_change_nothing(root, statement, wrapped):
    before = sorted(path.name for path in root.rglob("*"))
    kept = (root / "data" / "weather.parquet").read_bytes()
    with pytest.raises(DefinitionError):
        check(root, view(sql(wrapped.format(statement.format(root=root)))))
    assert sorted(path.name for path in root.rglob("*")) == before
    assert (root / "data" / "weather.parquet").read_bytes() == kept


def test_a_query_sees_no_python_variable(root):
    rows = ROWS
    with pytest.raises(DefinitionError, match="cannot be read"):
        check(root, view(sql("SELECT * FROM rows")))
    assert rows is ROWS


WINDOW = Aggregation("temp", "mean", timedelta(hours=3))


def windowed(source, **more):
    return view(source, WINDOW, **more)


def test_a_windowed_view_with_equal_events_needs_an_event_key(root):
    pq.write_table(pa.concat_tables([ROWS, ROWS[:1]]), root / "data" / "weather.parquet")
    with pytest.raises(DefinitionError, match=r"1 events of windowed view 'weather' have an equal twin.*event_key="):
        check(root, windowed(parquet()))
    check(root, windowed(parquet(), event_key={"gate": "int64"}))
    check(root, view(parquet()))


def test_events_that_differ_only_in_what_the_view_does_not_read_are_equal(root):
    rows = pa.table({"origin": ["JFK"] * 2, "seen": AT[1:], "temp": [1.5] * 2, "gate": [1, 2]})
    pq.write_table(rows, root / "data" / "weather.parquet")
    with pytest.raises(DefinitionError, match="equal twin"):
        check(root, windowed(parquet()))


def test_events_that_differ_in_value_need_no_event_key(root):
    check(root, windowed(parquet()))


def test_equal_nulls_are_equal_events(root):
    rows = pa.table({"origin": ["JFK"] * 2, "seen": AT[1:], "temp": pa.nulls(2, pa.float64())})
    pq.write_table(rows, root / "data" / "weather.parquet")
    with pytest.raises(DefinitionError, match="equal twin"):
        check(root, windowed(parquet()))


def test_a_pushed_windowed_view_needs_an_event_key(root):
    with pytest.raises(DefinitionError, match="Give it an event_key"):
        check(root, windowed(PushSource("weather", "seen")))
    check(root, windowed(PushSource("weather", "seen"), event_key={"gate": "int64"}))


def test_a_pushed_batch_view_has_no_source_to_check(root):
    check(root, view(PushSource("weather", "seen")))


# --- queries over several sources, and what they may take --------------------------------------------------------------


def joined(root):
    """One query over a table of every kind of file."""
    pq.write_table(ROWS, root / "data" / "a.parquet")
    (root / "data" / "b.csv").write_text("origin,high\nJFK,0.25\nLGA,NA\n")
    pyarrow.feather.write_feather(pa.table({"origin": ["JFK", "LGA"], "wide": [1, 2]}), root / "data" / "c.arrow")
    write_deltalake(str(root / "data" / "d"), pa.table({"origin": ["JFK", "LGA"], "deep": [10, 20]}))
    tables = {
        "a": "data/a.parquet",
        "b": CSVSource("b", "data/b.csv", nulls=["NA"]),
        "c": ArrowSource("c", "data/c.arrow"),
        "d": DeltaSource("d", "data/d"),
        "e": SQLSource(
            "e", "SELECT origin, count(*) AS n FROM f GROUP BY ALL", {"f": ParquetSource("f", "data/a.parquet")}
        ),
    }
    joins = " ".join(f"JOIN {table} USING (origin)" for table in "bcde")
    query = f"SELECT a.origin, seen, temp + high + wide + deep + n AS temp FROM a {joins}"
    return SQLSource("all", query, tables, event_timestamp="seen")


def test_a_query_reads_every_kind_of_source(root):
    assert temps(read(root, view(joined(root)))) == [13.75 - 0.0, None, None]


def test_the_columns_of_a_query_and_its_tables_are_kept_with_its_text(root):
    record, schema = record_and_schema(view(joined(root)))
    frozen = SourceReader(root).check("weather", record, schema)
    assert (frozen.dialect, frozen.columns) == (
        "duckdb",
        (("origin", "string"), ("seen", "timestamp"), ("temp", "float64")),
    )
    assert frozen.table_columns["a"] == (
        ("origin", "string"),
        ("seen", "timestamp"),
        ("temp", "float64"),
        ("gate", "int64"),
    )
    assert frozen.table_columns["b"] == (("origin", "string"), ("high", "float64"))
    assert frozen.table("e").table_columns["f"] == frozen.table_columns["a"]
    assert frozen.defined().columns == ()


def test_a_query_that_takes_too_long_is_stopped(root):
    forever = "SELECT sum(a.range * b.range)::DOUBLE FROM range(1000000) a, range(1000000) b"
    definition = view(sql(f"SELECT origin, seen, ({forever}) AS temp FROM raw"))
    record, schema = record_and_schema(definition)
    with pytest.raises(UnavailableError, match=r"took longer than 0\.5 seconds") as late:
        SourceReader(root, limits=Limits(seconds=0.5)).read(record.source, schema)
    assert "timeout_seconds" in late.value.repair


def test_a_query_that_needs_too_much_memory_is_stopped(root):
    definition = view(
        sql("SELECT origin, seen, (SELECT len(list(a.range)) FROM range(30000000) a) + temp AS temp FROM raw")
    )
    record, schema = record_and_schema(definition)
    with pytest.raises(DefinitionError, match="needs more than 64 MiB") as large:
        SourceReader(root, limits=Limits(memory_mb=64)).read(record.source, schema)
    assert "memory_mb" in large.value.repair


def test_what_a_query_cannot_hold_is_spilled_and_nothing_stays_behind(root, tmp_path, monkeypatch):
    (tmp_path / "spill").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spill"))
    many = "SELECT 'JFK' AS origin, make_timestamptz(a.range) AS seen, random() AS temp FROM range(2000000) a ORDER BY temp"
    record, schema = record_and_schema(view(sql(many)))
    assert SourceReader(root, limits=Limits(memory_mb=48)).read(record.source, schema).num_rows == 2_000_000
    assert list((tmp_path / "spill").iterdir()) == []


def test_a_value_of_a_query_that_does_not_fit_is_said_with_its_row(root):
    definition = view(sql("SELECT origin, seen, gate * 100 AS gate FROM raw ORDER BY gate"), Feature("gate", "int8"))
    with pytest.raises(
        DefinitionError, match="Value 200 of column 'gate' of source 'weather' does not fit int8"
    ) as wrong:
        read(root, definition)
    assert wrong.value.place == "weather, row 2 of its query"


def test_a_damaged_file_of_a_query_is_named(root):
    path = root / "data" / "weather.parquet"
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(bytes(content))
    with pytest.raises(DefinitionError, match="cannot be read") as wrong:
        read(root, view(sql("SELECT * FROM raw")))
    assert wrong.value.place == "data/weather.parquet"
