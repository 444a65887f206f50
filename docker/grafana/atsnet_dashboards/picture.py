"""Draw what the panels of the dashboards show, from a Prometheus, where no Grafana runs.

    python -m atsnet_dashboards.picture --prometheus http://127.0.0.1:9090 --minutes 15 --out docs/images

A picture is not Grafana's: the panels' own expressions are asked, and their data drawn in the dashboard's order.
"""

import argparse
import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from atsnet_dashboards.expressions import Expression, load_dashboards
from atsnet_dashboards.history import Examples, History, Series, day

_CELL_INCHES: Final = (0.62, 0.34)
_PALETTE: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#8ab8ff", "#ff7383")
_COLORS: Final = {"green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "blue": "#5794f2"}
_INK, _FAINT, _PAPER, _CARD, _MARK = "#d8d9da", "#8e9196", "#111217", "#1f2128", "#b877d9"
_STYLE: Final[Any] = {
    "axes.edgecolor": "#3a3d45",
    "axes.facecolor": _CARD,
    "axes.labelcolor": _FAINT,
    "figure.facecolor": _PAPER,
    "font.size": 8,
    "grid.color": "#32353d",
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
}


def formatted(value: float, unit: str, now: float = 0.0) -> str:
    """A figure with its unit, as Grafana shows it."""
    if math.isnan(value):
        return "none"
    match unit:
        case "percentunit":
            return f"{value:.1%}"
        case "s":
            return _duration(value)
        case "bytes":
            scale = min(4, int(math.log(max(value, 1), 1024)))
            return f"{value / 1024**scale:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[scale]}"
        case "dateTimeFromNow":
            return f"{_duration(now - value / 1000)} ago"
        case "dateTimeAsLocal":
            return f"{datetime.fromtimestamp(value / 1000):%F %T}"
        case _:
            return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 90 else f"{seconds / 60:.3g} min"


def draw(dashboard: dict[str, Any], history: History) -> Figure:
    """A dashboard's data, every panel in its place; a row without any data is left out."""
    rows = _rows(dashboard, history)
    width, height = 24, sum(1 + _depth(panels) for _, panels in rows) + 1
    figure = Figure(figsize=(width * _CELL_INCHES[0], height * _CELL_INCHES[1]))
    begin, end = (datetime.fromtimestamp(moment) for moment in history.span)
    marks = [mark for annotation in dashboard["annotations"]["list"] for mark in history.marks(annotation)]
    figure.text(0.008, 1 - 0.7 / height, f"{dashboard['title']}", size=15, weight="bold", va="center")
    figure.text(0.992, 1 - 0.7 / height, f"{begin:%F %H:%M} to {end:%H:%M}", color=_FAINT, ha="right", va="center")
    top = 1.0
    for title, panels in rows:
        figure.text(0.008, 1 - (top + 0.5) / height, title, size=10, color=_FAINT, va="center")
        for panel, data in panels:
            place = panel["gridPos"]
            bottom = top + 1 + place["y"] - panels[0][0]["gridPos"]["y"] + place["h"]
            box = (place["x"] / width, 1 - bottom / height, place["w"] / width, place["h"] / height)
            axes = _panel(figure, box, panel, data, history)
            if axes is not None:
                for mark in marks:
                    axes.axvline(mark, color=_MARK, lw=1, ls=":")
        top += 1 + _depth(panels)
    return figure


def _depth(panels: Sequence[tuple[dict[str, Any], Any]]) -> int:
    places = [panel["gridPos"] for panel, _ in panels]
    return int(max(place["y"] + place["h"] for place in places) - places[0]["y"])


def _rows(dashboard: dict[str, Any], history: History) -> list[tuple[str, list[tuple[dict[str, Any], Any]]]]:
    rows: list[tuple[str, list[tuple[dict[str, Any], Any]]]] = []
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            rows.append((panel["title"], []))
            continue
        asked = [Expression(panel["title"], one["expr"], one.get("legendFormat", "")) for one in panel["targets"]]
        ask = history.now if panel["type"] in ("stat", "table") else history.over_time
        rows[-1][1].append((panel, [one for question in asked for one in ask(question)]))
    return [(title, panels) for title, panels in rows if any(data for _, data in panels)]


def _panel(
    figure: Figure, box: tuple[float, float, float, float], panel: dict[str, Any], data: Any, history: History
) -> Axes | None:
    """Draw a panel; its axes, if time is one of them."""
    x, y, wide, high = box
    gap, inch = 0.004, 1 / figure.get_figheight()
    card = figure.add_axes((x + gap / 2, y + gap * inch * 4, wide - gap, high - gap * inch * 8))
    card.set_xticks([])
    card.set_yticks([])
    heading = 0.22 * inch
    figure.text(
        x + 0.008,
        y + high - heading * 0.75,
        panel["title"],
        size=8.5 if panel["gridPos"]["w"] > 3 else 7.5,
        weight="bold",
        va="center",
    )
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    if not data:
        card.text(0.5, 0.45, "none", ha="center", va="center", size=13, color=_FAINT)
    elif panel["type"] == "stat":
        _figure(card, panel, data, unit)
    elif panel["type"] == "table":
        _table(card, panel, data, history.span[1])
    else:
        inner = (x + 0.048, y + 0.56 * inch, wide - 0.06, high - 0.56 * inch - heading * 1.7)
        axes = figure.add_axes(inner)
        begin, end = (day(moment) for moment in history.span)
        axes.set_xlim(begin, end)
        locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        asked = [Expression(panel["title"], one["expr"]) for one in panel["targets"] if one.get("exemplar")]
        examples = [example for one in asked for example in history.examples(one)]
        (_heatmap if panel["type"] == "heatmap" else _lines)(axes, panel, data, unit, examples)
        return axes
    return None


def _figure(card: Axes, panel: dict[str, Any], data: Sequence[tuple[dict[str, str], float]], unit: str) -> None:
    value = data[0][1]
    defaults = panel["fieldConfig"]["defaults"]
    color = next(
        (step["color"] for step in reversed(defaults["thresholds"]["steps"]) if value >= (step["value"] or -math.inf)),
        "blue",
    )
    words = {name: told["text"] for one in defaults.get("mappings") or [] for name, told in one["options"].items()}
    text = words.get(f"{value:g}") or formatted(value, unit)
    card.text(0.5, 0.42, text, ha="center", va="center", size=17, weight="bold", color=_COLORS.get(color, _INK))


def _table(card: Axes, panel: dict[str, Any], data: Sequence[tuple[dict[str, str], float]], now: float) -> None:
    shown = panel["transformations"][0]["options"]["renameByName"]
    units = [one["properties"][0]["value"] for one in panel["fieldConfig"].get("overrides", [])]
    size = 8 if len(shown) < 4 else 7
    order = sorted(data, key=lambda row: -row[1])[:6]
    columns = panel["transformations"][0]["options"]["indexByName"]
    for label, column in columns.items():
        left = 0.03 + column * 0.97 / len(shown)
        card.text(left, 0.78, shown[label], color=_FAINT, size=size, va="center")
        for line, (labels, value) in enumerate(order):
            text = formatted(value, units[0], now) if label == "Value" else labels.get(label, "")
            card.text(left, 0.66 - 0.11 * line, text, size=size, va="center")


def _lines(axes: Axes, panel: dict[str, Any], data: Series, unit: str, examples: Examples) -> None:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    overrides = {one["matcher"]["options"].strip("/"): one for one in panel["fieldConfig"].get("overrides", [])}
    colors, dashed = [], []
    for index, (name, _, _) in enumerate(data):
        own: list[dict[str, Any]] = next(
            (one["properties"] for start, one in overrides.items() if re.match(start, name)), []
        )
        told = {one["id"]: one["value"] for one in own}
        color = told.get("color", {}).get("fixedColor", _PALETTE[index % len(_PALETTE)])
        colors.append(_COLORS.get(color, color))
        dashed.append("custom.lineStyle" in told)
    if custom.get("stacking", {}).get("mode") == "normal":
        moments = sorted({moment for _, at, _ in data for moment in at})
        layers = [[dict(zip(at, values, strict=True)).get(moment, 0.0) for moment in moments] for _, at, values in data]
        axes.stackplot(moments, layers, labels=[name for name, _, _ in data], colors=colors, alpha=0.75)
    else:
        for (name, at, values), color, limit in zip(data, colors, dashed, strict=True):
            axes.plot(at, values, label=name, color=color, lw=1 if limit else 1.4, ls="--" if limit else "-")
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    lines = [step["value"] for step in steps[1:]]
    for value in lines:
        axes.axhline(value, color=_COLORS["red"], lw=1, ls=(0, (6, 4)))
    most = max((value for _, _, values in data for value in values if math.isfinite(value)), default=0)
    axes.set_ylim(0, axes.get_ylim()[1] if most > 0 else 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, unit)))
    axes.plot(*zip(*examples, strict=True) if examples else ([], []), ".", color=_COLORS["red"], ms=4)
    axes.locator_params(axis="y", nbins=6)
    axes.set_axisbelow(True)
    axes.grid(axis="y", lw=0.5)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.03, -0.12),
        ncols=4 if panel["gridPos"]["w"] > 8 else 3,
        frameon=False,
        fontsize=7,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0,
    )


