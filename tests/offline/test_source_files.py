"""Files of every kind give the same rows; what is wrong with one is said with its name and row, and types are never guessed anew."""

import gzip
import os
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions import ArrowSource, CSVSource, DeltaSource, Entity, Feature, FeatureView, ParquetSource
from featurestore.errors import ConflictError, DefinitionError
from featurestore.offline.sources import SourceReader
from featurestore.offline.sources.texts import typed
from featurestore.registry.resolution import stored_view
from featurestore.rows import RowSchema
from featurestore.types import DType

ORIGIN = Entity("origin", {"origin": "string"})
AT = pa.array([1, 2, 3], pa.timestamp("us", tz="UTC"))
ROWS = pa.table({"origin": ["JFK", "LGA", None], "at": AT, "temp": [1.5, None, 3.5], "gate": [1, 2, 3]})
TEMP, GATE = Feature("temp", "float64"), Feature("gate", "int64")


def view(source, *features):
    return FeatureView("weather", ORIGIN, source, features or [TEMP, GATE])


def check(root, definition):
    record = stored_view(definition)
    return SourceReader(root).check("weather", record, RowSchema.of(record))


def read(root, definition, **more):
    """The rows as an ingest sees them: the source as it was frozen when the plan was made."""
    record = stored_view(definition)
    schema = RowSchema.of(record)
    return SourceReader(root).read(check(root, definition), schema, **more)


def write_ipc(path, rows, make=pa.ipc.new_file):
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, make(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.csv.write_csv(rows, path)


WRITERS = {
    "parquet": (ParquetSource("w", "w.parquet", "at"), lambda path, rows: pq.write_table(rows, path)),
    "csv": (CSVSource("w", "w.csv", "at"), write_csv),
    "csv, compressed": (
        CSVSource("w", "w.csv.gz", "at"),
        lambda path, rows: (write_csv(path.with_suffix(""), rows), path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))),
    ),
    "arrow file": (ArrowSource("w", "w.arrow", "at"), write_ipc),
    "arrow stream": (ArrowSource("w", "w.arrows", "at"), lambda path, rows: write_ipc(path, rows, pa.ipc.new_stream)),
    "feather": (ArrowSource("w", "w.feather", "at"), lambda path, rows: pyarrow.feather.write_feather(rows, path)),
    "delta": (DeltaSource("w", "w", "at"), lambda path, rows: write_deltalake(str(path), rows)),
}  # fmt: skip
FILES = {kind: pair for kind, pair in WRITERS.items() if kind != "delta"}


def written(root, kind, rows=ROWS):
    source, write = WRITERS[kind]
    write(root / source.path, rows)
    return source


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_source_gives_the_same_rows(tmp_path, kind):
    source = written(tmp_path, kind)
    rows = read(tmp_path, view(source))
    assert rows.sort_by("at").to_pydict() == ROWS.select(["origin", "at", "temp", "gate"]).to_pydict()
    assert rows.schema.field("at").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize("kind", WRITERS)
