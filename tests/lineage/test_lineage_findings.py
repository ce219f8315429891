"""Findings: what must be flagged is, what must not is not, and what cannot be known is said to be so."""

from types import SimpleNamespace

import pytest

from lineage import InvalidQuestionError, Lineage, NotFoundError, Parameters, Verdict
from lineage.findings import FINDINGS, RULES

DECLARED = ["weather@v1:temp", "weather@v1:humid", "plane@v1:seats"]


def at(text):
    from datetime import UTC, datetime

    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def undeclared(ask, **options):
    found = ask.check(select=["LN1"], **options)
    return {
        (finding.rule.name, f"{finding.subject.partition(' reads ')[0]} reads {feature}")
        for finding in found.flagged()
        for feature in finding.features
    }


def only(ask, code):
    (finding,) = [finding for finding in ask.check().flagged() if finding.rule.code == code]
    return finding


def never_read(ask, ref, **options):
    """Return verdict, message and fix of the finding on delay_model@1 and the view of a reference, the verdict for that one."""
    found = ask.check(select=["declared_never_read"], **options).all
    (finding,) = [f for f in found if f.subject == f"delay_model@1 declares {ref.partition(':')[0]}"]
    verdicts = {piece["feature"]: piece["verdict"] for piece in finding.evidence if piece["type"] == "declaration"}
    return SimpleNamespace(verdict=Verdict(verdicts[ref]), message=finding.message, fix=finding.fix)


def test_declared_reads_are_no_finding(project, ask):
    for ref in DECLARED:
        project.read(ref)
        project.read(ref, mode="offline", environment="")
    project.read("delay_score@v1:score", "gate_board", principal="board")
    assert undeclared(ask) == set()
    assert ask.check().counts == {"FLAGGED": 0, "CLEARED": 4, "UNDETERMINED": 0}


def test_a_read_with_no_identity(project, ask):
    project.read("weather@v1:temp", "", principal="", binding="anonymous")
    assert undeclared(ask) == {("anonymous_read", "principal:anonymous reads weather@v1:temp")}


def test_an_anonymous_read_of_a_prediction_stays_anonymous(project, ask):
    project.read("delay_score@v1:score", "", principal="", binding="anonymous")
    assert {name for name, _ in undeclared(ask)} == {"anonymous_read"}


def test_a_principal_that_runs_several_consumers_and_names_none(project, ask):
    project.bind("svc", "delay_model@1")
    project.bind("svc", "gate_board")
    project.read("weather@v1:temp", "", binding="ambiguous")
    finding = only(ask, "LN102")
    assert finding.subject == "principal:svc reads weather@v1"
    assert finding.fix == "FEATURESTORE_CONSUMER=delay_model@1"


def test_a_principal_without_a_binding(project, ask):
    project.read("weather@v1:temp", "", principal="svc-new", binding="undeclared")
    finding = only(ask, "LN103")
    assert finding.subject == "principal:svc-new reads weather@v1"
    assert finding.fix == "featurestore token bind svc-new delay_model@1"
    assert finding.evidence[0]["calls"] == 10
    assert finding.evidence[0]["type"] == "usage"


def test_a_principal_is_not_taken_for_a_consumer_that_somebody_else_runs(project, ask):
    project.bind("svc", "delay_model@*")
    project.read("weather@v1:temp", "", principal="svc-new", binding="undeclared")
    assert only(ask, "LN103").fix.startswith("lineage declare principal:svc-new, then")


def test_somebody_in_local_mode_is_told_to_name_a_consumer(project, ask):
    project.read("weather@v1:temp", "", principal="local:ann", binding="undeclared")
    assert only(ask, "LN103").fix.startswith("FeatureStore(..., consumer=")


def test_a_principal_that_no_manifest_fits_is_told_to_declare_first(project, ask):
    project.read("comfort@v1:heat", "", principal="a b", binding="undeclared")
    assert only(ask, "LN103").fix == "lineage declare principal:'a b', then featurestore token bind 'a b' CONSUMER"


def test_a_renamed_principal_is_unknown_until_it_is_bound_and_then_is_the_consumer(project, ask):
    project.read("weather@v1:temp", principal="svc-old")
    project.read("weather@v1:temp", "", principal="svc-renamed", binding="undeclared")
    assert {name for name, _ in undeclared(ask)} == {"unbound_principal"}
    project.bind("svc-renamed", "delay_model@1")
    assert undeclared(ask) == set()


def test_a_binding_to_every_version_settles_a_read_only_where_there_is_one_version(project, document, ask):
    project.read("weather@v1:temp", "", principal="svc-new", binding="undeclared")
    project.bind("svc-new", "delay_model@*")
    assert undeclared(ask) == set()
    document["consumers"]["delay_model@2"] = document["consumers"]["delay_model@1"] | {"version": "2"}
    project.commit(document, revision=2)
    assert {name for name, _ in undeclared(ask)} == {"ambiguous_consumer"}


