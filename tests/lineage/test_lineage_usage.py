"""Usage and coverage: counts add up, and a window with anything missing is never called complete."""

import pytest

from lineage import Coverage

DAY = 86_400_000_000
MINUTE = 60_000_000


def at(text):
    from datetime import UTC, datetime

    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


NOW = at("2026-06-01")


def coverage(ask, since=None) -> Coverage:
    return ask.state(since=since).usage.coverage()


def reasons(found: Coverage) -> list[str]:
    return [gap.reason for gap in found.gaps]


def test_reads_of_several_days_and_clients_add_up(project, ask):
    project.read("weather@v1:temp", calls=3, when=at("2026-05-01T10:00:00"))
    project.read("weather@v1:temp", calls=4, when=at("2026-05-02T10:00:00"), client="host-b")
    (reads,) = ask.usage("weather@v1:temp").reads
    assert (reads.calls, reads.entity_rows, reads.days, reads.clients) == (7, 35, 2, 2)
    assert (reads.first_read, reads.last_read) == (at("2026-05-01T09:59:59"), at("2026-05-02T10:00:00"))


def test_rows_of_an_earlier_day_that_arrive_later_count(project, ask):
    project.read("weather@v1:temp", calls=1, when=at("2026-05-02T10:00:00"))
    assert ask.usage("weather@v1:temp").reads[0].calls == 1
    project.read("weather@v1:temp", calls=5, when=at("2026-03-02T10:00:00"))
    assert ask.usage("weather@v1:temp").reads[0].calls == 6


def test_since_leaves_out_what_was_last_read_before(project, ask):
    project.read("weather@v1:temp", calls=1, when=at("2026-03-02T10:00:00"))
    project.read("weather@v1:temp", calls=2, when=at("2026-05-30T10:00:00"))
    assert ask.usage("weather@v1:temp", since="7d").reads[0].calls == 2
    assert ask.usage("weather@v1:temp", since=NOW - 7 * DAY).reads[0].calls == 2
    assert ask.usage("weather@v1:temp", since="2026-03-01").reads[0].calls == 3


def test_usage_is_found_by_feature_view_source_consumer_and_principal(project, ask):
    project.read("weather@v1:temp", calls=1)
    project.read("plane@v1:seats", calls=2)
    project.read("weather@v1:temp", "", principal="bob", binding="undeclared", calls=4)

    def calls(ref):
        return sum(read.calls for read in ask.usage(ref).reads)

    assert calls("weather@v1:temp") == calls("weather") == calls("source:weather") == 5
    assert calls("delay_model@1") == calls("delay_model") == 3
    assert calls("principal:bob") == calls("bob") == 4
    assert calls("service:delay_model") == 7


def test_everything_counted_is_complete(project, ask):
    assert coverage(ask).complete


def test_no_worker_ever_is_no_evidence(registry, document, ask):
    registry.commit(document)
    assert reasons(coverage(ask)) == ["no_segments"]


def test_a_missing_number_is_a_gap_between_its_neighbours(project, ask):
    project.segment("w2", 0, start="2026-02-01", end="2026-02-10", closed=0)
    project.segment("w2", 3, start="2026-02-12", end="2026-02-20", closed=1)
    (gap,) = coverage(ask).gaps
    assert (gap.reason, gap.worker, gap.first_number, gap.last_number) == ("missing_segments", "w2", 1, 2)
    assert (gap.started_at, gap.ended_at) == (at("2026-02-10"), at("2026-02-12"))
    assert coverage(ask, since="2026-02-13").complete
    assert not coverage(ask, since="2026-02-11").complete


@pytest.mark.parametrize(("numbers", "missing"), [((1,), (0, 0)), ((0, 2), (1, 1)), ((0, 1, 4), (2, 3))])
def test_one_missing_number_is_enough(project, ask, numbers, missing):
    for number in numbers:
        project.segment("w2", number, start="2026-02-10", end="2026-02-11")
    (gap,) = coverage(ask).gaps
    assert (gap.first_number, gap.last_number) == missing


def test_a_read_at_the_start_of_a_window_belongs_to_it(project, ask):
    project.read("weather@v1:temp", when=at("2026-05-20T10:00:00"))
    assert ask.usage("weather@v1:temp", since=at("2026-05-20T10:00:00")).reads
    assert not ask.usage("weather@v1:temp", since=at("2026-05-20T10:00:00") + 1).reads


def test_missing_first_segments_reach_back_for_ever(project, ask):
    project.segment("w2", 2, start="2026-02-12", end="2026-02-20")
    (gap,) = coverage(ask).gaps
    assert (gap.first_number, gap.last_number, gap.started_at) == (0, 1, None)
    assert coverage(ask, since="2026-03-01").complete


def test_dropped_counts_are_a_gap_of_that_segment(project, ask):
    project.segment("w2", 0, start="2026-02-12", end="2026-02-20", dropped=7)
    (gap,) = coverage(ask).gaps
    assert (gap.reason, gap.dropped) == ("dropped", 7)
    assert coverage(ask, since="2026-02-21").complete


def test_a_worker_that_fell_silent_may_still_be_reading(project, ask):
    project.segment("w2", 0, start="2026-02-12", end="2026-02-20", closed=0)
    assert reasons(coverage(ask, since="2026-05-01")) == ["silent_worker"]


@pytest.mark.parametrize(("minutes", "complete"), [(4, True), (6, False)])
def test_a_living_worker_is_allowed_the_time_between_two_heartbeats(project, ask, minutes, complete):
    row = ("w2", 0, "prod", NOW - DAY, NOW - minutes * MINUTE, 0, 0)
    project.insert("usage_segments", *row)
    assert coverage(ask).complete is complete


def test_only_the_workers_of_an_environment_count_for_it(project, ask):
    project.segment("w2", 0, start="2026-02-12", end="2026-02-20", dropped=7, environment="dev")
    usage = ask.state().usage
    assert usage.coverage(environment="prod").complete
    assert not usage.coverage(environment="dev").complete
    assert not usage.coverage().complete
