"""The dashboard *Line*: what is made, what is rejected, and since when."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import dashboard as models

from atsnet_dashboards.frame import frame
from atsnet_dashboards.style import (
    BAD,
    CAUTION,
    FAINT,
    GOOD,
    NEUTRAL,
    VERDICT_COLORS,
    buckets,
    link,
    now,
    over_time,
    query,
    query_now,
    query_rows,
    row,
    rows,
)

UID: Final = "atsnet-line"
TITLE: Final = "Line"

_VERDICTS: Final = 'inspect_verdicts_total{recipe=~"$recipe"}'
_REJECTS: Final = 'inspect_verdicts_total{recipe=~"$recipe", verdict="fail"}'
_REVIEWS: Final = 'inspect_verdicts_total{recipe=~"$recipe", verdict="review"}'
_REQUESTS: Final = 'inspect_requests_total{station=~"$station"}'
_WITHOUT: Final = 'inspect_requests_total{station=~"$station", outcome!~"pass|review|fail|replayed"}'
_FAILED_AT: Final = 'inspect_requests_total{station=~"$station", outcome="fail"}'
_JUDGED_AT: Final = 'inspect_requests_total{station=~"$station", outcome=~"pass|review|fail"}'
_SCORES: Final = 'inspect_score_bucket{recipe=~"$recipe"}'


def dashboard() -> models.Dashboard:
    """The dashboard."""
    about = "What the line makes: throughput, rejects and reviews, scores against the threshold, the last rejects."
    made = frame(TITLE, UID, about, "Station", "atsnet-station").with_variable(_service())
    for add in (_at_a_glance, _throughput, _verdicts, _scores, _last):
        add(made)
    return made.build()


def _service() -> dashboards.TextBoxVariable:
    address = "http://127.0.0.1:8000"
    return (
        dashboards.TextBoxVariable("service")
        .label("Service")
        .description("Address of the inspection service as your browser reaches it, for links to records")
        .default_value(address)
        .current(models.VariableOption(selected=True, text=address, value=address))
    )


def _at_a_glance(made: dashboards.Dashboard) -> None:
    made.with_row(row("At a glance"))
    made.with_panel(
        now(
            "Parts a minute, now",
            "Verdicts of the last minute, replays not counted. Red: nothing comes.",
            "short",
            query_now('sum(recipe:inspect_parts_per_minute:rate1m{recipe=~"$recipe"})'),
            steps=((None, BAD), (0.1, GOOD)),
            decimals=1,
        )
    )
    made.with_panel(
        now(
            "Reject ratio, 5 minutes",
            "Share of the verdicts that are `fail`. What is too much depends on the product: the alert RejectRateJump "
            "compares with the hour before.",
            "percentunit",
            query_now(f"sum(rate({_REJECTS}[5m])) / (sum(rate({_VERDICTS}[5m])) > 0)"),
            steps=((None, GOOD), (0.05, CAUTION), (0.2, BAD)),
            decimals=2,
        )
    )
    made.with_panel(
        now(
            "Review ratio, 5 minutes",
            "Share of the verdicts that a person has to look at.",
            "percentunit",
            query_now(f"sum(rate({_REVIEWS}[5m])) / (sum(rate({_VERDICTS}[5m])) > 0)"),
            steps=((None, GOOD), (0.05, CAUTION), (0.2, BAD)),
            decimals=2,
        )
    )
    made.with_panel(
        now(
            "Without a verdict, 5 minutes",
            "Share of the requests that ended in an error, a refusal or too late. Each such part counts as a reject; "
            "normal is none.",
            "percentunit",
            query_now(
                f"(sum(rate({_WITHOUT}[5m])) or vector(0)) / (sum(rate({_REQUESTS}[5m])) > 0)",
            ),
            steps=((None, GOOD), (0.001, CAUTION), (0.05, BAD)),
            decimals=2,
        )
    )
    made.with_panel(
        now(
            "Since the last reject",
            "A long time is good, or a sign that the inspection sees nothing: the alert NoRejects tells after 4 hours.",
            "s",
            query_now('time() - max(inspect_last_reject_timestamp_seconds{recipe=~"$recipe", station=~"$station"})'),
            steps=((None, NEUTRAL), (14_400, CAUTION)),
            decimals=0,
        )
    )
    made.with_panel(
        now(
            "Alerts",
            "Alerts that fire now; docs/alerts.md has a section for each.",
            "short",
            query_now('count(ALERTS{alertstate="firing", severity=~"warning|critical"}) or vector(0)'),
            steps=((None, GOOD), (1, BAD)),
        )
    )


def _throughput(made: dashboards.Dashboard) -> None:
    made.with_row(row("Throughput and rejects"))
    made.with_panel(
        over_time(
            "Parts a minute",
            "Verdicts by recipe, replays not counted.",
            "short",
            query('recipe:inspect_parts_per_minute:rate1m{recipe=~"$recipe"}', "{{recipe}}"),
            stacked=True,
        )
    )
    made.with_panel(
        over_time(
            "Reject ratio against its control limit",
            "Share of `fail` in 5 minutes and in an hour. Above the dashed limit it is more than chance explains, "
            "given the hour before and so many parts: five standard deviations, the alert RejectRateJump.",
            "percentunit",
            query('recipe:inspect_rejects:ratio_rate5m{recipe=~"$recipe"}', "{{recipe}} 5 min"),
            query('recipe:inspect_rejects:ratio_rate1h{recipe=~"$recipe"}', "{{recipe}} 1 h"),
            query('recipe:inspect_rejects:ratio_limit5m{recipe=~"$recipe"}', "limit of {{recipe}}"),
            dashed=["limit of"],
        )
    )


def _verdicts(made: dashboards.Dashboard) -> None:
    made.with_row(row("Verdicts"))
    made.with_panel(
        over_time(
            "Verdicts by recipe",
            "Parts a minute by what became of them.",
            "short",
            query(f"60 * sum by (recipe, verdict) (rate({_VERDICTS}[$__rate_interval]))", "{{verdict}} {{recipe}}"),
            colors=VERDICT_COLORS,
            stacked=True,
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "Requests by station",
            "Requests a minute, whatever became of them, replays included. A station that falls to 0 while others go "
            "on is the alert StationSilent.",
            "short",
            query(f"60 * sum by (station) (rate({_REQUESTS}[$__rate_interval]))", "{{station}}"),
            stacked=True,
            span=8,
        )
    )
    made.with_panel(
        over_time(
            "Reject ratio by station",
            "Share of `fail` in 5 minutes. One station that differs from the others has a lamp, a lens or a holder "
            "that does.",
            "percentunit",
            query(
                f"(sum by (station) (rate({_FAILED_AT}[5m])) or 0 * sum by (station) (rate({_JUDGED_AT}[5m])))"
                f" / (sum by (station) (rate({_JUDGED_AT}[5m])) > 0)",
                "{{station}}",
            ),
            span=8,
        )
    )


def _scores(made: dashboards.Dashboard) -> None:
    made.with_row(row("Scores"))
    made.with_panel(
        buckets(
            "Scores against the threshold",
            "Calibrated scores; from 1.0, the shipped threshold, on a part is rejected. Good parts and rejects are two "
            "clouds with room between them. A dot is one inspection that did not pass; it leads to its record.",
            "short",
            f"sum by (le) (increase({_SCORES}[$__rate_interval]))",
            exemplars=True,
        )
    )
    made.with_panel(
        over_time(
            "Scores: median, 95 and 99 of 100",
            "Interpolated within the buckets. The median wanders with parts, light and focus; the 99th of a good line "
            "stays below the threshold of 1.0, the dashed line. A dot is one inspection that did not pass.",
            "short",
            *(
                query(
                    f"histogram_quantile({share}, sum by (le) (rate({_SCORES}[$__rate_interval])))",
                    name,
                    exemplars=share == 0.99,
                )
                for share, name in ((0.5, "median"), (0.95, "95 of 100"), (0.99, "99 of 100"))
            ),
            steps=((None, "transparent"), (1.0, BAD)),
        )
    )


def _last(made: dashboards.Dashboard) -> None:
    made.with_row(row("Last rejects and what had no verdict"))
    records = "${service}/v1/inspections?verdict=fail&recipe=${__data.fields.Recipe}&station=${__data.fields.Station}"
    made.with_panel(
        rows(
            "Last reject by recipe and station",
            "When a part was last rejected, since the service started. The link lists the records; where the service "
            "asks for keys, use it with one of the role operator.",
            query_rows('1000 * inspect_last_reject_timestamp_seconds{recipe=~"$recipe", station=~"$station"}'),
            columns={"recipe": "Recipe", "station": "Station", "Value": "Last reject"},
            unit="dateTimeFromNow",
            links=[link("Records of these rejects", records)],
        )
    )
    made.with_panel(
        over_time(
            "Requests without a verdict",
            "A minute, by what became of them: the names are those of the error table in docs/line-integration.md. "
            "Normal is none.",
            "short",
            query(f"60 * sum by (outcome) (rate({_WITHOUT}[$__rate_interval]))", "{{outcome}}"),
            colors={"client-gone": FAINT, "deadline-passed": BAD, "failed": BAD},
            stacked=True,
        )
    )