def test_a_consumer_without_a_manifest(project, ask):
    project.read("weather@v1:temp", "delay_model@7", calls=2)
    project.read("weather@v1:humid", "delay_model@7", calls=2)
    findings = [finding for finding in ask.check().flagged() if finding.rule.name == "no_manifest"]
    assert [(finding.subject, finding.features) for finding in findings] == [
        ("delay_model@7 reads weather@v1", ("weather@v1:humid", "weather@v1:temp"))
    ]
    assert "read weather@v1: humid, temp in prod (calls: 2" in findings[0].message
    assert {finding.fix for finding in findings} == {
        'Model("delay_model", version="7", reads=["weather@v1:humid", "weather@v1:temp"])'
    }


def test_a_feature_that_is_not_in_the_manifest(project, ask):
    for ref in ("comfort@v1:heat", *DECLARED):
        project.read(ref)
    finding = only(ask, "LN105")
    assert finding.rule.severity == "high"
    assert finding.fix == 'Model("delay_model", version="1", reads=["delay_model", "comfort@v1:heat"])'


def test_another_version_than_declared(project, ask):
    project.read("weather@v2:temp")
    finding = only(ask, "LN106")
    assert "its manifest lists weather@v1:temp" in finding.message
    assert finding.rule.severity == "medium"


@pytest.mark.parametrize(
    ("reader", "principal", "binding"),
    [("dash", "dash", "bound"), ("", "dave", "undeclared"), ("dash", "dave", "local")],
)
def test_an_undeclared_reader_of_a_prediction_is_transitive(project, ask, reader, principal, binding):
    project.read("delay_score@v1:score", reader, principal=principal, binding=binding)
    finding = only(ask, "LN107")
    assert "delay_model@1" in finding.message
    assert {"type": "edge", "edge": "delay_model@1 -[produces]-> delay_score@v1"} in finding.evidence


def test_an_undeclared_reader_of_what_is_computed_from_a_prediction_is_transitive(project, document, ask):
    comfort = document["views"]["comfort"]["versions"]["1"]
    comfort["inputs"] = ["delay_score@v1:score"]
    comfort["features"] = [comfort["features"][0] | {"name": "worry", "expression": {"sql": "score * 2"}}]
    project.commit(document, revision=2)
    project.read("comfort@v1:worry", "dash")
    assert undeclared(ask) == {("transitive_consumer", "dash reads comfort@v1:worry")}


def test_a_model_that_reads_its_own_score_undeclared_is_not_transitive(project, ask):
    project.read("delay_score@v1:score")
    assert undeclared(ask) == {("undeclared_feature", "delay_model@1 reads delay_score@v1:score")}


def test_refused_reads_are_attempts_and_no_undeclared_consumers(project, ask):
    project.read("comfort@v1:heat", outcome="refused", calls=3)
    finding = only(ask, "LN108")
    assert finding.rule.severity == "info"
    assert "tried to read" in finding.message
    assert not ask.check().flagged(at_least="medium")


def test_a_declared_feature_in_a_refused_call_is_no_attempt(project, ask):
    project.read("weather@v1:temp", outcome="refused")
    assert undeclared(ask) == set()


def test_many_clients_days_modes_and_environments_of_one_reader_are_one_finding(project, ask):
    for day in ("2026-05-01", "2026-05-02"):
        for client in ("host-a", "host-b"):
            for mode in ("online", "offline"):
                project.read("comfort@v1:heat", when=at(day), client=client, mode=mode)
    finding = only(ask, "LN105")
    assert "calls: 80" in finding.message


def test_a_manifest_that_came_after_the_reads_covers_them(project, document, ask):
    project.read("comfort@v1:heat", when=at("2026-03-05"))
    assert undeclared(ask)
    document["consumers"]["delay_model@1"]["reads"].append("comfort@v1:heat")
    project.commit(document, revision=2, when=at("2026-04-01"))
    assert undeclared(ask) == set()
    assert never_read(ask, "comfort@v1:heat").verdict is Verdict.CLEARED


def test_a_role_of_a_declared_feature_is_declared(project, document, ask):
    document["consumers"]["delay_model@1"]["reads"] = ["dest=weather@v1:temp"]
    project.commit(document, revision=2)
    project.read("weather@v1:temp")
    assert undeclared(ask) == set()


