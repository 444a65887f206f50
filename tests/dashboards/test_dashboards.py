import csv
import re
from pathlib import Path

import pytest
import yaml
from atsnet_dashboards import expressions
from atsnet_dashboards.__main__ import documents
from grafana_foundation_sdk.models.dashboard import Dashboard

from service.metrics import Limits, Metrics

ROOT = Path(__file__).parents[2]
DASHBOARDS = expressions.load_dashboards()
PANELS = [
    pytest.param(panel, id=f"{title}: {panel['title']}")
    for title, dashboard in DASHBOARDS.items()
    for panel in expressions.panels(dashboard)
]
ASKED = [*expressions.of_dashboards(), *expressions.of_rules()]
OF_PROMETHEUS = {
    "ALERTS",
    "up",
    "prometheus_notifications_dropped_total",
    "prometheus_rule_evaluation_failures_total",
}
METRIC = re.compile(r"\b(?:inspect|process|prometheus)_\w+|\bDCGM_\w+|\b(?:up|ALERTS)\b")


def exposed() -> set[str]:
    """Names of all samples of a service that has started."""
    metrics = Metrics()
    metrics.watch(Limits(1, 1, "cpu"), lambda: True, lambda: 0, lambda: 0, lambda: False, lambda: [], lambda: [])
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"], "gauge": [""]}
    return {f"{one.name}{suffix}" for one in metrics.registry.collect() for suffix in suffixes[one.type]}


def test_what_is_committed_is_what_the_code_makes() -> None:
    made = documents()
    assert {path.name for path in expressions.DASHBOARDS.glob("*.json")} == set(made)
    for name, text in made.items():
        assert (expressions.DASHBOARDS / name).read_text(encoding="utf-8") == text, "make dashboards"


def test_the_schema_reads_them() -> None:
    for title, dashboard in DASHBOARDS.items():
        read = Dashboard.from_json(dashboard)
        assert (read.title, len(read.panels or [])) == (title, len(dashboard["panels"]))


def test_both_dashboards_lead_to_each_other() -> None:
    links = {title: [link["url"] for link in dashboard["links"]] for title, dashboard in DASHBOARDS.items()}
    assert links == {
        "Line": [f"/d/{DASHBOARDS['Station']['uid']}"],
        "Station": [f"/d/{DASHBOARDS['Line']['uid']}"],
    }


def test_titles_are_unique() -> None:
    for dashboard in DASHBOARDS.values():
        titles = [panel["title"] for panel in expressions.panels(dashboard)]
        assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel: dict) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"]
    assert len(panel["description"]) > 10
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert panel["datasource"]["uid"] == "prometheus"
    assert panel["targets"]
    if panel["type"] == "stat":
        steps = defaults["thresholds"]["steps"]
        assert len(steps) >= 2
        assert steps[0]["value"] is None
    if panel["type"] == "timeseries" and len(panel["targets"]) > 1:
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert all(legends)
        assert len(set(legends)) == len(legends)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_panels_fill_their_rows(dashboard: dict) -> None:
    taken = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + line)
        for panel in dashboard["panels"]
        for column in range(panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) == 23
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)


def test_no_part_has_a_series() -> None:
    for asked in ASKED:
        assert not re.search(r"\b(serial|lot|inspection_id)\b", asked.text), asked


def test_every_metric_exists() -> None:
    recorded = {rule["record"] for rule in expressions.load_rules() if "record" in rule}
    with (ROOT / "docker" / "dcgm-counters.csv").open() as file:
        counted = {row[0] for row in csv.reader(file) if row and not row[0].startswith("#")}
    known = exposed() | counted | OF_PROMETHEUS | {"process_start_time_seconds"}
    for asked in ASKED:
        text = re.sub(r'"[^"]*"', '""', asked.text)
        for name in re.findall(r"\w+:\w+:\w+", text):
            assert name in recorded, asked
            text = text.replace(name, "")
        for name in METRIC.findall(text):
            assert name in known, asked


def test_every_record_is_used() -> None:
    asked = " ".join(one.text for one in ASKED)
    for rule in expressions.load_rules():
        if "record" in rule:
            level, metric, operations = rule["record"].split(":")
            assert level
            assert metric.startswith("inspect_")
            assert operations
            assert asked.count(rule["record"]) >= 1, rule["record"]


def test_every_alert_tells_what_to_do() -> None:
    runbook = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    alerts = [rule for rule in expressions.load_rules() if "alert" in rule]
    assert sections == [rule["alert"] for rule in alerts]
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_alertmanager_knows_the_alerts_that_it_inhibits() -> None:
    configured = yaml.safe_load((ROOT / "docker" / "alertmanager" / "alertmanager.yml").read_text())
    alerts = {rule["alert"] for rule in expressions.load_rules() if "alert" in rule}
    matchers = [
        matcher
        for rule in configured["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
    ]
    assert matchers
    for matcher in matchers:
        names = re.fullmatch(r'alertname=~?"([\w|]+)"', matcher)
        assert names is not None, matcher
        assert set(names[1].split("|")) <= alerts


@pytest.mark.parametrize(
    ("whole", "parts"),
    [
        ("up == 0", ["up"]),
        ('sum(rate(a{b=~"x > y"}[5m])) / (sum(c) > 0) > 0.01', ['sum(rate(a{b=~"x > y"}[5m])) / (sum(c) > 0)']),
        ("a < 512 * 1024", ["a"]),
        ("a > b and c >= 50", ["a", "b", "c"]),
        ("a == 0 and on () sum(b > 0) unless on (x) c", ["a", "sum(b > 0)", "c"]),
    ],
)
def test_operands(whole: str, parts: list[str]) -> None:
    assert expressions.operands(whole) == parts
