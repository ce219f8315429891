"""Declared against observed, how objects are written, manifests as text, and what a change would break."""

import ast

import pytest

from lineage import InvalidQuestionError, NotFoundError, Standing, Verdict
from lineage.objects import resolve


def standings(ask, ref="", **options):
    return {(str(r.reader.node), r.feature): r.standing for r in ask.consumers(ref, **options).relations}


def test_every_cell_of_declared_and_observed_has_its_name(project, ask):
    project.read("weather@v1:temp")
    project.read("comfort@v1:heat")
    project.read("comfort@v1:damp", outcome="refused")
    found = standings(ask)
    assert found["delay_model@1", "weather@v1:temp"] is Standing.HEALTHY
    assert found["delay_model@1", "weather@v1:humid"] is Standing.DECLARED_NEVER_READ
    assert found["delay_model@1", "comfort@v1:heat"] is Standing.UNDECLARED
    assert found["delay_model@1", "comfort@v1:damp"] is Standing.REFUSED
    project.segment("w2", 3, start="2026-05-10", end="2026-05-11")
    assert standings(ask)["delay_model@1", "weather@v1:humid"] is Standing.UNDETERMINED


def test_declared_in_one_environment_and_read_in_another_is_both(project, document, ask):
    document["consumers"]["delay_model@1"]["environment"] = "prod"
    project.commit(document, revision=2)
    project.read("plane@v1:seats", environment="prod", calls=2)
    project.read("plane@v1:seats", environment="dev", calls=3)
    cells = [(r.standing, r.calls) for r in ask.consumers("plane").relations]
    assert cells == [(Standing.HEALTHY, 2), (Standing.UNDECLARED, 3)]


def test_consumers_of_a_version_are_not_those_of_another(project, ask):
    project.read("weather@v2:temp", "", principal="bob", binding="undeclared")
    assert set(standings(ask, "weather@v2")) == {("principal:bob", "weather@v2:temp")}
    assert ("delay_model@1", "weather@v1:temp") in standings(ask, "weather:temp")
    assert ("principal:bob", "weather@v2:temp") in standings(ask, "weather:temp")


def test_readers_of_the_score_are_transitive_consumers_of_the_features(project, ask):
    (transitive,) = ask.consumers("plane@v1:seats").transitive
    assert str(transitive.reader) == "gate_board"
    assert transitive.owner == "gates@example.com"
    ways = [str(edge.downstream) for edge in transitive.path]
    assert ways == ["delay_model@1", "delay_score@v1", "delay_score@v1:score", "gate_board"]


@pytest.mark.parametrize(
    ("text", "kind", "nodes", "others"),
    [
        ("weather", "view", ["weather@v1", "weather@v2"], ("source:weather",)),
        ("view:weather", "view", ["weather@v1", "weather@v2"], ()),
        ("source:weather", "source", ["source:weather"], ()),
        ("weather@v2", "view", ["weather@v2"], ()),
        ("weather:temp", "feature", ["weather@v1:temp", "weather@v2:temp"], ()),
        ("dest=weather@v1:temp", "feature", ["weather@v1:temp"], ()),
        ("delay_model", "consumer", ["delay_model@1"], ("service:delay_model",)),
        ("model:delay_model", "consumer", ["delay_model@1"], ()),
        ("delay_model@*", "consumer", ["delay_model@1"], ()),
        ("service:delay_model", "service", ["service:delay_model"], ()),
        ("delay_training", "dataset", ["dataset:delay_training"], ()),
        ("weather.temp", "column", ["column:weather.temp"], ()),
    ],
)
def test_how_objects_are_written(project, ask, text, kind, nodes, others):
    target = resolve(text, ask.graph())
    assert (target.kind, list(map(str, target.nodes)), target.others) == (kind, nodes, others)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("wether@v1", "weather@v1"), ("delay_modle@1", "delay_model@1"), ("weather@v1:tmp", "weather@v1:temp")],
)
def test_an_unknown_object_names_the_nearest(project, ask, text, nearest):
    with pytest.raises(NotFoundError) as caught:
        ask.consumers(text)
    assert (caught.value.name, caught.value.nearest) == (text, nearest)


def test_impact_names_live_readers_by_version_and_environment(project, ask):
    project.read("weather@v1:temp", environment="prod", calls=5)
    project.read("weather@v1:temp", environment="dev", calls=7)
    project.read("weather@v2:temp", "", principal="bob", binding="undeclared")
    found = ask.impact("weather@v1:temp")
    assert (found.verdict, found.severity) == (Verdict.FLAGGED, "high")
    assert [(str(live.reader), live.read.environment, live.read.calls, live.declared) for live in found.live] == [
        ("delay_model@1", "dev", 7, True),
        ("delay_model@1", "prod", 5, True),
    ]
    assert found.features == ("comfort@v1:damp", "comfort@v1:heat", "weather@v1:temp")[1:]
    assert found.views == ("comfort@v1",)
    assert found.services == ("delay_model",)
    assert found.datasets == ("delay_training",)
    assert found.predictions == ("delay_score@v1",)
    assert [str(t.reader) for t in found.transitive] == ["gate_board"]
    told = {contact.owner: contact.objects for contact in found.contacts}
    assert told["gates@example.com"] == ("gate_board",)
    assert "delay_model@1" in told["ml@example.com"]
    assert found.unowned == ("service:delay_model",)


def test_impact_of_one_environment_counts_its_reads_alone(project, ask):
    project.read("weather@v1:temp", environment="dev")
    assert ask.impact("weather@v1:temp", environment="prod").severity == "medium"
    assert ask.impact("weather@v1:temp", environment="dev").severity == "high"