def test_a_manifest_counts_only_in_its_environment_and_time(project, document, ask):
    document["consumers"]["delay_model@1"] |= {"environment": "prod", "expires_at": at("2026-05-01")}
    project.commit(document, revision=2)
    project.read("weather@v1:temp", when=at("2026-04-01"))
    assert undeclared(ask) == set()
    project.read("weather@v1:temp", when=at("2026-04-01"), environment="dev")
    assert "for environment prod alone" in only(ask, "LN105").message
    project.read("weather@v1:humid", when=at("2026-05-02"))
    messages = [
        finding.message
        for finding in ask.check().flagged()
        if "weather@v1:humid" in finding.features and finding.rule.code == "LN105"
    ]
    assert "counted until 2026-05-01" in messages[0]


def test_what_a_declared_on_demand_feature_is_computed_from_is_declared(project, document, ask):
    document["consumers"]["delay_model@1"] |= {"reads": ["comfort@v1:heat"], "services": []}
    project.commit(document, revision=2)
    for ref in ("comfort@v1:heat", "weather@v1:temp", "weather@v1:humid"):
        project.read(ref)
    assert undeclared(ask) == set()
    assert {r.standing for r in ask.consumers("weather@v1:temp").relations} == {"healthy"}
    assert {f.subject for f in ask.check(select=["LN2"]).all if f.subject.startswith("delay_model@1")} == {
        "delay_model@1 declares comfort@v1"
    }


def test_an_undeclared_on_demand_feature_is_one_finding_its_inputs_none(project, ask):
    for ref in ("comfort@v1:heat", "weather@v1:temp", "weather@v1:humid"):
        project.read(ref, "", principal="svc-new", binding="undeclared")
    assert undeclared(ask) == {("unbound_principal", "principal:svc-new reads comfort@v1:heat")}


def test_since_forgets_older_reads(project, ask):
    project.read("comfort@v1:heat", when=at("2026-03-05"))
    assert undeclared(ask)
    assert undeclared(ask, since="30d") == set()


def test_incomplete_usage_is_undetermined_and_does_not_hide_what_was_seen(project, ask):
    project.segment("w2", 4, start="2026-05-10", end="2026-05-11")
    project.read("comfort@v1:heat")
    found = ask.check(select=["LN1"])
    assert {(f.rule.code, f.verdict) for f in found.all} == {
        ("LN100", Verdict.UNDETERMINED),
        ("LN105", Verdict.FLAGGED),
    }
    (usage,) = [finding for finding in found.all if finding.rule.code == "LN100"]
    assert usage.evidence[0]["reason"] == "missing_segments"


def test_a_declaration_that_nobody_reads_is_flagged_with_the_line_that_remains(project, ask):
    project.read("weather@v1:temp")
    project.read("weather@v1:humid")
    finding = never_read(ask, "plane@v1:seats")
    assert finding.verdict is Verdict.FLAGGED
    assert finding.fix == 'Model("delay_model", version="1", reads=["weather@v1:temp", "weather@v1:humid"])'
    assert never_read(ask, "weather@v1:temp").verdict is Verdict.CLEARED


@pytest.mark.parametrize(
    ("segment", "verdict"),
    [
        ({"number": 5, "start": "2026-04-10", "end": "2026-04-11"}, Verdict.UNDETERMINED),
        ({"dropped": 1, "start": "2026-04-10", "end": "2026-04-11"}, Verdict.UNDETERMINED),
        ({"closed": 0, "start": "2026-04-10", "end": "2026-04-11"}, Verdict.UNDETERMINED),
        ({"dropped": 1, "start": "2026-01-10", "end": "2026-01-11"}, Verdict.FLAGGED),
    ],
)
def test_never_read_is_only_said_when_all_reads_since_the_declaration_were_counted(project, ask, segment, verdict):
    project.segment("w2", **segment)
    assert never_read(ask, "plane@v1:seats").verdict is verdict


def test_never_read_waits_for_three_cadences(project, document, ask):
    document["consumers"]["delay_model@1"]["cadence_days"] = 30
    project.commit(document, revision=2)
    assert never_read(ask, "plane@v1:seats").verdict is Verdict.FLAGGED
    document["consumers"]["delay_model@1"]["cadence_days"] = 31
    project.commit(document, revision=3)
    assert never_read(ask, "plane@v1:seats").verdict is Verdict.UNDETERMINED


def test_never_read_waits_for_the_minimum(project, ask):
    def verdict(days):
        return never_read(ask, "plane@v1:seats", parameters=Parameters(minimum_days=days)).verdict

    assert verdict(92) is Verdict.FLAGGED
    assert verdict(93) is Verdict.UNDETERMINED


def test_the_time_of_a_declaration_is_that_of_its_first_unbroken_commit(project, document, ask):
    removed = document["consumers"]["delay_model@1"] | {"reads": DECLARED[:2]}
    consumers = document["consumers"] | {"delay_model@1": removed}
    project.commit(document | {"consumers": consumers}, revision=2, when=at("2026-03-10"))
    project.commit(document, revision=3, when=at("2026-05-25"))
    assert "since 2026-05-25" in never_read(ask, "plane@v1:seats").message


