"""Numbers that all processes of a server share: exact counts, quantiles within 1/32, and the text that Prometheus reads."""

import math
import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from featurestore.serving.metrics import (
    _BUCKETS,
    QUANTILES,
    MetricsFile,
    bucket_of,
    clear_metrics,
    lower_edge,
    read_metrics,
    to_prometheus,
)


@given(st.integers(0, 1 << 50))
def test_every_value_lies_in_its_step_and_steps_are_narrow(value):
    bucket = bucket_of(value)
    if value < 1 << 43:
        assert lower_edge(bucket) <= value < lower_edge(bucket + 1)
        assert lower_edge(bucket + 1) - lower_edge(bucket) <= max(1, value / 32)
    assert 0 <= bucket < _BUCKETS


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=200), st.sampled_from(QUANTILES))
def test_quantiles_are_within_a_thirty_second(tmp_path_factory, values, q):
    file = MetricsFile(tmp_path_factory.mktemp("m"))
    for value in values:
        file.distribution("d").record(value)
    metric = read_metrics(file.path.parent)["d", ()]
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    assert (metric.count, metric.value) == (len(values), sum(values))
    assert abs(metric.quantile(q) - exact) <= exact / 32 + 1


def count_in_a_process(directory):
    file = MetricsFile(directory)
    for i in range(1000):
        file.counter("calls", {"code": "OK"}).add()
        file.distribution("seconds", {"service": "s"}).record(i)
    file.gauge("lag").set(7)


def test_processes_are_added_up_and_the_dead_still_count(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count_in_a_process, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = read_metrics(tmp_path)
    assert found["calls", (("code", "OK"),)].value == 2000
    assert found["seconds", (("service", "s"),)].count == 2000
    assert found["lag", ()].value == 7
    clear_metrics(tmp_path)
    assert read_metrics(tmp_path) == {}


def test_prometheus_reads_the_text(tmp_path):
    file = MetricsFile(tmp_path)
    file.counter("fs_calls_total", {"code": 'a "b"\\\n'}).add(3)
    for value in (5_000, 20_000_000, 3_000_000_000_000):
        file.distribution("fs_seconds", {"service": "s"}).record(value)
    families = {f.name: f for f in text_string_to_metric_families(to_prometheus(read_metrics(tmp_path).values()))}
    (calls,) = families["fs_calls"].samples
    assert (calls.labels, calls.value) == ({"code": 'a "b"\\\n'}, 3)
    buckets = {s.labels["le"]: s.value for s in families["fs_seconds"].samples if s.name.endswith("_bucket")}
    assert (buckets["1e-05"], buckets["0.025"], buckets["+Inf"]) == (1, 2, 3)
    assert list(buckets.values()) == sorted(buckets.values())
    (total,) = (s.value for s in families["fs_seconds"].samples if s.name.endswith("_sum"))
    assert total == pytest.approx(3000.020005)


def test_a_full_file_loses_new_numbers_and_disturbs_nobody(tmp_path):
    file = MetricsFile(tmp_path)
    file.counter("first").add()
    for i in range(2000):
        file.distribution("d", {"i": str(i)}).record(i)
    file.counter("first").add()
    found = read_metrics(tmp_path)
    assert found["first", ()].value == 2
    assert 100 < len(found) < 2000
    assert all(np.isfinite(metric.value) for metric in found.values())
