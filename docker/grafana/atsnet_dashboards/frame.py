"""What is marked in every panel of a dashboard, and the frame that all dashboards share."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from atsnet_dashboards.style import SOURCE, choice, link

TAG: Final = "atsnet"


class PrometheusAnnotation(models.AnnotationQuery):
    """An annotation with what Prometheus's own query has beside the common members, which the SDK does not know.

    Args:
        name: What its switch says.
        expr: PromQL; a mark wherever it is 1 or, with `at_value`, at the time that is its value, in milliseconds.
        title: Of a mark, with labels in double braces.
        text: Likewise.
        color: Of the marks.
        at_value: Whether the value is the time.
    """

    def __init__(self, name: str, expr: str, title: str, text: str, color: str, *, at_value: bool = False) -> None:
        super().__init__(name=name, datasource=SOURCE, enable=True, icon_color=color, expr=expr)
        self._title, self._text, self._at_value = title, text, at_value

    def to_json(self) -> dict[str, object]:
        """Its members."""
        own = {"titleFormat": self._title, "textFormat": self._text, "step": "15s", "useValueForTime": self._at_value}
        return {**super().to_json(), **own}


class _Made(Builder[models.AnnotationQuery]):
    """A builder of what is built already, which is all that a dashboard's builder takes."""

    def __init__(self, made: models.AnnotationQuery) -> None:
        self._made = made

    def build(self) -> models.AnnotationQuery:
        return self._made


SWAPS: Final = PrometheusAnnotation(
    "Versions in service",
    'inspect_recipe_activated_timestamp_seconds{recipe=~"$recipe"} * 1000',
    "{{recipe}} version {{version}}",
    "inspects with {{bundle}}",
    "purple",
    at_value=True,
)
ALERTS: Final = PrometheusAnnotation(
    "Alerts",
    'ALERTS{alertstate="firing", severity=~"warning|critical"}',
    "{{alertname}}",
    "{{severity}} {{recipe}} {{station}}",
    "red",
)


def frame(title: str, uid: str, description: str, other: str, other_uid: str) -> dashboards.Dashboard:
    """A dashboard without panels yet.

    Args:
        title: Its title.
        uid: What links know it by.
        description: What it is for.
        other: Title of the dashboard beside it.
        other_uid: What links know that one by.
    """
    beside = link(other, f"/d/{other_uid}").target_blank(False).keep_time(True).include_vars(True)
    return (
        dashboards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .readonly()
        .with_variable(choice("recipe", "Recipe", "What parts are inspected by", "inspect_verdicts_total"))
        .with_variable(choice("station", "Station", "Where parts are inspected", "inspect_requests_total"))
        .annotation(_Made(SWAPS))
        .annotation(_Made(ALERTS))
        .link(beside)
    )