def test_only_the_columns_a_view_needs_are_read(tmp_path, kind):
    source = written(tmp_path, kind)
    assert read(tmp_path, view(source, GATE)).column_names == ["origin", "at", "gate"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_source_without_rows_is_empty_and_not_an_error(tmp_path, kind):
    source = written(tmp_path, kind, ROWS[:0])
    features = [Feature("temp", "string")] if kind.startswith("csv") else [TEMP]
    columns = {"columns": {"at": "timestamp"}} if kind.startswith("csv") else {}
    source = type(source)("w", source.path, "at", **columns)
    assert read(tmp_path, view(source, *features)).num_rows == 0


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_column_is_named_with_the_nearest(tmp_path, kind):
    source = written(tmp_path, kind)
    with pytest.raises(DefinitionError, match=r"No column 'tmep'. Did you mean 'temp'") as missing:
        check(tmp_path, view(source, Feature("tmep", "float64")))
    assert missing.value.place == "weather.tmep"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_source_that_is_not_there_is_named_with_the_nearest(tmp_path, kind):
    source = written(tmp_path, kind)
    wrong = type(source)("w", source.path.replace("w", "ww", 1), "at")
    with pytest.raises(DefinitionError, match=f"Source 'w' has no file 'ww.*Did you mean '{source.path}'"):
        check(tmp_path, view(wrong))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_value_that_does_not_fit_its_type_is_said_with_its_row(tmp_path, kind):
    rows = ROWS.set_column(3, "gate", pa.array([1, 300, 2]))
    source = written(tmp_path, kind, rows)
    with pytest.raises(DefinitionError, match="Value 300 of column 'gate' of source 'w' does not fit int8") as wrong:
        read(tmp_path, view(source, Feature("gate", "int8")))
    places = {"delta": "w@v0, row 2", "csv": "w.csv:3", "csv, compressed": "w.csv.gz:3"}
    assert wrong.value.place == places.get(kind, f"{source.path}, row 2")


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_that_became_known_later_are_left_out(tmp_path, kind):
    source = written(tmp_path, kind)
    assert read(tmp_path, view(source), known_until=2)["gate"].to_pylist() == [1, 2]


def test_a_row_without_an_event_time_is_not_left_out_as_later(tmp_path):
    created = pa.array([5, None, 1], pa.timestamp("us"))
    rows = ROWS.set_column(1, "at", pa.array([1, 2, None], pa.timestamp("us"))).append_column("made", created)
    pq.write_table(rows, tmp_path / "w.parquet")
    definition = view(ParquetSource("w", "w.parquet", "at", "made"))
    assert read(tmp_path, definition, known_until=3)["gate"].to_pylist() == [2, 3]


@pytest.mark.parametrize("kind", FILES)
def test_many_files_are_read_in_the_order_of_their_names(tmp_path, kind):
    source, write = FILES[kind]
    for n, name in enumerate(("b/2", "a/1", "c/3")):
        path = tmp_path / "parts" / f"{name}{''.join((tmp_path / source.path).suffixes)}"
        path.parent.mkdir(parents=True)
        write(path, ROWS[n : n + 1])
        if kind == "csv, compressed":
            path.with_suffix("").unlink()
    for path in ("parts", "parts/*/*"):
        rows = read(tmp_path, view(type(source)("w", path, "at", **csv_types(kind))))
        assert rows["gate"].to_pylist() == [2, 1, 3]


def csv_types(kind):
    return {"columns": {"temp": "float64"}} if kind.startswith("csv") else {}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_lacks_a_column_is_named(tmp_path, kind):
    source, write = FILES[kind]
    ending = "".join((tmp_path / source.path).suffixes)
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / f"1{ending}", ROWS)
    write(tmp_path / "parts" / f"2{ending}", ROWS.rename_columns(["origin", "at", "temp", "gates"]))
    if kind == "csv, compressed":
        for n in (1, 2):
            (tmp_path / "parts" / f"{n}.csv").unlink()
    with pytest.raises(DefinitionError, match=r"No column 'gate'. Did you mean 'gates'") as missing:
        read(tmp_path, view(type(source)("w", "parts", "at")))
    assert missing.value.place == f"parts/2{ending}"


