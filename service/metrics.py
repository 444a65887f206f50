"""What the service counts, for Prometheus."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.monitoring.drift import DriftState
from service.reply import Timing
from service.runtimes.protocol import RuntimeDescription

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_STAGE_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32)
_SCORE_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_MAX_STATIONS: Final = 64
OTHER_STATIONS: Final = "other"


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
    """What runs the networks, one sample each."""

    def __init__(self, descriptions: Callable[[], Iterable[RuntimeDescription]]) -> None:
        self._descriptions = descriptions

    def collect(self) -> Iterable[Metric]:
        family = InfoMetricFamily("inspect_runtime", "What runs the network")
        for one in self._descriptions():
            told = {"provider": one.provider, "precision": one.precision, "model": one.model, "version": one.version}
            family.add_metric([], told)
        yield family


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


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._stations: set[str] = set()
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
        self._missed = Counter(
            "inspect_deadline_missed", "Requests whose deadline passed before a verdict", registry=self.registry
        )
        self._archive_bytes = Gauge("inspect_archive_bytes", "Room of the kept images and maps", registry=self.registry)
        self._archive_paused = Gauge(
            "inspect_archive_paused",
            "1 while no image is kept, since the disk is full or fails",
            registry=self.registry,
        )
        self._archive_dropped = Counter(
            "inspect_archive_dropped", "Inspections whose image was not kept", ["reason"], registry=self.registry
        )
        self._self_test_failures = Counter(
            "inspect_self_test_failures", "Golden samples that were answered wrongly in service", registry=self.registry
        )
        self.restarts = Restarts()
        self.registry.register(self.restarts)

    def watch(
        self,
        queue_depth: Callable[[], int],
        archive_bytes: Callable[[], int],
        archive_paused: Callable[[], bool],
        runtimes: Callable[[], Iterable[RuntimeDescription]],
        drift: Callable[[], Iterable[DriftState]],
    ) -> None:
        """Read these figures whenever the metrics are asked for."""
        self._depth.set_function(queue_depth)
        self._archive_bytes.set_function(archive_bytes)
        self._archive_paused.set_function(archive_paused)
        self.registry.register(_Runtimes(runtimes))
        self.registry.register(_Drift(drift))

    def request(self, station: str | None, outcome: str, times: int = 1) -> None:
        """Count requests that ended alike; stations beyond 64 share a label, since clients choose their names."""
        label = station or ""
        if label not in self._stations:
            if len(self._stations) < _MAX_STATIONS:
                self._stations.add(label)
            else:
                label = OTHER_STATIONS
        self._requests.labels(label, outcome).inc(times)

    def verdict(self, recipe: str, verdict: str, score: float, timing: Timing) -> None:
        """Count a verdict with its calibrated score and its stages."""
        self._verdicts.labels(recipe, verdict).inc()
        self._scores.labels(recipe).observe(score)
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

    def exposition(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self.registry)
