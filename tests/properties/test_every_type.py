"""What is written is what is read, offline and online, in every type and with keys of every type that a key may have."""

import math
import struct
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import Entity, Feature, FeatureView, OnDemandFeatureView, PushSource
from featurestore.client import pack_columns
from featurestore.errors import DefinitionError
from featurestore.lanes import from_lane, to_lane, wire_lane
from featurestore.offline.training_set import read_training_set
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.testing.projects import ScratchProject
from featurestore.testing.strategies import dtypes, values
from featurestore.types import to_arrow

PLACE = Entity("place", {"origin": "string"})
INSTANTS = pa.timestamp("us", "UTC")
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def python(dtype, value):
    """A drawn value as Python knows it: instants and days as such where the calendar has them."""
    if value is None:
        return None
    match dtype.family:
        case "list" | "vector":
            return [python(dtype.element, item) for item in value]
        case "struct":
            return {name: python(field, value[name]) for name, field in dtype.fields}
        case "timestamp":
            inside = (
                (FIRST - EPOCH) // timedelta(microseconds=1) <= value <= (LAST - EPOCH) // timedelta(microseconds=1)
            )
            return EPOCH + timedelta(microseconds=value) if inside else value
        case "date":
            inside = (date.min - EPOCH.date()).days <= value <= (date.max - EPOCH.date()).days
            return EPOCH.date() + timedelta(days=value) if inside else value
    return value


def bits(value):
    """A Python value such that NaN equals itself and -0.0 is not 0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {name: bits(item) for name, item in value.items()}
    return type(value), value


def lane_bits(column, dtype):
    lane = to_lane(column, dtype)
    raw = lane.values if isinstance(lane.values, list) else [value.tobytes() for value in lane.values]
    return [value if ok else None for value, ok in zip(raw, lane.valid, strict=True)]


def as_sent(dtype, column):
    """A column as it arrives from a client that sent Python values."""
    sent = pack_columns([("c", dtype)], {"c": [python(dtype, value) for value in column]}, place="$", nullable=True)
    return from_lane(wire_lane(sent[0], dtype, place="$"), dtype)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_offline_online_and_written_values_are_the_same(data):
    key_types = data.draw(st.lists(dtypes(key=True), min_size=1, max_size=3))
    value_types = data.draw(st.lists(dtypes(), min_size=1, max_size=4))
    keys = data.draw(st.lists(st.tuples(*map(values, key_types)), min_size=1, max_size=4, unique=True))
    drawn = [[data.draw(st.none() | values(dtype)) for _ in keys] for dtype in value_types]
    column = as_sent if data.draw(st.booleans()) else lambda dtype, found: pa.array(found, to_arrow(dtype))
    names = {f"k{i}": dtype for i, dtype in enumerate(key_types)}
    features = [Feature(f"f{i}", dtype) for i, dtype in enumerate(value_types)]
    view = FeatureView("v", Entity("e", names), PushSource("s", "at"), features=features)
    key_columns = {name: column(dtype, [key[i] for key in keys]) for i, (name, dtype) in enumerate(names.items())}
    written = {f.name: column(f.dtype, found) for f, found in zip(features, drawn, strict=True)}
    at = {"at": pa.array(range(len(keys)), INSTANTS)}
    refs = [f"v:{f.name}" for f in features]
    with tempfile.TemporaryDirectory() as folder, ScratchProject(Path(folder), view, now=100) as project:
        project.writer.write(ViewRef("v", 1), pa.table(key_columns | at | written))
        project.writer.fold()
        asked = [tuple(map(python, key_types, key)) for key in keys]
        online = project.read(refs, asked)
        spine = pa.table(key_columns | {"event_timestamp": pa.array([100] * len(keys), INSTANTS)})
        training = read_training_set(
            plan_read(project.snapshot, refs), spine, tables=project.table, engine="duckdb"
        ).table
    for feature, found in zip(features, drawn, strict=True):
        wanted = [bits(python(feature.dtype, value)) for value in found]
        assert [bits(value) for value in online.to_dict()[feature.name]] == wanted
        assert training[feature.name].type == to_arrow(feature.dtype)
        assert lane_bits(training[feature.name], feature.dtype) == lane_bits(
            pa.array(found, to_arrow(feature.dtype)), feature.dtype
        )
        assert online.valid[feature.name].tolist() == [value is not None for value in found]


@pytest.mark.parametrize("dtype", ["list<int64>", "struct<a:int64>", "vector<float32,2>"])
def test_a_nested_type_is_no_key(dtype):
    with pytest.raises(DefinitionError, match="a key is one exact value"):
        Entity("e", {"k": dtype})
    with pytest.raises(DefinitionError, match="Event key 'id' of 'v' is"):
        FeatureView("v", PLACE, PushSource("s", "at"), features=[Feature("f", "int64")], event_key={"id": dtype})


def test_an_expression_over_a_nested_input_is_refused_at_plan(tmp_path):
    view = FeatureView("v", PLACE, PushSource("s", "at"), features=[Feature("f", "list<int64>"), Feature("g", "int64")])
    with pytest.raises(DefinitionError, match="'f' of 'o' is list<int64>; expressions read single values"):
        ScratchProject(
            tmp_path / "a", view, OnDemandFeatureView("o", [Feature("h", "list<int64>", expression="f")], inputs=[view])
        )
    with pytest.raises(DefinitionError, match="'r' of 'o' is list<int64>"):
        ScratchProject(
            tmp_path / "b",
            OnDemandFeatureView("o", [Feature("h", "int64", expression="1")], request={"r": "list<int64>"}),
        )
    beside = OnDemandFeatureView("o", [Feature("h", "int64", expression="g + 1")], inputs=[view])
    with ScratchProject(tmp_path / "c", view, beside) as project:
        assert project.snapshot.view(ViewRef("o", 1)).inputs == ("v@v1:g",)
