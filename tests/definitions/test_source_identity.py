"""What a source is counts, where it lies does not; and the columns found by a plan are kept until the definition changes."""

from dataclasses import replace

import msgspec
import pytest

from featurestore.definitions import (
    ArrowSource,
    CSVSource,
    DeltaSource,
    Entity,
    Feature,
    FeatureView,
    ParquetSource,
    PostgresSource,
    PushSource,
    SQLSource,
)
from featurestore.errors import DefinitionError
from featurestore.registry.plan import plan_changes
from featurestore.registry.resolution import stored_view
from featurestore.registry.snapshot import Document, RegistrySnapshot

ORIGIN = Entity("origin", {"origin": "string"})
PARQUET = ParquetSource("w", "w.parquet", "at")
CSV = CSVSource("w", "w.csv", "at")
TABLE = PostgresSource("w", "warehouse", table="public.weather", event_timestamp="at")
QUERY = PostgresSource("w", "warehouse", query="SELECT * FROM weather", event_timestamp="at")
DELTA = DeltaSource("w", "w", "at")
SQL = SQLSource("w", "SELECT * FROM a JOIN b USING (origin)", {"a": "a.parquet", "b": CSV}, "at")


def view(source, entity=ORIGIN):
    return FeatureView("weather", entity, source, [Feature("temp", "float64")])


def fingerprint(source):
    return stored_view(view(source)).features[0].fingerprint


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PARQUET, replace(PARQUET, path="lake/*.parquet")),
        (PARQUET, replace(PARQUET, partitions={"year": "int32"})),
        (CSV, replace(CSV, path="w2.csv", delimiter=";", header=False, columns={"origin": "string"})),
        (CSV, replace(CSV, partitions={"year": "int32"})),
        (ArrowSource("w", "a.arrow", "at"), ArrowSource("w", "b.arrow", "at")),
        (DELTA, replace(DELTA, path="elsewhere", version=7)),
        (TABLE, replace(TABLE, table="prod.weather", connection="replica")),
        (QUERY, replace(QUERY, query="SELECT  * -- all\nFROM weather;", connection="replica")),
        (
            SQL,
            replace(SQL, tables={"a": "elsewhere.parquet", "b": replace(CSV, path="x.csv", event_timestamp="other")}),
        ),
    ],
)
def test_where_a_source_lies_is_not_meaning(before, after):
    assert fingerprint(before) == fingerprint(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PARQUET, CSV),
        (PARQUET, replace(PARQUET, name="v")),
        (CSV, replace(CSV, nulls=["", "NA"])),
        (CSV, replace(CSV, event_timestamp="seen")),
        (DELTA, replace(DELTA, name="v")),
        (TABLE, QUERY),
        (QUERY, replace(QUERY, query="SELECT * FROM weather WHERE temp > 0")),
        (SQL, replace(SQL, query="SELECT * FROM a")),
        (SQL, replace(SQL, tables={"a": "a.parquet", "b": replace(CSV, nulls=["-"])})),
        (SQL, replace(SQL, tables={"a": "a.parquet", "b": replace(CSV, name="other")})),
        (SQL, replace(SQL, tables={"a": "a.parquet", "b": replace(QUERY, query="SELECT 2 AS origin")})),
    ],
)
def test_what_a_source_is_is_meaning(before, after):
    assert fingerprint(before) != fingerprint(after)


@pytest.mark.parametrize(
    ("source", "known"),
    [
        (PARQUET, "df69cd2bfcfc9c9259580f356229684e"),
        (SQLSource("w", "SELECT 1", {"a": "a.parquet"}, "at"), "cd8bcccf2636a798255abb82e0adc975"),
        (PushSource("w", "at"), "c9844fd807b69f7031ab3dd6c41468da"),
    ],
)
def test_the_fingerprints_of_the_first_kinds_of_source_stay(source, known):
    """As they were before there were others: a registry keeps its versions."""
    assert fingerprint(source) == known


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SQLSource("w", "SELECT 1", {"a": PushSource("p")}, "at"), "Table 'a' of 'w' cannot be PushSource"),
        (lambda: SQLSource("w", "SELECT 1", {"a": "x", "A": "y"}, "at"), "differ in case alone"),
        (lambda: DeltaSource("w", "w", version=-1), "not a number from 0"),
        (lambda: ParquetSource("w", "w", partitions={"year": "list<int8>"}), "read from text"),
    ],
)
def test_a_source_that_cannot_be_is_refused(make, said):
    with pytest.raises(DefinitionError, match=said):
        make()


def frozen(*columns):
    """A check that finds these columns."""
    return lambda name, record: msgspec.structs.replace(record.source, columns=columns)


def planned(snapshot, definition, check):
    plan = plan_changes(snapshot, [definition], check_source=check, is_filled=lambda ref: False)
    return plan, RegistrySnapshot(msgspec.structs.replace(plan.document, revision=snapshot.revision + 1))


def never(name, record):
    raise AssertionError(f"{name} was checked")


def source_of(snapshot):
    return snapshot.document.views["weather"].versions[1].source


def test_the_columns_found_are_kept_until_the_definition_changes():
    _, first = planned(RegistrySnapshot(Document(project="p")), view(CSV), frozen(("gate", "int64")))
    assert source_of(first).columns == (("gate", "int64"),)
    again, _ = planned(first, view(CSV), never)
    assert not again.changes
    moved, second = planned(first, view(replace(CSV, path="b.csv")), frozen(("gate", "float64")))
    assert [(change.kind, change.detail) for change in moved.changes] == [("update", "source path")]
    assert source_of(second).columns == (("gate", "float64"),)
    owned, third = planned(second, replace(view(replace(CSV, path="b.csv")), owner="ann"), frozen(("gate", "string")))
    assert [change.detail for change in owned.changes] == ["owner, source columns"]
    assert source_of(third).columns == (("gate", "string"),)


def test_a_new_meaning_says_what_of_the_source_changed():
    _, first = planned(RegistrySnapshot(Document(project="p")), view(CSV), frozen())
    plan, _ = planned(first, view(replace(CSV, nulls=["", "NA"])), frozen())
    assert plan.changes[0].kind == "new version"
    assert plan.changes[0].detail == "source nulls: ('',) -> ('', 'NA')"


def test_what_was_found_survives_the_neutral_json():
    _, first = planned(RegistrySnapshot(Document(project="p")), view(SQL), frozen(("gate", "int64")))
    assert RegistrySnapshot.from_json(first.to_json()).document == first.document
    assert source_of(first).table("b").nulls == ("",)
    assert source_of(first).table("a").path == "a.parquet"


def test_two_entities_of_one_name_with_different_keys_are_refused():
    other = Entity("origin", {"origin": "string", "terminal": "int8"})
    views = [view(PARQUET), replace(view(PARQUET, other), name="gates")]
    with pytest.raises(
        DefinitionError, match="Entity 'origin' has the keys origin string, and elsewhere origin string, terminal int8"
    ):
        plan_changes(
            RegistrySnapshot(Document(project="p")), views, check_source=lambda *_: None, is_filled=lambda _: False
        )