def test_a_quarterly_job_that_read_once_is_alive(project, document, ask):
    document["consumers"]["delay_model@1"]["cadence_days"] = 90
    project.commit(document, revision=2)
    project.read("plane@v1:seats", when=at("2026-03-02"))
    assert never_read(ask, "plane@v1:seats").verdict is Verdict.CLEARED


@pytest.mark.parametrize(
    ("binding", "bound", "verdict"),
    [
        ("anonymous", (), Verdict.UNDETERMINED),
        ("undeclared", (), Verdict.UNDETERMINED),
        ("ambiguous", ("delay_model@1", "gate_board"), Verdict.UNDETERMINED),
        ("ambiguous", ("gate_board", "another"), Verdict.FLAGGED),
    ],
)
def test_a_read_that_may_have_been_the_consumer_leaves_it_open(project, ask, binding, bound, verdict):
    for name in bound:
        project.bind("x", name)
    project.read("plane@v1:seats", "", principal="x", binding=binding)
    assert never_read(ask, "plane@v1:seats").verdict is verdict


def test_only_reads_in_the_environment_of_the_manifest_count(project, document, ask):
    document["consumers"]["delay_model@1"]["environment"] = "prod"
    project.commit(document, revision=2)
    project.read("plane@v1:seats", environment="dev")
    assert never_read(ask, "plane@v1:seats").verdict is Verdict.FLAGGED


def test_an_unnamed_read_before_the_declaration_leaves_nothing_open(project, ask):
    project.read("plane@v1:seats", "", principal="x", binding="undeclared", when=at("2026-02-20"))
    assert never_read(ask, "plane@v1:seats").verdict is Verdict.FLAGGED


def test_a_gap_in_another_environment_leaves_nothing_open(project, document, ask):
    document["consumers"]["delay_model@1"]["environment"] = "prod"
    project.commit(document, revision=2)
    project.segment("w2", 0, start="2026-04-10", end="2026-04-11", dropped=3, environment="dev")
    assert never_read(ask, "plane@v1:seats").verdict is Verdict.FLAGGED
    project.segment("w3", 0, start="2026-04-10", end="2026-04-11", dropped=3, environment="prod")
    assert never_read(ask, "plane@v1:seats").verdict is Verdict.UNDETERMINED


def test_a_binding_counts_from_when_it_was_made(project, ask):
    project.read("weather@v1:temp", "", principal="svc-new", binding="undeclared", when=at("2026-03-05"))
    project.bind("svc-new", "delay_model@1", when=at("2026-05-01"))
    assert undeclared(ask) == set()
    then = Lineage(project.folder, as_of="2026-04-01")
    assert {f.rule.name for f in then.check(select=["LN1"]).flagged()} == {"unbound_principal"}


def test_an_attempt_that_was_refused_is_not_a_read(project, ask):
    project.read("plane@v1:seats", outcome="refused")
    finding = never_read(ask, "plane@v1:seats")
    assert finding.verdict is Verdict.FLAGGED
    assert "attempts were refused" in finding.message


def test_a_finding_keeps_its_identity_and_is_derived_again(project, ask):
    project.read("comfort@v1:heat", calls=1)
    before = only(ask, "LN105")
    project.read("comfort@v1:heat", calls=9, client="host-b")
    assert ask.explain(before.id).message != before.message
    assert ask.explain(before.id[:9]).id == before.id
    assert ask.explain(before.id).subject == before.subject


def test_an_unknown_identity_names_the_nearest_and_an_unclear_one_lists_them(project, ask):
    project.read("comfort@v1:heat")
    wrong = only(ask, "LN105").id[:-1] + "z"
    with pytest.raises(NotFoundError, match="Did you mean 'LN105-"):
        ask.explain(wrong)
    with pytest.raises(InvalidQuestionError, match="begins several"):
        ask.explain("LN201")
    with pytest.raises(NotFoundError):
        ask.explain("")


def test_selecting_takes_codes_beginnings_and_names_and_refuses_others(project, ask):
    project.read("comfort@v1:heat")
    assert {f.rule.code for f in ask.check(select=["LN105"]).all} == {"LN105"}
    assert {f.rule.code for f in ask.check(select=["ln2"]).all} == {"LN201"}
    assert {f.rule.code for f in ask.check(select=["undeclared_feature"]).all} == {"LN105"}
    with pytest.raises(InvalidQuestionError, match="LN999"):
        ask.check(select=["LN999"])


def test_rules_have_codes_and_names_of_their_own():
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    assert len({finding.__name__ for finding in FINDINGS}) == len(FINDINGS)
    assert all(finding.__module__ == f"lineage.findings.{finding.__name__}" for finding in FINDINGS)
