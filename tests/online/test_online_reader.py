"""Online reads: states, ttl to the microsecond, several views, projection, on-demand features, and what is refused."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from featurestore import Entity, Feature, FeatureService, FeatureView, OnDemandFeatureView, PushSource
from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.online.reader import schema_message
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.testing.projects import ScratchProject
from featurestore.v1 import serving_pb2 as pb

C1, C3 = np.float32([0.1, 0.3]).tolist()
PLANE = Entity("plane", {"tail": "int64"})
ORIGIN = Entity("origin", {"origin": "string"})
NUMBERS = FeatureView(
    "numbers",
    PLANE,
    PushSource("numbers", "at"),
    features=[Feature("a", "float64"), Feature("b", "int32"), Feature("c", "float32"), Feature("d", "bool")],
    ttl=timedelta(microseconds=10),
)
TEXTS = FeatureView(
    "texts",
    PLANE,
    PushSource("texts", "at"),
    features=[
        Feature("maker", "string"),
        Feature("seats", "int64"),
        Feature("model", "string"),
        Feature("built", "date"),
    ],
)
WEATHER = FeatureView("weather", ORIGIN, PushSource("weather", "at"), features=[Feature("temp", "float64")])
COMPUTED = OnDemandFeatureView(
    "computed",
    features=[
        Feature("fuel", "float64", expression="distance * a / seats"),
        Feature("label", "string", expression="maker || '-' || upper(airline)"),
    ],
    inputs=["numbers:a", "texts:seats", "texts:maker"],
    request={"distance": "float64", "airline": "string"},
)


def table(**columns):
    instants = pa.array(columns.pop("at"), pa.timestamp("us", "UTC"))
    return pa.table({"at": instants, **{name: pa.array(*value) for name, value in columns.items()}})


@pytest.fixture
def project(tmp_path):
    trip = FeatureService("trip", [WEATHER, WEATHER.alias("dest_weather", join_keys={"origin": "dest"})])
    with ScratchProject(tmp_path, NUMBERS, TEXTS, WEATHER, COMPUTED, trip, now=100) as project:
        project.writer.write(
            ViewRef("numbers"),
            table(
                at=[90, 89, 100],
                tail=([1, 2, 3], pa.int64()),
                a=([1.5, 2.5, None], pa.float64()),
                b=([1, 2, 3], pa.int32()),
                c=([0.1, 0.2, 0.3], pa.float32()),
                d=([True, False, None], pa.bool_()),
            ),
        )
        project.writer.write(
            ViewRef("texts"),
            table(
                at=[1, 1],
                tail=([1, 3], pa.int64()),
                maker=(["AIRBUS", None], pa.string()),
                seats=([180, 5], pa.int64()),
                model=(["A320", "é"], pa.string()),
                built=([7, None], pa.date32()),
            ),
        )
        project.writer.write(
            ViewRef("weather"), table(at=[1, 2], origin=(["JFK", "LGA"], pa.string()), temp=([1.0, 2.0], pa.float64()))
        )
        yield project


def test_a_row_counts_to_the_last_microsecond_of_its_ttl(project):
    answer = project.read(["numbers:a", "numbers:b", "numbers:c", "numbers:d"], [(1,), (2,), (3,), (4,), (1,)])
    assert answer.status["a"].tolist() == ["PRESENT", "EXPIRED", "NULL", "NOT_FOUND", "PRESENT"]
    assert answer.status["b"].tolist() == ["PRESENT", "EXPIRED", "PRESENT", "NOT_FOUND", "PRESENT"]
    assert answer.to_dict() == {
        "a": [1.5, None, None, None, 1.5],
        "b": [1, None, 3, None, 1],
        "c": [C1, None, C3, None, C1],
        "d": [True, None, None, None, True],
    }
    assert answer.event_time["a"].tolist() == [90, 0, 100, 0, 90]
    assert answer.columns["d"].dtype == bool
    project.now = 101
    assert project.read(["numbers:a"], [(1,)]).status["a"].tolist() == ["EXPIRED"]


def test_only_the_features_asked_for_leave_the_store(project):
    answer = pb.ReadResponse.FromString(project.read_bytes(["texts:model"], [(1,), (9,)]))
    assert [list(row.strings) for row in answer.views[0].rows] == [[b"A320"], [b""]]
    assert not answer.views[0].rows[0].integers
    answer = pb.ReadResponse.FromString(project.read_bytes(["numbers:c", "numbers:d"], [(3,)]))
    row = answer.views[0].rows[0]
    assert (list(row.doubles), list(row.integers)) == ([pytest.approx(0.3)], [0])


def test_texts_and_days_come_back(project):
    answer = project.read(["texts:built", "texts:maker", "texts:model"], [(1,), (3,), (2,)])
    assert answer.to_rows()[0]["maker"] == "AIRBUS"
    assert [row["model"] for row in answer.to_rows()] == ["A320", "é", None]
    assert str(answer.columns["built"][0]) == "1970-01-08"
    assert answer.status["maker"].tolist() == ["PRESENT", "NULL", "NOT_FOUND"]


def test_on_demand_features_are_computed_from_hidden_views_and_the_request(project):
    request = {"distance": ("float64", [360.0, 1.0, 1.0]), "airline": ("string", ["aa", "ua", None])}
    answer = project.read(["computed:fuel", "computed:label", "numbers:b"], [(1,), (3,), (1,)], request)
    assert answer.to_dict() == {
        "fuel": [3.0, None, pytest.approx(1.5 / 180)],
        "label": ["AIRBUS-AA", None, None],
        "b": [1, 3, 1],
    }
    assert answer.event_time["fuel"].tolist() == [100, 100, 100]
    parsed = pb.ReadResponse.FromString(
        project.read_bytes(
            ["computed:fuel"], [(1,)], {**request, "distance": ("float64", [1.0]), "airline": ("string", ["a"])}
        )
    )
    assert len(parsed.views) == 1


@pytest.mark.parametrize(
    ("request_data", "message"),
    [
        ({"airline": ("string", ["a"])}, r"No request column 'distance'.*\$.request.distance"),
        (
            {"airline": ("string", ["a"]), "distance": ("int64", [1])},
            r"Expected float64 in doubles, got integers.*\$.request.distance",
        ),
        ({"airline": ("string", ["a", "b"]), "distance": ("float64", [1.0])}, "2 values for 1 entities"),
    ],
)
def test_bad_request_data_says_where(project, request_data, message):
    with pytest.raises(InvalidArgumentError, match=message):
        project.read(["computed:label"], [(1,)], request_data)


def test_one_entity_in_two_roles(project):
    plan = plan_read(project.snapshot, "trip", full_feature_names=True)
    prepared = project.reader.prepare(plan)
    answer = pb.ReadResponse.FromString(project.reader.read(prepared, [[b"\x02JFK"], [b"\x02LGA"]]))
    assert [view.rows[0].doubles[0] for view in answer.views] == [1.0, 2.0]
    with pytest.raises(InvalidArgumentError, match="2 key sets of one length"):
        project.reader.read(prepared, [[b"\x02JFK"], []])


def test_no_entities_give_an_empty_answer(project):
    answer = project.read(["numbers:a", "texts:maker"], [])
    assert len(answer) == 0
    assert answer.to_dict() == {"a": [], "maker": []}


def test_a_version_that_was_never_filled_is_refused(tmp_path):
    with (
        ScratchProject(tmp_path, NUMBERS) as project,
        pytest.raises(
            FailedPreconditionError, match=r"numbers@v1 was never filled online\. Run `featurestore materialize"
        ),
    ):
        project.read(["numbers:a"], [(1,)])


def test_the_schema_says_where_each_feature_lies(project):
    schema = schema_message(plan_read(project.snapshot, ["texts:model", "texts:built", "numbers:c"]))
    placed = [(f.name, f.view, f.lane, f.index, f.bit) for f in schema.features]
    assert placed == [("model", 0, "strings", 0, 2), ("built", 0, "integers", 0, 3), ("c", 1, "doubles", 0, 2)]
    assert [(v.ref, v.ttl, v.doubles, v.integers, v.strings) for v in schema.views] == [
        ("texts@v1", 0, 0, 1, 1),
        ("numbers@v1", 10, 1, 0, 0),
    ]
    assert [(k.entity, k.fields[0].column, k.fields[0].dtype) for k in schema.key_sets] == [("plane", "tail", "int64")]