@pytest.mark.parametrize("kind", FILES)
def test_folder_names_are_columns(tmp_path, kind):
    source, write = FILES[kind]
    ending = "".join((tmp_path / source.path).suffixes)
    for year, airport in ((2013, "JFK"), (2014, "a%20b"), (2014, "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / "lake" / f"year={year}" / f"origin={airport}"
        folder.mkdir(parents=True)
        write(folder / f"x{ending}", ROWS.drop_columns(["origin"])[:1])
    found = read(tmp_path, view(type(source)("w", f"lake/**/x{ending}", "at"), Feature("year", "int64")))
    assert sorted(zip(found["origin"].to_pylist(), found["year"].to_pylist(), strict=True), key=str) == [
        ("JFK", 2013),
        ("a b", 2014),
        (None, 2014),
    ]


def test_folder_names_have_the_declared_type_or_are_an_error(tmp_path):
    for month in ("01", "02"):
        (tmp_path / "lake" / f"month={month}").mkdir(parents=True)
        pq.write_table(ROWS, tmp_path / "lake" / f"month={month}" / "x.parquet")
    month = Feature("month", "string")
    assert set(read(tmp_path, view(ParquetSource("w", "lake", "at"), month))["month"].to_pylist()) == {"01", "02"}
    typed = ParquetSource("w", "lake", "at", partitions={"month": "int32"})
    assert set(read(tmp_path, view(typed, Feature("month", "int32")))["month"].to_pylist()) == {1, 2}
    (tmp_path / "lake" / "month=02").rename(tmp_path / "lake" / "month=May")
    with pytest.raises(DefinitionError, match="Folder name 'month=May' of source 'w' is not int32") as wrong:
        read(tmp_path, view(typed, Feature("month", "int32")))
    assert wrong.value.place == "lake/month=May/x.parquet"


def damaged(path, kind):
    """Return the bytes of a file with a fault that its reader can see."""
    content = bytearray(path.read_bytes())
    if kind == "arrow stream":
        return bytes(content[:-40])
    if kind == "csv":
        return b'origin,at,temp,gate\n"JFK,2013-01-01,1.5,1\n'
    if kind == "csv, compressed":
        return bytes(content[:40])
    return bytes(content[: len(content) // 2])


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_named(tmp_path, kind):
    source = written(tmp_path, kind)
    path = tmp_path / source.path
    path.write_bytes(damaged(path, kind))
    with pytest.raises(DefinitionError, match="Source 'w' cannot be read") as wrong:
        read(tmp_path, view(source))
    assert wrong.value.place.startswith(source.path)


def test_a_flipped_byte_of_a_page_with_checksum_is_named(tmp_path):
    rows = pa.table(
        {
            "origin": ["JFK"] * 1000,
            "at": pa.array(range(1000), pa.timestamp("us")),
            "temp": [0.25 * n for n in range(1000)],
        }
    )
    pq.write_table(rows, tmp_path / "w.parquet", write_page_checksum=True, compression="none", use_dictionary=False)
    path = tmp_path / "w.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DefinitionError, match=r"cannot be read.*(CRC|checksum)") as wrong:
        read(tmp_path, view(ParquetSource("w", "w.parquet", "at"), TEMP))
    assert wrong.value.place == "w.parquet"


def test_an_arrow_file_with_offsets_that_point_nowhere_is_refused(tmp_path):
    """Arrow takes what it reads on trust; a wrong offset would read another's memory."""
    text = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 9_000_000, 3, 4))), pa.py_buffer(b"abcd")],
    )
    write_ipc(tmp_path / "w.arrow", pa.table({"origin": text, "at": AT, "temp": [1.0, 2.0, 3.0]}))
    with pytest.raises(DefinitionError, match="Source 'w' cannot be read"):
        read(tmp_path, view(ArrowSource("w", "w.arrow", "at"), TEMP))


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, kind):
    source = written(tmp_path, kind)
    record = stored_view(view(source))
    path = tmp_path / source.path
    stream = SourceReader(tmp_path).batches(check(tmp_path, view(source)), RowSchema.of(record))
    stream.read_next_batch()
    os.utime(path, ns=(1, 1))
    with pytest.raises(ConflictError, match="A file of source 'w' changed while it was read") as changed:
        stream.read_all()
    assert changed.value.place == source.path


def test_a_stream_is_made_of_small_batches(tmp_path):
    count = 300_000
    rows = pa.table(
        {"origin": ["JFK"] * count, "at": pa.array(range(count), pa.timestamp("us")), "temp": [1.0] * count}
    )
    pq.write_table(rows, tmp_path / "w.parquet")
    definition = view(ParquetSource("w", "w.parquet", "at"), TEMP)
    record = stored_view(definition)
    lengths = [len(batch) for batch in SourceReader(tmp_path).batches(record.source, RowSchema.of(record))]
    assert sum(lengths) == count
    assert max(lengths) <= 65_536


