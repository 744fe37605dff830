"""What `/metrics` tells, in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .admission import Admission
from .engine import Engine

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """requests: by model and status. seconds: from a request to the end of its answer. first: to the first bit of a
    stream."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(engine, admission))
        self.requests = Counter(
            "optima_lite_requests", "Requests by model and status.", ["model", "status"], registry=self._registry
        )
        self.seconds = self._histogram("optima_lite_request_seconds", "Seconds to the end of an answer.")
        self.first = self._histogram("optima_lite_first_delta_seconds", "Seconds to the first bit of a stream.")
        self.turns = Counter("optima_lite_messages", "Messages that agents have said.", registry=self._registry)

    def _histogram(self, name: str, told: str) -> Histogram:
        return Histogram(name, told, ["model"], buckets=_SECONDS, registry=self._registry)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is read off at the moment of asking."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine, self._admission = engine, admission

    def collect(self) -> Iterator[Metric]:
        """Gauges, and counters that others keep."""
        counts = self._engine.generator.counts
        yield GaugeMetricFamily("optima_lite_rows_running", "Rows in the batch.", self._engine.running)
        yield GaugeMetricFamily("optima_lite_callers_waiting", "Who waits for words.", self._engine.waiting)
        yield GaugeMetricFamily("optima_lite_choices_unanswered", "Answers owed.", self._admission.unanswered)
        yield GaugeMetricFamily("optima_lite_cache_load", "Part of the cache's room given out.", self._admission.load)
        for name, told, value in (
            ("computed", "Tokens of prompts that went through the model.", counts.computed),
            ("reused", "Tokens of prompts that had been computed before.", counts.reused),
            ("sampled", "Tokens sampled.", counts.sampled),
        ):
            yield CounterMetricFamily(f"optima_lite_tokens_{name}", told, value)
        told = "Times that the batch went on by a few tokens for each of its rows."
        yield CounterMetricFamily("optima_lite_slices", told, self._engine.slices)
