"""What a Prometheus says about a stretch of time, as a picture needs it."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import httpx
from matplotlib.dates import date2num

from atsnet_dashboards.expressions import Expression

_POINTS: Final = 150

Series = list[tuple[str, list[float], list[float]]]
"""Names, days since 1970 and values."""
Examples = Sequence[tuple[float, float]]
"""Days since 1970 and values."""


class History:
    """A Prometheus, and the time that is drawn.

    Args:
        client: Of the Prometheus, with its address.
        minutes: How long.
        until: When it ends.
    """

    def __init__(self, client: httpx.Client, minutes: float, until: datetime) -> None:
        self._client = client
        self._end = until.timestamp()
        self._begin = self._end - 60 * minutes
        self._step = max(5, round((self._end - self._begin) / _POINTS))

    @property
    def span(self) -> tuple[float, float]:
        """From when to when, seconds since 1970."""
        return self._begin, self._end

    def over_time(self, asked: Expression) -> Series:
        """What an expression says over the time, by the names of its series."""
        about = {"start": self._begin, "end": self._end, "step": self._step}
        found = self._get("query_range", query=asked.filled_in(f"{max(20, self._step)}s"), **about)
        return [
            (named(asked.legend, one["metric"]), [day(at) for at, _ in one["values"]], _floats(one)) for one in found
        ]

    def now(self, asked: Expression) -> list[tuple[dict[str, str], float]]:
        """What an expression says at the end, by labels."""
        found = self._get("query", query=asked.filled_in("20s"), time=self._end)
        return [(one["metric"], float(one["value"][1])) for one in found]

    def examples(self, asked: Expression) -> list[tuple[float, float]]:
        """Single inspections beside a figure: the day and the value of each."""
        about = {"start": self._begin, "end": self._end}
        found = self._get("query_exemplars", query=asked.filled_in("20s"), **about)
        return [(day(one["timestamp"]), float(one["value"])) for series in found for one in series["exemplars"]]

    def marks(self, annotation: dict[str, Any]) -> list[float]:
        """The days that an annotation marks by its value."""
        if not annotation["useValueForTime"]:
            return []
        asked = self.over_time(Expression(annotation["name"], annotation["expr"]))
        return [day(value / 1000) for value in {value for _, _, values in asked for value in values}]

    def _get(self, what: str, **asked: Any) -> list[dict[str, Any]]:
        answer = self._client.get(f"/api/v1/{what}", params=asked)
        answer.raise_for_status()
        data = answer.json()["data"]
        result: list[dict[str, Any]] = data if isinstance(data, list) else data["result"]
        return result


def named(legend: str, labels: dict[str, str]) -> str:
    """A series' name, as Grafana makes it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()


def day(seconds: float) -> float:
    """The day of a time in seconds, both since 1970 in UTC, as it is on this machine's clock."""
    return float(date2num(datetime.fromtimestamp(seconds)))  # type: ignore[no-untyped-call]


def _floats(series: dict[str, Any]) -> list[float]:
    return [float(value) for _, value in series["values"]]