# --- CSV ---------------------------------------------------------------------------------------------------------------


def csv(root, text, **more):
    (root / "w.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return CSVSource("w", "w.csv", "at", **more)


@pytest.mark.parametrize(
    ("cells", "guessed"),
    [
        (["1", "-2", "0", ""], "int64"),
        (["1", "2.5"], "float64"),
        (["1e3", "nan", "-inf"], "float64"),
        (["01", "2"], "string"),
        (["9223372036854775808"], "float64"),
        (["true", "False"], "bool"),
        (["true", "1"], "string"),
        (["2013-01-31", ""], "date"),
        (["2013-02-30"], "string"),
        (["2013-01-31", "2013-01-31 10:00"], "timestamp"),
        (["2013-01-31T10:00:00Z", "2013-01-31 10:00"], "timestamp"),
        (["", ""], "string"),
        (["NA", "1"], "string"),
    ],
)
def test_a_type_is_guessed_from_every_cell(tmp_path, cells, guessed):
    text = "origin,at,v\n" + "".join(f"JFK,2013-01-01 00:00,{cell}\n" for cell in cells)
    frozen = check(tmp_path, view(csv(tmp_path, text), Feature("v", guessed)))
    assert dict(frozen.columns) == {"origin": "string", "at": "timestamp", "v": guessed}


def test_a_guessed_type_is_kept_when_the_file_changes(tmp_path):
    head = "origin,at,gate\n"
    definition = view(csv(tmp_path, f"{head}JFK,2013-01-01 00:00,1\n"), GATE)
    frozen = check(tmp_path, definition)
    assert dict(frozen.columns) == {"origin": "string", "at": "timestamp", "gate": "int64"}
    (tmp_path / "w.csv").write_text(f"{head}JFK,2013-01-01 00:00,1\nLGA,2013-01-01,1.5\n")
    with pytest.raises(DefinitionError, match=r"Cell '1.5' of column 'gate' of source 'w' is not int64") as wrong:
        SourceReader(tmp_path).read(frozen, RowSchema.of(stored_view(definition)))
    assert wrong.value.place == "w.csv:3, column 3"


def test_a_key_of_digits_stays_as_it_is_written_where_it_is_declared(tmp_path):
    text = "origin,at,v\n1,2013-01-01 00:00,x\n22,2013-01-01,y\n"
    with pytest.raises(
        DefinitionError, match=r'Column \'origin\' is int64, declared string.*columns=\{"origin": "string"\}'
    ):
        check(tmp_path, view(csv(tmp_path, text), Feature("v", "string")))
    source = csv(tmp_path, text, columns={"origin": "string"})
    assert read(tmp_path, view(source, Feature("v", "string")))["origin"].to_pylist() == ["1", "22"]


def test_every_declared_type_is_read(tmp_path):
    columns = {
        "at": "timestamp",
        "i": "int8",
        "u": "float32",
        "b": "bool",
        "d": "date",
        "m": "decimal(6,2)",
        "s": "string",
    }
    source = csv(
        tmp_path,
        "s,origin,m,d,b,u,i,at\n x ,JFK,1.5,2013-01-02,1,0.5,+7,2013-01-02T03:04:05.678901+01:00\n",
        columns=columns,
    )
    features = [Feature(name, dtype) for name, dtype in columns.items() if name != "at"]
    (row,) = read(tmp_path, view(source, *features)).to_pylist()
    assert row == {
        "origin": "JFK",
        "at": datetime(2013, 1, 2, 2, 4, 5, 678901, UTC),
        "i": 7,
        "u": 0.5,
        "b": True,
        "d": date(2013, 1, 2),
        "m": Decimal("1.50"),
        "s": " x ",
    }


@pytest.mark.parametrize(
    ("dtype", "cell"),
    [
        *(("int64", cell) for cell in ("1.5", "1e3", " 1", "0x10", "1_000", "9223372036854775808", "x")),
        *(("int8", cell) for cell in ("128", "1.0")),
        *(("float64", cell) for cell in ("1,5", "1e400", "1_0.5", " 1", "one")),
        *(("bool", cell) for cell in ("yes", "t", "2")),
        *(("date", cell) for cell in ("2013-1-1", "01/02/2013", "2013-02-30", "2013-01-01 10:00")),
        *(("timestamp", cell) for cell in ("1383264000", "2013-13-01", "2013-01-01 00:00:00.1234567", "noon")),
        *(("decimal(6,2)", cell) for cell in ("1.234", "12345.67", "nan")),
    ],
)  # fmt: skip
def test_a_cell_that_is_not_of_its_type_is_said_with_file_line_and_column(tmp_path, dtype, cell):
    text = f'origin,at,"v"\n"two\nlines",2013-01-01,\n\nJFK,2013-01-01,"{cell}"\n'
    source = csv(tmp_path, text, columns={"v": dtype, "at": "timestamp"})
    with pytest.raises(DefinitionError, match=f"of column 'v' of source 'w' is not {dtype.partition('(')[0]}") as wrong:
        read(tmp_path, view(source, Feature("v", dtype)))
    assert wrong.value.place == "w.csv:5, column 3"
    assert "nulls=" in wrong.value.repair


@pytest.mark.parametrize(("line", "said"), [("JFK,2013-01-01", "Expected 3 columns, got 2"), ("a,b,c,d", "got 4")])
def test_a_line_with_another_number_of_cells_is_said_with_its_line(tmp_path, line, said):
    source = csv(tmp_path, f"origin,at,v\nJFK,2013-01-01,x\n{line}\n", columns={"at": "timestamp"})
    with pytest.raises(DefinitionError, match=said) as wrong:
        read(tmp_path, view(source, Feature("v", "string")))
    assert wrong.value.place == "w.csv:3"


def test_only_an_unquoted_cell_is_null(tmp_path):
    text = 'origin,at,v\na,2013-01-01,\nb,2013-01-01,""\nc,2013-01-01,NA\nd,2013-01-01,"NA"\n'
    source = csv(tmp_path, text, nulls=["", "NA"], columns={"at": "timestamp"})
    assert read(tmp_path, view(source, Feature("v", "string")))["v"].to_pylist() == [None, "", None, "NA"]


def test_header_delimiter_and_byte_order_mark(tmp_path):
    source = csv(tmp_path, "\ufefforigin;v;at\r\nJFK;1;2013-01-01 10:00\r\n", delimiter=";")
    assert read(tmp_path, view(source, Feature("v", "int64")))["v"].to_pylist() == [1]
    columns = {"origin": "string", "v": "int64", "at": "timestamp"}
    source = csv(tmp_path, "JFK\t1\t2013-01-01\n", delimiter="\t", header=False, columns=columns)
    assert read(tmp_path, view(source, Feature("v", "int64")))["origin"].to_pylist() == ["JFK"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"origin,at,v,v\nJFK,2013-01-01 00:00,1,2\n", "names 'v' twice"),
        (b"origin,at,v\nJFK,2013-01-01 00:00,\xff\n", "UTF8"),
    ],
)
def test_a_csv_file_that_makes_no_table_is_said_so(tmp_path, content, said):
    with pytest.raises(DefinitionError, match=said) as wrong:
        read(tmp_path, view(csv(tmp_path, content), Feature("v", "string")))
    assert wrong.value.place.startswith("w.csv")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"header": False}, "has no header"),
        ({"delimiter": ";;"}, "not one character"),
        ({"nulls": "NA"}, r"nulls=\['NA'\]"),
        ({"columns": {"v": "flaot64"}}, "Did you mean 'float64'"),
        ({"columns": {"v": "list<int64>"}}, "read from text"),
        ({"partitions": {"v": "binary"}}, "read from text"),
    ],
)
def test_a_csv_definition_that_cannot_be_is_refused(more, said):
    with pytest.raises(DefinitionError, match=said):
        CSVSource("w", "w.csv", "at", **more)


