"""Every expression that dashboards and rules ask Prometheus, read from the files that Grafana and Prometheus read."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

_DOCKER: Final = Path(__file__).resolve().parents[2]
DASHBOARDS: Final = _DOCKER / "grafana" / "dashboards"
RULES: Final = _DOCKER / "prometheus" / "rules"

_LABEL_VALUES: Final = re.compile(r"label_values\((.+), (\w+)\)")
_QUOTED_OR_NESTED: Final = re.compile(r'"[^"]*"|[(){}\[\]]')
_OPERATORS: Final = re.compile(r"\s(?:and|or|unless)(?: on \(\w*\))?\s|\s(?:==|!=|>=|<=|>|<)\s")


@dataclass(frozen=True, slots=True)
class Expression:
    """A question to Prometheus.

    Args:
        where: Dashboard and panel, or group and rule.
        text: PromQL, with Grafana's variables in that of a dashboard.
        legend: How its series are named, if at all.
    """

    where: str
    text: str
    legend: str = ""

    def filled_in(self, interval: str) -> str:
        """PromQL as Grafana asks it with everything chosen and a span of `interval` between two points."""
        every = self.text.replace("$__rate_interval", interval)
        return re.sub(r"\$(recipe|station)\b", ".*", every)


def load_dashboards() -> dict[str, dict[str, Any]]:
    """The committed dashboards by their titles."""
    loaded = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json")))
    return {dashboard["title"]: dashboard for dashboard in loaded}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, without its headings."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def of_dashboards() -> list[Expression]:
    """Those of all panels, variables and annotations."""
    found = []
    for title, dashboard in load_dashboards().items():
        for panel in panels(dashboard):
            where = f"{title}: {panel['title']}"
            found += [Expression(where, one["expr"], one.get("legendFormat", "")) for one in panel["targets"]]
        for one in dashboard["annotations"]["list"]:
            found.append(Expression(f"{title}: annotation {one['name']}", one["expr"]))
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                asked = _LABEL_VALUES.fullmatch(variable["query"]["query"])
                assert asked is not None, variable
                found.append(Expression(f"{title}: variable {variable['name']}", f"count by ({asked[2]}) ({asked[1]})"))
    return found


def load_rules() -> list[dict[str, Any]]:
    """All rules, recording ones and alerts, with their group's name as `group`."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULES.glob("*.yml"))]
    return [{**rule, "group": group["name"]} for file in files for group in file["groups"] for rule in group["rules"]]


def of_rules() -> list[Expression]:
    """Those of all rules; of an alert, whose whole is empty while all is well, each operand by itself."""
    found = []
    for rule in load_rules():
        if "record" in rule:
            found.append(Expression(f"{rule['group']}: {rule['record']}", rule["expr"]))
        else:
            found += [Expression(f"{rule['group']}: {rule['alert']}", one) for one in operands(rule["expr"])]
    return found


def operands(expression: str) -> list[str]:
    """What an expression compares or joins, outside of any bracket; numbers are left out."""
    depths, depth, at = [], 0, 0
    for token in _QUOTED_OR_NESTED.finditer(expression):
        depths += [depth] * (token.start() - at)
        at = token.end()
        if token[0] in "([{":
            depth += 1
        depths += [max(depth, 1)] * len(token[0])
        if token[0] in ")]}":
            depth -= 1
    depths += [depth] * (len(expression) - at)
    parts, begin = [], 0
    for operator in _OPERATORS.finditer(expression):
        if depths[operator.start()] == 0:
            parts.append(expression[begin : operator.start()])
            begin = operator.end()
    parts.append(expression[begin:])
    return [part.strip() for part in parts if not re.fullmatch(r"[\d.*\s]+", part)]
