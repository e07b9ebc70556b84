"""What a server counts, for Prometheus. Nothing of what was said, and no address, is in it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from twistlm.serve.engine import End, Engine

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """Counters of one server."""

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        Gauge("twistlm_listeners", "Continuations being made.", registry=registry).set_function(lambda: engine.load[0])
        Gauge("twistlm_waiting", "Continuations in the queue.", registry=registry).set_function(lambda: engine.load[1])
        self._ended = Counter(
            "twistlm_continuations", "Continuations by how they ended.", ["reason"], registry=registry
        )
        self._answers = Counter("twistlm_http_responses", "Answers by status.", ["status"], registry=registry)
        self._units = Counter("twistlm_units", "Units made.", registry=registry)
        self._sound = Counter("twistlm_sound_seconds", "Seconds of sound made.", registry=registry)
        self._waited = Histogram("twistlm_queue_seconds", "Time in the queue.", registry=registry)
        self._first = Histogram(
            "twistlm_first_sound_seconds",
            "From leaving the queue to the first sound.",
            buckets=(0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10),
            registry=registry,
        )
        self._factor = Histogram(
            "twistlm_real_time_factor",
            "Seconds of computing a second of sound.",
            buckets=(0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 4),
            registry=registry,
        )

    def ended(self, end: End, *, sample_rate: int) -> None:
        """Count a continuation."""
        self._ended.labels(end.reason).inc()
        self._units.inc(end.units)
        self._sound.inc(end.samples / sample_rate)
        self._waited.observe(end.waited)
        if end.first is not None:
            self._first.observe(end.first)
            self._factor.observe(end.worked * sample_rate / end.samples)

    def answered(self, status: int) -> None:
        """Count an HTTP answer."""
        self._answers.labels(str(status)).inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)