cells = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6))


@settings(max_examples=60)
@given(values=st.lists(cells, min_size=1, max_size=5), floats=st.lists(st.floats(), min_size=5, max_size=5))
def test_what_a_csv_writer_writes_is_what_is_read(tmp_path_factory, values, floats):
    """Any text, null, and any double to its last bit come back."""
    root = tmp_path_factory.mktemp("csv")
    count = len(values)
    rows = pa.table(
        {"origin": pa.array(values, pa.string()), "at": AT.take(pa.array([0] * count)), "temp": floats[:count]}
    )
    write_csv(root / "w.csv", rows)
    source = CSVSource("w", "w.csv", "at", columns={"origin": "string", "temp": "float64"})
    found = read(root, view(source, TEMP))
    assert found["origin"].to_pylist() == values
    assert found["temp"].combine_chunks().view(pa.int64()).equals(
        rows["temp"].combine_chunks().view(pa.int64())
    ) or any(value != value for value in floats)


# --- Delta -------------------------------------------------------------------------------------------------------------


def test_a_delta_table_is_read_at_a_version(tmp_path):
    for n in range(3):
        write_deltalake(str(tmp_path / "w"), ROWS[n : n + 1], mode="append", partition_by=["origin"])
    assert len(read(tmp_path, view(DeltaSource("w", "w", "at")))) == 3
    assert read(tmp_path, view(DeltaSource("w", "w", "at", version=0)))["gate"].to_pylist() == [1]
    with pytest.raises(DefinitionError, match="no version 9, the newest is 2"):
        read(tmp_path, view(DeltaSource("w", "w", "at", version=9)))


