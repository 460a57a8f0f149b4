"""Figures in the text formats that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from metergate.gateway.metrics.counting import BOUNDS
from metergate.gateway.metrics.folder import Figures
from metergate.gateway.metrics.samples import HELP, Histogram, Labels, Sample
from metergate.gateway.problems import BUILD_ID


class _Page(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        version = GaugeMetricFamily("metergate_build_info", "The version that runs.", labels=["version"])
        version.add_metric([BUILD_ID], 1)
        yield version
        yield from _samples(self._figures.samples)
        yield from _histograms(self._figures.histograms)


def render(figures: Figures, accept: str = "") -> tuple[bytes, str]:
    """The page and its content type: OpenMetrics for who accepts that, the plain text format for all others."""
    encode, content_type = choose_encoder(accept)
    return encode(_Page(figures)), content_type


def _samples(samples: list[Sample]) -> Iterable[Metric]:
    """Families; one family's samples have the same labels, those that a sample lacks are empty."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    for name, own in sorted(by_name.items()):
        labels = sorted({label for sample in own for label, _ in sample.labels})
        make = CounterMetricFamily if own[0].kind == "counter" else GaugeMetricFamily
        family = make(name, HELP.get(name, name), labels=labels)
        for sample in sorted(own, key=lambda one: one.labels):
            family.add_metric(_values(sample.labels, labels), sample.value)
        yield family


def _histograms(histograms: list[Histogram]) -> Iterable[Metric]:
    by_name: dict[str, list[Histogram]] = {}
    for one in histograms:
        if len(one.buckets) == len(BOUNDS) + 1:
            by_name.setdefault(one.name, []).append(one)
    for name, own in sorted(by_name.items()):
        labels = [label for label, _ in own[0].labels]
        family = HistogramMetricFamily(name, HELP.get(name, name), labels=labels)
        for one in sorted(own, key=lambda each: each.labels):
            family.add_metric(_values(one.labels, labels), _cumulative(one.buckets), one.total)
        yield family


def _values(labels: Labels, names: list[str]) -> list[str]:
    own = dict(labels)
    return [own.get(name, "") for name in names]


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
        so_far += count
        rows.append((bound, so_far))
    return rows
