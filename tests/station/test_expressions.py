"""Every expression of every dashboard, rule and alert returns data, and alerts arrive: see docs/alerts.md."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import pytest
from atsnet_dashboards import expressions, picture
from debian_packages import NEWER, RELEASE
from running_station import eventually
from watched_line import RECIPE, WatchedLine, shortened, watched_line

pytestmark = [pytest.mark.station, pytest.mark.timeout(600)]
log = logging.getLogger("station")

PATIENCE_S = 180
ASKED = {
    **{f"{one.where}: {one.text}": one.filled_in("20s") for one in expressions.of_dashboards()},
    **{f"{one.where}: {one.text}": shortened(one.text) for one in expressions.of_rules()},
}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedLine]:
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    with watched_line(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


@pytest.fixture(scope="module")
def empty(line: WatchedLine) -> dict[str, set[str]]:
    """What returned no data while parts came, by release, however often it was asked."""
    missing = {release: set(ASKED) for release in line.prometheus}
    begun = time.monotonic()
    while any(missing.values()) and time.monotonic() < begun + PATIENCE_S:
        for release, prometheus in line.prometheus.items():
            missing[release] -= {name for name in missing[release] if prometheus.ask(ASKED[name])}
        time.sleep(1)
    log.info("%d expressions asked, until %.0f s after all had happened", len(ASKED), time.monotonic() - begun)
    return missing


@pytest.mark.parametrize("release", [RELEASE, NEWER])
@pytest.mark.parametrize("name", ASKED)
def test_it_returns_data(empty: dict[str, set[str]], release: str, name: str) -> None:
    assert name not in empty[release], ASKED[name]


@pytest.mark.parametrize("release", [RELEASE, NEWER])
def test_a_reject_among_the_scores_leads_to_its_record(line: WatchedLine, release: str) -> None:
    examples = line.prometheus[release].examples("inspect_score_bucket")
    assert examples
    for example in examples[-5:]:
        record = httpx.get(f"{line.service}/v1/inspections/{example['labels']['inspection_id']}").json()
        assert record["verdict"] == example["labels"]["verdict"] != "pass"
        assert record["score"] == pytest.approx(float(example["value"]), abs=1e-4)


def test_the_dashboards_can_be_drawn(
    line: WatchedLine, empty: dict[str, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(empty.values())
    words = ["--prometheus", line.prometheus[NEWER].url, "--minutes", "2", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["picture", *words])
    picture.main()
    for name in ("dashboard-line.png", "dashboard-station.png"):
        drawn = cv2.imread(str(tmp_path / name))
        assert drawn is not None
        assert drawn.std() > 5


@pytest.mark.parametrize("release", [RELEASE, NEWER])
def test_a_version_that_takes_over_is_marked(line: WatchedLine, release: str) -> None:
    def versions() -> set[str]:
        metric = f'last_over_time(inspect_recipe_activated_timestamp_seconds{{recipe="{RECIPE}"}}[10m])'
        return {one["metric"]["version"] for one in line.prometheus[release].ask(metric)}

    assert eventually(lambda: versions() >= {"1", "2"}), versions()


def test_alerts_arrive(line: WatchedLine) -> None:
    expected = {"CpuFallback", "DeadlineMissed", "GpuError", "Overloaded", "WorkerRestarts"}
    assert eventually(lambda: expected <= line.alerts.keys()), line.alerts.keys()
    log.info("Alertmanager received %s", ", ".join(sorted(line.alerts)))
    fallback = line.alerts["CpuFallback"]
    assert fallback["annotations"]["runbook"] == "docs/alerts.md#cpufallback"
    assert fallback["labels"]["provider"] == "CPUExecutionProvider"
    assert [receiver["name"] for receiver in fallback["receivers"]] == ["soon"]
