"""Metrics: where values go, what ``prof`` measures; beside torch's own."""

import pytest

from rallypoint.elastic import metrics
from rallypoint.elastic.metrics import api


class Kept(metrics.MetricHandler):
    def __init__(self):
        self.values = []

    def emit(self, metric_data):
        self.values.append((metric_data.group_name, metric_data.name, metric_data.value))


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(api, "_handlers", {})
    monkeypatch.setattr(api, "_default", [metrics.NullMetricHandler()])
    kept = Kept()
    metrics.configure(kept, "mine")
    return kept


@metrics.prof(group="mine")
def works(value):
    return value


class Thing:
    @metrics.prof(group="mine")
    def fails(self):
        raise ValueError("no")


def test_values_go_to_the_handler_of_their_group_or_the_default_one(kept):
    metrics.put_metric("a", 1, "mine")
    metrics.put_metric("b", 1, "other")
    metrics.configure(kept)
    metrics.put_metric("c", 2, "other")
    metrics.put_metric("d", 3)
    assert kept.values == [("mine", "a", 1), ("other", "c", 2), ("torchelastic", "d", 3)]


def test_prof_counts_and_times(kept):
    assert works(7) == 7
    with pytest.raises(ValueError, match="no"):
        Thing().fails()
    names = [(name, value) for _, name, value in kept.values if not name.endswith("duration.ms")]
    assert names == [("test_elastic_metrics.works.success", 1), ("Thing.fails.failure", 1)]
    assert [name for _, name, _ in kept.values if name.endswith("ms")] == [
        "test_elastic_metrics.works.duration.ms", "Thing.fails.duration.ms"
    ]  # fmt: skip
    assert works.__name__ == "works"


def test_prof_without_a_group_is_torchelastics(kept):
    metrics.configure(kept)
    metrics.prof(lambda: None)()
    assert {group for group, _, _ in kept.values} == {"torchelastic"}


def test_what_is_deprecated_works_and_says_so(kept):
    with pytest.warns(FutureWarning):
        decorated = metrics.profile("mine")(lambda: 5)
    assert decorated() == 5
    with pytest.warns(FutureWarning):
        metrics.publish_metric("mine", "x", 1)
    assert kept.values[0] == ("mine", "<lambda>.success", 1) and kept.values[-1] == ("mine", "x", 1)


def test_the_console_handler_prints_a_line(kept, capsys):
    metrics.configure(metrics.ConsoleMetricHandler(), "shown")
    metrics.put_metric("x", 3, "shown")
    line = capsys.readouterr().out
    assert line.startswith("[") and line.endswith("][shown]: x=3\n")


def test_small_things():
    assert metrics.MetricsConfig().params == {} and metrics.MetricsConfig({"a": "b"}).params == {"a": "b"}
    assert metrics.initialize_metrics() is None
    assert metrics.get_elapsed_time_ms(0.0) > 1_000_000
    assert repr(metrics.getStream("g")) == "<MetricStream g to NullMetricHandler>"


@pytest.mark.torch
def test_torchs_prof_measures_the_same(kept):
    theirs = pytest.importorskip("torch.distributed.elastic.metrics")
    values = []

    class Theirs(theirs.MetricHandler):
        def emit(self, data):
            values.append((data.group_name, data.name))

    theirs.configure(Theirs(), "mine")
    theirs.prof(works.__wrapped__, group="mine")(1)
    works(1)
    assert values == [(group, name) for group, name, _ in kept.values]