def test_a_late_value_harms_less_than_a_missing_one(project, ask):
    project.read("weather@v1:temp")
    changes = {
        change: ask.impact("weather@v1:temp", change=change).severity for change in ("remove", "meaning", "freshness")
    }
    assert changes == {"remove": "high", "meaning": "high", "freshness": "medium"}
    with pytest.raises(InvalidQuestionError, match="There is: remove"):
        ask.impact("weather@v1:temp", change="rename")


def test_nothing_hit_is_only_cleared_when_every_read_was_counted(project, ask):
    assert ask.impact("weather@v2:temp").verdict is Verdict.CLEARED
    project.segment("w2", 3, start="2026-05-10", end="2026-05-11")
    assert ask.impact("weather@v2:temp").verdict is Verdict.UNDETERMINED


def test_impact_of_a_source_hits_every_version_made_from_it(project, ask):
    found = ask.impact("source:weather")
    assert found.views == ("comfort@v1", "weather@v1", "weather@v2")
    assert [consumer.key for consumer in found.consumers] == ["delay_model@1"]


def test_impact_of_a_model_is_on_the_readers_of_its_score(project, ask):
    project.read("delay_score@v1:score", "gate_board", principal="board")
    found = ask.impact("delay_model@1")
    assert [str(live.reader) for live in found.live] == ["gate_board"]
    assert found.predictions == ("delay_score@v1",)


def test_impact_survives_a_fed_back_score(project, document, ask):
    document["consumers"]["delay_model@1"]["reads"].append("delay_score@v1:score")
    project.commit(document, revision=2)
    found = ask.impact("delay_score@v1:score")
    assert {consumer.key for consumer in found.consumers} == {"delay_model@1", "gate_board"}
    assert ask.impact("delay_model@1").verdict is Verdict.FLAGGED


def test_a_declaration_written_from_reads_is_python_that_lists_them(project, ask):
    project.read("weather@v1:temp", calls=12)
    project.read("comfort@v1:heat")
    found = ask.declare("delay_model@1")
    call = ast.parse(found.text).body[0].value
    keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert (call.func.id, call.args[0].value) == ("Model", "delay_model")
    assert keywords["reads"] == ["comfort@v1:heat", "weather@v1:temp"]
    assert keywords["writes"] == ["delay_score@v1"]
    assert '# "plane@v1:seats",  # declared, and no read was counted' in found.text
    assert 'comfort@v1:heat",  # calls: 10, last 2026-05-20T10:00:00Z; not declared yet' in found.text


def test_a_declaration_for_a_principal_that_nobody_knows(project, ask):
    project.read("weather@v1:temp", "", principal="svc-new", binding="undeclared")
    call = ast.parse(ask.declare("svc-new").text).body[0].value
    assert (call.func.id, call.args[0].value) == ("Service", "svc_new")
    assert ask.declare("svc-new").text.endswith("# then: featurestore token bind svc-new svc_new")
    with pytest.raises(NotFoundError):
        ask.declare("weather@v1")


def test_the_difference_of_two_models(project, document, ask):
    first = document["consumers"]["delay_model@1"]
    document["consumers"]["delay_model@2"] = first | {
        "version": "2",
        "reads": ["weather@v2:temp", "weather@v1:humid", "comfort@v1:heat"],
        "services": [],
        "metrics": {"roc_auc": 0.75, "brier": 0.1},
        "dataset": None,
    }
    project.commit(document, revision=2)
    found = ask.diff("delay_model@1", "delay_model@2")
    assert (found.added, found.removed) == (("comfort@v1:heat",), ("plane@v1:seats",))
    assert found.versions == (("weather@v1:temp", "weather@v2:temp"),)
    assert (found.sources_added, found.sources_removed) == ((), ("planes",))
    assert found.metrics == {"brier": (None, 0.1), "roc_auc": (0.71, 0.75)}
    assert (found.datasets[0].digest, found.datasets[1]) == ("ab12", None)
    assert found.settings == {"services": ("delay_model", ""), "dataset": ("delay_training", "")}


def test_a_model_does_not_differ_from_itself(project, ask):
    found = ask.diff("delay_model@1", "delay_model@1")
    assert not any(
        (found.added, found.removed, found.versions, found.sources_added, found.sources_removed, found.settings)
    )


def test_a_consumer_without_a_manifest_cannot_be_compared(project, ask):
    project.read("weather@v1:temp", "delay_model@7")
    with pytest.raises(NotFoundError, match="No manifest 'delay_model@7'"):
        ask.diff("delay_model@1", "delay_model@7")


def test_a_declaration_of_a_principal_holds_all_it_read_under_a_name_a_consumer_may_have(project, ask):
    project.read("weather@v1:temp", principal="7@example.com")
    found = ask.declare("principal:7@example.com")
    assert found.text.startswith('Service(\n    "_7_example_com",\n')
    assert found.reads == ("weather@v1:temp",)


def test_consumers_of_a_model_are_the_readers_of_its_score(project, ask):
    assert set(standings(ask, "delay_model@1")) == {("gate_board", "delay_score@v1:score")}


def test_a_declaration_lists_an_on_demand_feature_and_not_what_it_is_computed_from(project, ask):
    for ref in ("comfort@v1:heat", "weather@v1:temp", "weather@v1:humid"):
        project.read(ref, "", principal="svc-new", binding="undeclared")
    assert ask.declare("svc-new").reads == ("comfort@v1:heat",)
