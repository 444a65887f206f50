"""What the service counts, for Prometheus."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.archive import DropReason
from service.monitoring.drift import DriftState
from service.recipes import Recipe
from service.records.inspection import Inspection
from service.reply import Timing
from service.runtimes.protocol import RuntimeDescription

_STAGE_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32)
_SCORE_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_MAX_STATIONS: Final = 64
OTHER_STATIONS: Final = "other"
_VERDICTS: Final = ("pass", "review", "fail")
_COUNTED_FROM_ZERO: Final = (*_VERDICTS, "failed", "deadline-passed", "overloaded", "not-ready")
"""Outcomes whose first occurrence is to be seen as a rise: Prometheus sees none where a series begins."""

# Another series for every one, with the time it began: nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Exposition:
    """All metrics of one moment."""

    data: bytes
    content_type: str


def expose(registry: CollectorRegistry, accept: str) -> Exposition:
    """The metrics of a registry in the format that an `Accept` header prefers.

    Only OpenMetrics has a place for exemplars; whoever asks for nothing gets the text format of Prometheus.
    """
    encode, content_type = choose_encoder(accept)
    return Exposition(encode(registry), content_type)


def ready_gauge(registry: CollectorRegistry) -> Gauge:
    """Whether inspections are accepted; 0 until told otherwise."""
    return Gauge("inspect_ready", "1 while inspections are accepted, as /readyz says", registry=registry)


class Restarts(Collector):
    """How often processes of the service had to be started again; whoever starts them says so."""

    def __init__(self) -> None:
        self.counts = {"engine": 0, "worker": 0}

    def collect(self) -> Iterable[Metric]:
        """The counts as they are."""
        family = CounterMetricFamily(
            "inspect_worker_restarts", "Processes that ended and were started again", labels=["process"]
        )
        for process, count in self.counts.items():
            family.add_metric([process], count)
        yield family


class _Runtimes(Collector):
    """What runs the networks, one sample each, and what was asked for."""

    def __init__(self, requested: str, descriptions: Callable[[], Iterable[RuntimeDescription]]) -> None:
        self._requested = requested
        self._descriptions = descriptions

    def collect(self) -> Iterable[Metric]:
        family = InfoMetricFamily("inspect_runtime", "What runs the network")
        for one in self._descriptions():
            told = {"provider": one.provider, "precision": one.precision, "model": one.model, "version": one.version}
            family.add_metric([], told)
        yield family
        requested = InfoMetricFamily("inspect_runtime_requested", "What the settings want to run the network")
        requested.add_metric([], {"runtime": self._requested})
        yield requested


class _Drift(Collector):
    """How near each recipe is to an alarm of drift."""

    def __init__(self, states: Callable[[], Iterable[DriftState]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "inspect_score_drift", "Distance from the calibration; 1 is an alarm", labels=["recipe"]
        )
        for state in self._states():
            family.add_metric([state.recipe], state.level)
        yield family


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service was set up with, to compare with what is."""

    queue: int
    archive_bytes: int
    runtime: str


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._stations: set[str] = set()
        self._in_service: dict[tuple[str, str, str], float] = {}
        self._ready = ready_gauge(self.registry)
        self._activated = Gauge(
            "inspect_recipe_activated_timestamp_seconds",
            "Since when this process inspects by a version of a recipe, Unix time",
            ["recipe", "version", "bundle"],
            registry=self.registry,
        )
        self._last_reject = Gauge(
            "inspect_last_reject_timestamp_seconds",
            "When a part was last rejected, Unix time",
            ["recipe", "station"],
            registry=self.registry,
        )
        self._requests = Counter(
            "inspect_requests", "Inspection requests by how they ended", ["station", "outcome"], registry=self.registry
        )
        self._verdicts = Counter(
            "inspect_verdicts", "Verdicts reached, replays not counted", ["recipe", "verdict"], registry=self.registry
        )
        self._stages = Histogram(
            "inspect_stage_seconds",
            "Time of each stage of an inspection",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self._stage = {stage: self._stages.labels(stage) for stage in Timing.model_fields}
        self._scores = Histogram(
            "inspect_score",
            "Calibrated scores; 1.0 is the shipped threshold",
            ["recipe"],
            buckets=_SCORE_BUCKETS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "inspect_batch_size", "Frames computed together", buckets=_BATCH_BUCKETS, registry=self.registry
        )
        self._depth = Gauge("inspect_queue_depth", "Frames that wait for a session", registry=self.registry)
        self._queue_limit = Gauge("inspect_queue_limit", "Frames that may wait for a session", registry=self.registry)
        self._missed = Counter(
            "inspect_deadline_missed", "Requests whose deadline passed before a verdict", registry=self.registry
        )
        self._archive_bytes = Gauge("inspect_archive_bytes", "Room of the kept images and maps", registry=self.registry)
        self._archive_limit = Gauge(
            "inspect_archive_limit_bytes", "Room that kept images and maps may take", registry=self.registry
        )
        self._archive_paused = Gauge(
            "inspect_archive_paused",
            "1 while no image is kept, since the disk is full or fails",
            registry=self.registry,
        )
        self._archive_dropped = Counter(
            "inspect_archive_dropped", "Inspections whose image was not kept", ["reason"], registry=self.registry
        )
        for reason in get_args(DropReason):
            self._archive_dropped.labels(reason)
        self._disk_free = Gauge(
            "inspect_disk_free_bytes", "Room left on the disk of records and images", registry=self.registry
        )
        self._self_test_failures = Counter(
            "inspect_self_test_failures", "Golden samples that were answered wrongly in service", registry=self.registry
        )
        self.restarts = Restarts()
        self.registry.register(self.restarts)

    def watch(
        self,
        limits: Limits,
        ready: Callable[[], bool],
        queue_depth: Callable[[], int],
        archive_bytes: Callable[[], int],
        archive_paused: Callable[[], bool],
        runtimes: Callable[[], Iterable[RuntimeDescription]],
        drift: Callable[[], Iterable[DriftState]],
    ) -> None:
        """Read these figures whenever the metrics are asked for, and show what they must not exceed."""
        self._queue_limit.set(limits.queue)
        self._archive_limit.set(limits.archive_bytes)
        self._ready.set_function(ready)
        self._depth.set_function(queue_depth)
        self._archive_bytes.set_function(archive_bytes)
        self._archive_paused.set_function(archive_paused)
        self.registry.register(_Runtimes(limits.runtime, runtimes))
        self.registry.register(_Drift(drift))

    def request(self, station: str | None, outcome: str, times: int = 1) -> None:
        """Count requests that ended alike; stations beyond 64 share a label, since clients choose their names."""
        self._requests.labels(self._label(station), outcome).inc(times)

    def verdict(self, inspection: Inspection, score: float, timing: Timing) -> None:
        """Count a verdict with its calibrated score and its stages.

        The score of a part that did not pass is an example of its bucket, by the inspection's id: that leads from the
        figure to the record without a label for each part.
        """
        recipe, verdict = inspection.recipe, inspection.verdict
        self._verdicts.labels(recipe, verdict).inc()
        example = None if verdict == "pass" else {"inspection_id": inspection.id, "verdict": verdict}
        self._scores.labels(recipe).observe(score, example)
        if verdict == "fail":
            self._last_reject.labels(recipe, self._label(inspection.station)).set_to_current_time()
        for stage, histogram in self._stage.items():
            histogram.observe(getattr(timing, stage) / 1000)

    def batch(self, frames: int) -> None:
        """Count a batch."""
        self._batches.observe(frames)

    def deadline_missed(self, times: int = 1) -> None:
        """Count requests whose deadline passed."""
        self._missed.inc(times)

    def archive_dropped(self, reason: str) -> None:
        """Count an image that was not kept."""
        self._archive_dropped.labels(reason).inc()

    def self_test_failed(self) -> None:
        """Count a failed self-test."""
        self._self_test_failures.inc()

    def in_service(self, recipes: Iterable[Recipe]) -> None:
        """Show by which versions of which recipes is inspected from now on; their verdicts count from 0."""
        now = time.time()
        before, self._in_service = self._in_service, {}
        self._activated.clear()
        for recipe in recipes:
            labels = (recipe.name, str(recipe.version), recipe.bundle)
            self._in_service[labels] = before.get(labels, now)
            self._activated.labels(*labels).set(self._in_service[labels])
            for verdict in _VERDICTS:
                self._verdicts.labels(recipe.name, verdict)

    def disk_free(self, free_bytes: float) -> None:
        """Note the room left on the disk; NaN where it does not tell."""
        self._disk_free.set(free_bytes)

    def exposition(self, accept: str = "") -> Exposition:
        """All of it; see `expose`."""
        return expose(self.registry, accept)

    def _label(self, station: str | None) -> str:
        label = station or ""
        if label in self._stations:
            return label
        if len(self._stations) >= _MAX_STATIONS:
            label = OTHER_STATIONS
        if label not in self._stations:
            self._stations.add(label)
            for outcome in _COUNTED_FROM_ZERO:
                self._requests.labels(label, outcome)
        return label
