import re
from pathlib import Path

import pytest
from debian_packages import NEWER, RELEASE, run
from monitoring_programs import MONITORING, Programs, programs

pytestmark = pytest.mark.station
CASES = Path(__file__).with_name("alerts_test.yml")


@pytest.fixture(params=[RELEASE, NEWER])
def tools(request: pytest.FixtureRequest) -> Programs:
    return programs(request.param)


def test_prometheus_takes_its_configuration(tools: Programs) -> None:
    run(tools.promtool, "check", "config", "--syntax-only", MONITORING / "prometheus" / "prometheus.yml")


def test_prometheus_takes_its_rules(tools: Programs) -> None:
    rules = sorted((MONITORING / "prometheus" / "rules").glob("*.yml"))
    assert len(rules) == 2
    run(tools.promtool, "check", "rules", *rules)


def test_alertmanager_takes_its_configuration(tools: Programs) -> None:
    run(tools.amtool, "check-config", MONITORING / "alertmanager" / "alertmanager.yml")


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [("severity=critical", "urgent"), ("severity=warning", "soon"), ("severity=info", "shown")],
)
def test_alerts_go_to_whom_they_concern(tools: Programs, labels: str, receiver: str) -> None:
    file = MONITORING / "alertmanager" / "alertmanager.yml"
    assert run(tools.amtool, "config", "routes", "test", f"--config.file={file}", labels).strip() == receiver


def test_each_alert_fires_when_it_should_and_only_then(tools: Programs) -> None:
    run(tools.promtool, "test", "rules", CASES)


def test_each_alert_has_a_case_of_either_kind() -> None:
    alerts = re.findall(r"- alert: (\w+)", (MONITORING / "prometheus" / "rules" / "alerts.yml").read_text())
    checked = re.findall(r'alertname="(\w+)".*\n.*\n +exp_samples: \[(.*)\]', CASES.read_text())
    assert {alert for alert, samples in checked if samples} == set(alerts)
    assert {alert for alert, samples in checked if not samples} == set(alerts)