def _heatmap(axes: Axes, panel: dict[str, Any], data: Series, unit: str, examples: Examples) -> None:
    buckets = sorted(((math.inf if name == "+Inf" else float(name), at, values) for name, at, values in data))
    moments = sorted({moment for _, at, _ in buckets for moment in at})
    cumulated = np.array(
        [[dict(zip(at, values, strict=True)).get(m, 0.0) for m in moments] for _, at, values in buckets]
    )
    counts = np.maximum(np.diff(cumulated, axis=0, prepend=0), 0)
    filled = np.flatnonzero(counts.sum(axis=1))
    first, last = max(0, filled[0] - 1), min(len(buckets), filled[-1] + 2)
    shown = np.ma.masked_equal(counts[first:last], 0)
    edges = np.arange(first, last + 1)
    axes.pcolormesh(
        [*moments, moments[-1] + (moments[-1] - moments[-2])], edges, np.sqrt(shown), cmap="Blues_r", vmin=0
    )
    bounds = ["0", *("∞" if math.isinf(le) else formatted(le, unit) for le, _, _ in buckets)]
    axes.set_yticks(edges, [bounds[edge] for edge in edges], size=7)
    if panel["title"].startswith("Scores"):
        threshold = next(index for index, (le, _, _) in enumerate(buckets) if le == 1.0) + 1
        axes.axhline(threshold, color=_COLORS["red"], lw=1, ls=(0, (6, 4)))
        upper = [0.0, *(min(le, 100.0) for le, _, _ in buckets)]
        places = [(day, np.interp(value, upper, np.arange(len(upper)))) for day, value in examples]
        axes.plot(*zip(*places, strict=True) if places else ([], []), ".", color=_COLORS["red"], ms=4)


def main() -> None:
    """Draw every dashboard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="where Prometheus listens")
    parser.add_argument("--minutes", type=float, default=15, help="how much is drawn")
    parser.add_argument(
        "--until", type=datetime.fromisoformat, default=datetime.now(), help="where it ends; by default now"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    options = parser.parse_args()
    with httpx.Client(base_url=options.prometheus, timeout=60) as client, mpl.rc_context(_STYLE):
        history = History(client, options.minutes, options.until)
        for title, dashboard in load_dashboards().items():
            file = options.out / f"dashboard-{title.lower()}.png"
            draw(dashboard, history).savefig(file, dpi=110)


if __name__ == "__main__":
    main()
