"""The house's style: what every panel of one kind has in common."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="prometheus")
"""As `provisioning/datasources/prometheus.yml` names it."""

GOOD: Final = "green"
CAUTION: Final = "yellow"
BAD: Final = "red"
NEUTRAL: Final = "blue"
FAINT: Final = "#8e8e8e"
VERDICT_COLORS: Final = {"pass": GOOD, "review": CAUTION, "fail": BAD}

_FILLED: Final = 10

Steps = Sequence[tuple[float | None, str]]
"""Thresholds: a color from each value on; the first value is None, from minus infinity on."""
PLAIN: Final[Steps] = ((None, NEUTRAL),)


def query(expr: str, legend: str = "", *, exemplars: bool = False) -> prometheus.Dataquery:
    """What is drawn over time.

    Args:
        expr: PromQL.
        legend: Of each series, with its labels in double braces.
        exemplars: Whether single inspections are drawn beside the figures, each with a link to its record.
    """
    return prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).range().exemplar(exemplars)


def query_now(expr: str, legend: str = "") -> prometheus.Dataquery:
    """What is shown as it is now."""
    return prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).instant()


def query_rows(expr: str) -> prometheus.Dataquery:
    """What is shown as it is now, a row for each series with a column for each label."""
    return query_now(expr).format(prometheus_models.PromQueryFormat.TABLE)


def query_buckets(expr: str) -> prometheus.Dataquery:
    """Buckets of a histogram over time; the expression keeps `le`."""
    return query(expr, "{{le}}").format(prometheus_models.PromQueryFormat.HEATMAP)


def over_time(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    span: int = 12,
    steps: Steps = PLAIN,
    colors: Mapping[str, str] | None = None,
    stacked: bool = False,
    dashed: Sequence[str] = (),
    least: float | None = 0,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title: What is seen.
        description: What it means, and what is normal.
        unit: One of Grafana's.
        queries: What is drawn.
        span: Width, of 24.
        steps: Thresholds; with more than one, each is a dashed line.
        colors: Of series, by what their names begin with.
        stacked: Whether the series are parts of one sum.
        dashed: What names of series begin with that are limits rather than measured.
        least: Where the axis begins; None follows the data.
        most: Where it ends; None follows the data.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .span(span)
        .height(8)
        .line_width(2)
        .line_interpolation(common.LineInterpolation.LINEAR)
        .fill_opacity(60 if stacked else _FILLED)
        .show_points(common.VisibilityMode.NEVER)
        .thresholds(_thresholds(steps))
        .color_scheme(dashboards.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
        .legend(
            common_builders.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )
    if len(steps) > 1:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    for name, color in (colors or {}).items():
        panel.override_by_regexp(f"/^{name}/", [_fixed_color(color)])
    for name in dashed:
        stroke = {"fill": "dash", "dash": [8, 6]}
        properties = {"custom.lineStyle": stroke, "custom.fillOpacity": 0, "custom.lineWidth": 1}
        panel.override_by_regexp(f"/^{name}/", [*_values(properties), _fixed_color(FAINT)])
    for one in queries:
        panel.with_target(one)
    return panel


def now(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    steps: Steps,
    span: int = 4,
    decimals: int | None = None,
    words: Mapping[str, tuple[str, str]] | None = None,
    names: bool = False,
) -> stat.Panel:
    """A figure, large.

    Args:
        title: What is seen.
        description: What it means, and what is normal.
        unit: One of Grafana's.
        queries: What is shown.
        steps: Thresholds, which color it.
        span: Width, of 24.
        decimals: Digits after the point; None chooses by the size.
        words: What stands for a value, and its color.
        names: Whether the series' names are shown beside the figures.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .span(span)
        .height(4)
        .no_value("none")
        .thresholds(_thresholds(steps))
        .color_scheme(dashboards.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME if names else common.BigValueTextMode.VALUE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if decimals is not None:
        panel.decimals(decimals)
    if words:
        options = {
            value: models.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        }
        panel.mappings([models.ValueMap(options=options)])
    for one in queries:
        panel.with_target(one)
    return panel


def buckets(
    title: str, description: str, unit: str, expr: str, *, span: int = 12, exemplars: bool = False
) -> heatmap.Panel:
    """A histogram over time, darker where there is more.

    Args:
        title: What is seen.
        description: What it means, and what is normal.
        unit: Of the buckets, one of Grafana's.
        expr: PromQL that keeps `le`.
        span: Width, of 24.
        exemplars: As `query` has it.
    """
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .span(span)
        .height(8)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(common.AxisPlacement.LEFT))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .exemplars_color("rgba(224, 47, 68, 0.9)")
        .show_y_histogram()
        .with_target(query_buckets(expr).exemplar(exemplars))
    )


def rows(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    columns: Mapping[str, str],
    span: int = 12,
    unit: str = "short",
    links: Sequence[dashboards.DashboardLink] = (),
) -> table.Panel:
    """A table of what is now, a row a series.

    Args:
        title: What is seen.
        description: What it means.
        queries: Each by `query_rows`.
        columns: Headings by labels, in their order; all other labels are left out. `Value` is the value.
        span: Width, of 24.
        unit: Of the value.
        links: Of the value.
    """
    order = {label: index for index, label in enumerate(columns)}
    shown = {"indexByName": order, "renameByName": dict(columns), "includeByName": dict.fromkeys(columns, True)}
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .span(span)
        .height(8)
        .unit("string")
        .no_value("none")
        .transformations([models.DataTransformerConfig(id_val="organize", options=shown)])
    )
    if "Value" in columns:
        heading = columns["Value"]
        panel.override_by_name(heading, _values({"unit": unit, "links": [link.build() for link in links]}))
        panel.sort_by([common_builders.TableSortByFieldState().display_name(heading).desc(True)])
    for one in queries:
        panel.with_target(one)
    return panel


def link(title: str, url: str, tooltip: str = "") -> dashboards.DashboardLink:
    """A link to elsewhere, in a window of its own."""
    return (
        dashboards.DashboardLink(title)
        .type(models.DashboardLinkType.LINK)
        .url(url)
        .tooltip(tooltip or title)
        .target_blank(True)
    )


def choice(name: str, label: str, description: str, metric: str) -> dashboards.QueryVariable:
    """A variable whose values are those of a label; any number of them can be chosen, and all are at first."""
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        dashboards.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query({"query": f"label_values({metric}, {name})", "refId": name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )


def row(title: str) -> dashboards.Row:
    """A heading."""
    return dashboards.Row(title)


def _thresholds(steps: Steps) -> dashboards.ThresholdsConfig:
    return (
        dashboards.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def _fixed_color(color: str) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})


def _values(properties: Mapping[str, Any]) -> list[models.DynamicConfigValue]:
    return [models.DynamicConfigValue(id_val=name, value=value) for name, value in properties.items()]