def test_a_row_that_was_deleted_from_a_delta_table_is_gone(tmp_path):
    write_deltalake(str(tmp_path / "w"), ROWS)
    DeltaTable(str(tmp_path / "w")).delete("gate = 2")
    assert read(tmp_path, view(DeltaSource("w", "w", "at")))["gate"].to_pylist() == [1, 3]


def test_a_delta_table_whose_file_is_gone_is_an_error(tmp_path):
    write_deltalake(str(tmp_path / "w"), ROWS)
    next((tmp_path / "w").glob("*.parquet")).unlink()
    with pytest.raises(DefinitionError, match=r"Source 'w' cannot be read.*not found") as wrong:
        read(tmp_path, view(DeltaSource("w", "w", "at")))
    assert wrong.value.place == "w"


def test_a_folder_is_not_taken_for_another_kind(tmp_path):
    write_deltalake(str(tmp_path / "delta"), ROWS)
    (tmp_path / "parts").mkdir()
    pq.write_table(ROWS, tmp_path / "parts" / "1.parquet")
    with pytest.raises(DefinitionError, match=r"is a Delta table.*DeltaSource"):
        read(tmp_path, view(ParquetSource("w", "delta", "at")))
    with pytest.raises(DefinitionError, match=r"no Delta table.*ParquetSource"):
        read(tmp_path, view(DeltaSource("w", "parts", "at")))


@settings(max_examples=100)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3) | st.decimals(-1000, 1000, places=2),
    st.integers(1, 38),
    st.data(),
)
def test_a_decimal_is_exact_or_refused(value, precision, data):
    """As Python's decimals say; Arrow's own reading wraps around."""
    scale = data.draw(st.integers(0, precision))
    text = f"{value:f}"
    _, digits, exponent = value.normalize().as_tuple()
    fits = value == 0 or (max(0, -exponent) <= scale and max(0, len(digits) + exponent) <= precision - scale)
    try:
        read_as = typed(pa.array([text]), DType(f"decimal({precision},{scale})"))[0].as_py()
    except pa.ArrowInvalid:
        assert not fits
    else:
        assert fits
        assert read_as == value
