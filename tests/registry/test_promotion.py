"""What a promotion and a new version leave of manifests, links and reasons."""

import pytest

from featurestore import Entity, Feature, FeatureService, FeatureView, Model, OnDemandFeatureView, PushSource
from featurestore.refs import ViewRef
from featurestore.registry.plan import plan_changes, promote
from featurestore.registry.snapshot import Document, RegistrySnapshot

origin = Entity("origin", {"origin": "string"})


def weather(source, **how):
    return FeatureView(
        "weather", origin, PushSource(source), [Feature("temp", "float64"), Feature("humid", "int64")], **how
    )


def plan(snapshot, *definitions):
    return plan_changes(snapshot, definitions, check_source=lambda *_: None, is_filled=lambda _: False)


def registered(*generations):
    snapshot = RegistrySnapshot(Document(project="demo"))
    for definitions in generations:
        snapshot = RegistrySnapshot(plan(snapshot, *definitions).document)
    return snapshot


ONE, TWO = weather("one"), weather("two")
SERVICE = FeatureService("service", [ONE])
BOTH = Model("both", version="1", reads=["service", "weather:temp"])
THROUGH = Model("through", version="1", reads=["service"])


def test_a_moved_service_leaves_what_its_readers_select_themselves():
    snapshot = registered([ONE, SERVICE, BOTH, THROUGH], [TWO])
    moved = RegistrySnapshot(promote(snapshot, ViewRef("weather", 2), move=["service"]).document)
    assert set(moved.consumer("both@1").reads) == {"weather@v2:temp", "weather@v2:humid", "weather@v1:temp"}
    assert set(moved.consumer("through@1").reads) == {"weather@v2:temp", "weather@v2:humid"}
    again = plan(moved, TWO, SERVICE, BOTH, THROUGH).document
    assert again.consumers == moved.document.consumers
    own = RegistrySnapshot(promote(moved, ViewRef("weather", 2), move=["both@1"]).document)
    assert set(own.consumer("both@1").reads) == {"weather@v2:temp", "weather@v2:humid"}


def test_a_feature_is_linked_to_any_earlier_version_that_means_the_same():
    """Not to the version before alone."""

    def view(unit, aim):
        return FeatureView(
            "weather",
            origin,
            PushSource("one"),
            [Feature("temp", "float64", unit=unit), Feature("aim", "float64", unit=aim)],
        )

    snapshot = registered([view("degF", "a")], [view("degC", "b")], [view("degF", "c")])
    assert snapshot.view(ViewRef("weather", 3)).feature("temp").same_as == "weather@v1:temp"


def test_a_changed_access_reaches_every_live_version():
    snapshot = registered([ONE], [TWO], [weather("two", access="warn")])
    assert [record.access for _, record in snapshot.view_versions()] == ["warn", "warn"]


def test_a_changed_input_of_an_on_demand_view_is_the_reason_of_its_new_version():
    def felt(version):
        inputs = [f"weather@v{version}:temp"]
        return OnDemandFeatureView("felt", [Feature("felt", "float64", expression="temp + 1")], inputs=inputs)

    snapshot = registered([ONE, felt(1)], [TWO])
    (change,) = [change for change in plan(snapshot, TWO, felt(2)).changes if change.object == "view felt@v2"]
    assert change.detail == "input temp: weather@v1:temp -> weather@v2:temp"


@pytest.mark.parametrize("version", [1, 2])
def test_promoting_what_is_current_changes_nothing(version):
    snapshot = registered([ONE, SERVICE], [TWO])
    snapshot = RegistrySnapshot(promote(snapshot, ViewRef("weather", version)).document)
    assert not promote(snapshot, ViewRef("weather", version))
