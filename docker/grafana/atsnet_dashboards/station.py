"""The dashboard *Station*: how the service does, and the machine below it."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import dashboard as models

from atsnet_dashboards import gpu
from atsnet_dashboards.frame import frame
from atsnet_dashboards.style import (
    BAD,
    CAUTION,
    GOOD,
    NEUTRAL,
    buckets,
    now,
    over_time,
    query,
    query_now,
    query_rows,
    row,
    rows,
)

UID: Final = "atsnet-station"
TITLE: Final = "Station"

_GIB: Final = 1024**3
_REFUSED: Final = 'inspect_requests_total{station=~"$station", outcome=~"overloaded|rate-limited|not-ready"}'
_PROCESS: Final = '{job="atsnet"}'
_ANY: Final = ((None, GOOD), (1, BAD))


def dashboard() -> models.Dashboard:
    """The dashboard."""
    about = "How the service does: latency, queue, deadlines, runtime, GPU, archive, drift, self-test, restarts."
    made = frame(TITLE, UID, about, "Line", "atsnet-line")
    for add in (_at_a_glance, _latency, _load, _runtime, gpu.add, _trust, _storage):
        add(made)
    return made.build()


def _at_a_glance(made: dashboards.Dashboard) -> None:
    made.with_row(row("At a glance"))
    panels = (
        now(
            "Service",
            "What /readyz says: whether inspections are accepted.",
            "short",
            query_now('min(inspect_ready) or min(up{job="atsnet"})'),
            steps=((None, BAD), (1, GOOD)),
            words={"1": ("ready", GOOD), "0": ("not ready", BAD)},
            span=3,
        ),
        now(
            "Running for",
            "Since the process with the network started.",
            "s",
            query_now(f"time() - min(process_start_time_seconds{_PROCESS})"),
            steps=((None, CAUTION), (900, GOOD)),
            span=3,
        ),
        now(
            "99 of 100 answered within",
            "From the request's arrival to its recorded verdict, over 5 minutes. Compare with the deadline that the "
            "PLC gives: what comes later is not evaluated.",
            "s",
            query_now('stage:inspect_stage_seconds:p99_rate5m{stage="total"}'),
            steps=((None, GOOD), (0.1, CAUTION), (0.5, BAD)),
            span=3,
        ),
        now(
            "Deadlines missed, 1 hour",
            "Parts without a verdict at their deadline; each counts as a reject. Normal is none.",
            "short",
            query_now("sum(increase(inspect_deadline_missed_total[1h]))"),
            steps=_ANY,
            decimals=0,
            span=3,
        ),
        now(
            "Restarts, 24 hours",
            "Of single processes of the service, by their role; the others go on meanwhile. Normal is none.",
            "short",
            query_now("sum(increase(inspect_worker_restarts_total[24h]))"),
            steps=_ANY,
            decimals=0,
            span=3,
        ),
        now(
            "Self-tests failed, 24 hours",
            "Golden samples that were answered otherwise than they were validated. Normal is none.",
            "short",
            query_now("sum(increase(inspect_self_test_failures_total[24h]))"),
            steps=_ANY,
            decimals=0,
            span=3,
        ),
        now(
            "Drift",
            "Highest level of the recipes; 1 is an alarm, 0.15 to 0.4 is usual. See docs/monitoring.md.",
            "short",
            query_now('max(inspect_score_drift{recipe=~"$recipe"})'),
            steps=((None, GOOD), (0.8, CAUTION), (1, BAD)),
            decimals=2,
            span=3,
        ),
        now(
            "Archive",
            "Share of its room that kept images take. When it is full, the oldest make room.",
            "percentunit",
            query_now("max(inspect_archive_bytes / (inspect_archive_limit_bytes > 0))"),
            steps=((None, GOOD), (0.9, CAUTION)),
            decimals=1,
            span=3,
        ),
    )
    for panel in panels:
        made.with_panel(panel)


def _latency(made: dashboards.Dashboard) -> None:
    made.with_row(row("Latency"))
    made.with_panel(
        over_time(
            "Answered within",
            "From arrival to the recorded verdict, over 5 minutes: the middle request, and 95 and 99 of 100.",
            "s",
            query('stage:inspect_stage_seconds:p50_rate5m{stage="total"}', "median"),
            query('stage:inspect_stage_seconds:p95_rate5m{stage="total"}', "95 of 100"),
            query('stage:inspect_stage_seconds:p99_rate5m{stage="total"}', "99 of 100"),
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "95 of 100 by stage",
            "Which stage takes the time: decoding, waiting for a session, the network, the record on disk.",
            "s",
            query('stage:inspect_stage_seconds:p95_rate5m{stage!="total"}', "{{stage}}"),
            span=8,
        )
    )
    made.with_panel(
        buckets(
            "Time to a verdict",
            "Every request by how long it took. Two clouds mean two kinds of requests, or something that comes and "
            "goes.",
            "s",
            'sum by (le) (increase(inspect_stage_seconds_bucket{stage="total"}[$__rate_interval]))',
            span=8,
        )
    )


def _load(made: dashboards.Dashboard) -> None:
    made.with_row(row("Load"))
    made.with_panel(
        over_time(
            "Queue",
            "Frames that wait for a session, the most in each span, and how many may: more are refused.",
            "short",
            query("max(max_over_time(inspect_queue_depth[$__rate_interval]))", "waiting"),
            query("max(inspect_queue_limit)", "limit"),
            span=8,
            dashed=["limit"],
        )
    )
    made.with_panel(
        buckets(
            "Batch sizes",
            "Frames computed together. On a CPU every frame is alone; on a GPU a batch is what arrived while the last "
            "one ran.",
            "short",
            "sum by (le) (increase(inspect_batch_size_bucket[$__rate_interval]))",
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "Deadlines missed and requests refused",
            "A minute. Both mean that more comes than can be inspected, or that something is slow. Normal is none.",
            "short",
            query("60 * sum(rate(inspect_deadline_missed_total[$__rate_interval]))", "deadline missed"),
            query(f"60 * (sum(rate({_REFUSED}[$__rate_interval])) or vector(0))", "refused"),
            colors={"deadline missed": BAD, "refused": CAUTION},
            span=8,
        )
    )


def _runtime(made: dashboards.Dashboard) -> None:
    made.with_row(row("Runtime"))
    made.with_panel(
        rows(
            "What runs the network",
            "Each loaded bundle with the provider that really runs it. CPUExecutionProvider where a GPU was asked for "
            "is the alert CpuFallback.",
            query_rows("inspect_runtime_info"),
            columns={"model": "Bundle", "version": "Version", "provider": "Provider", "precision": "Precision"},
            span=8,
        )
    )
    made.with_panel(
        rows(
            "Recipes in service",
            "By which version of which recipe is inspected, with which bundle, and since when this process does.",
            query_rows('1000 * inspect_recipe_activated_timestamp_seconds{recipe=~"$recipe"}'),
            columns={"recipe": "Recipe", "version": "Version", "bundle": "Bundle", "Value": "Since"},
            unit="dateTimeAsLocal",
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "Restarts",
            "Processes that ended and were started again, in the hour before. Normal is none.",
            "short",
            query("sum by (process) (increase(inspect_worker_restarts_total[1h]))", "{{process}}"),
            span=8,
            steps=((None, "transparent"), (1, BAD)),
        )
    )
    made.with_panel(
        over_time(
            "CPU of the process",
            "Cores that the process with the network keeps busy.",
            "short",
            query(f"rate(process_cpu_seconds_total{_PROCESS}[$__rate_interval])", "cores"),
        )
    )
    made.with_panel(
        over_time(
            "Memory of the process",
            "Resident memory of the process with the network. It grows with the bundles in service, and not with time.",
            "bytes",
            query(f"process_resident_memory_bytes{_PROCESS}", "resident"),
        )
    )


def _trust(made: dashboards.Dashboard) -> None:
    made.with_row(row("Whether the verdicts can be trusted"))
    made.with_panel(
        over_time(
            "Drift by recipe",
            "Distance from the calibration: 1 is an alarm, between 0.15 and 0.4 is usual; see docs/monitoring.md.",
            "short",
            query('inspect_score_drift{recipe=~"$recipe"}', "{{recipe}}"),
            steps=((None, "transparent"), (1, BAD)),
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "Self-tests failed",
            "Golden samples answered wrongly in service, in the hour before. Normal is none.",
            "short",
            query("sum(increase(inspect_self_test_failures_total[1h]))", "failed"),
            steps=((None, "transparent"), (1, BAD)),
            span=8,
        )
    )
    made.with_panel(
        rows(
            "Alerts",
            "What fires or is about to; docs/alerts.md has a section for each.",
            query_rows("ALERTS"),
            columns={
                "alertname": "Alert",
                "alertstate": "State",
                "severity": "Severity",
                "recipe": "Recipe",
                "station": "Station",
            },
            span=8,
        )
    )


def _storage(made: dashboards.Dashboard) -> None:
    made.with_row(row("Archive and disk"))
    made.with_panel(
        over_time(
            "Room of the archive",
            "What kept images and maps take, and may take. At the limit the oldest make room, passes first.",
            "bytes",
            query("inspect_archive_bytes", "taken"),
            query("inspect_archive_limit_bytes", "limit"),
            dashed=["limit"],
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "Images not kept",
            "A minute, by reason; 1 for the time in which keeping is paused since the disk is full or fails.",
            "short",
            query("60 * sum by (reason) (rate(inspect_archive_dropped_total[$__rate_interval]))", "{{reason}}"),
            query("max(inspect_archive_paused)", "keeping is paused"),
            colors={"keeping": BAD, "no_room": NEUTRAL},
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "Room on the disk",
            "Of records and images. The archive leaves 1 GiB free, unless set otherwise; below 0.5 GiB is the alert "
            "DiskNearlyFull: without room for the record there is no verdict.",
            "bytes",
            query("inspect_disk_free_bytes", "free"),
            steps=((None, BAD), (_GIB / 2, "transparent")),
            span=8,
        )
    )
