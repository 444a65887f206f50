import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from serving import DEFECTIVE, GOOD, Line
from ulid import ULID

from service.metrics import Metrics
from service.recipes import Recipe


def samples(line: Line) -> dict[str, float]:
    text = line.http.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(inspect_\S+) (\S+)$", text, re.MULTILINE)}


def test_ready_says_what_serves(line: Line) -> None:
    ready = line.http.get("/readyz").json()
    assert (ready["status"], ready["bundle"]) == ("ready", "tec-grain-demo/1")
    assert ready["digest"] == line.station.equipment.bundle.digest
    assert ready["restarting"] == []


def test_metrics_count_what_happened(line: Line) -> None:
    line.post(GOOD, {"station": "s1"})
    line.post(DEFECTIVE, {"station": "s1", "serial": "A", "trigger": 1})
    line.post(DEFECTIVE, {"station": "s1", "serial": "A", "trigger": 1})
    line.post(b"hello", {"station": "s1"})
    counted = samples(line)
    for outcome in ("pass", "fail", "replayed", "not-an-image"):
        assert counted[f'inspect_requests_total{{outcome="{outcome}",station="s1"}}'] == 1
    assert counted['inspect_verdicts_total{recipe="tec-grain",verdict="pass"}'] == 1
    assert counted['inspect_verdicts_total{recipe="tec-grain",verdict="fail"}'] == 1
    assert counted['inspect_score_sum{recipe="tec-grain"}'] == 0.5 + 1.5625
    for stage in ("decode", "queue", "inference", "record", "total"):
        assert counted[f'inspect_stage_seconds_count{{stage="{stage}"}}'] == 2
    assert counted['inspect_stage_seconds_sum{stage="total"}'] > counted['inspect_stage_seconds_sum{stage="inference"}']
    assert counted["inspect_batch_size_sum"] == 2
    assert counted["inspect_queue_depth"] == 0
    name = 'inspect_runtime_info{model="tec-grain-demo",precision="float32",provider="fake",version="1"}'
    assert counted[name] == 1


def test_archive_bytes_are_those_on_disk(line: Line) -> None:
    line.post(GOOD)
    archive = line.station.equipment.archive
    archive.close()
    root = line.station.settings.var / "archive"
    assert samples(line)["inspect_archive_bytes"] == sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) > 0


def test_clients_cannot_make_labels_without_end() -> None:
    metrics = Metrics()
    for n in range(1000):
        metrics.request(f"s{n}", "pass")
    metrics.request("s0", "pass")
    text = metrics.exposition().data.decode()
    assert len(set(re.findall(r'inspect_requests_total{.*station="(.*?)"', text))) == 65
    assert 'inspect_requests_total{outcome="pass",station="other"} 936.0' in text
    assert 'inspect_requests_total{outcome="pass",station="s0"} 2.0' in text


def test_the_first_failure_of_a_station_is_a_rise() -> None:
    metrics = Metrics()
    metrics.request("s1", "pass")
    assert 'inspect_requests_total{outcome="failed",station="s1"} 0.0' in metrics.exposition().data.decode()


@pytest.mark.parametrize("name", ["x" * 129, "a\x1b[31m"])
def test_names_that_are_refused_are_no_labels(line: Line, name: str) -> None:
    assert line.post(GOOD, {"station": name}).status_code == 422
    assert samples(line)['inspect_requests_total{outcome="wrong-field",station=""}'] == 1


def test_versions_in_service_and_limits_are_told(line: Line) -> None:
    told = samples(line)
    assert told['inspect_recipe_activated_timestamp_seconds{bundle="tec-grain-demo/1",recipe="tec-grain",version="1"}']
    assert told['inspect_verdicts_total{recipe="tec-grain",verdict="fail"}'] == 0
    assert told["inspect_ready"] == 1
    assert told["inspect_queue_limit"] == line.station.settings.queue_size
    assert told["inspect_archive_limit_bytes"] == line.station.settings.archive_max_bytes
    assert told["inspect_disk_free_bytes"] > 0
    assert told['inspect_runtime_requested_info{runtime="cpu"}'] == 1


def test_draining_is_not_ready(line: Line) -> None:
    line.station.begin_drain()
    assert samples(line)["inspect_ready"] == 0


def test_versions_that_stay_keep_their_time() -> None:
    def activated() -> dict[str, str]:
        text = metrics.exposition().data.decode()
        return dict(re.findall(r'^inspect_recipe_activated\S+version="(\d)"} (\S+)$', text, re.MULTILINE))

    metrics = Metrics()
    recipe = Recipe(name="tec-grain", version=1, bundle="tec-grain-demo/1", threshold=1.0)
    metrics.in_service([recipe])
    first = activated()
    metrics.in_service([recipe])
    assert activated() == first
    metrics.in_service([recipe.model_copy(update={"version": 2})])
    assert activated().keys() == {"2"}


def test_a_reject_leads_to_its_record(line: Line) -> None:
    line.post(GOOD, {"station": "s1"})
    assert not any(name.startswith("inspect_last_reject") for name in samples(line))
    rejected = line.post(DEFECTIVE, {"station": "s1"}).json()
    assert samples(line)['inspect_last_reject_timestamp_seconds{recipe="tec-grain",station="s1"}'] > 1e9
    answer = line.http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = text_string_to_metric_families(answer.text)
    scores = next(family for family in families if family.name == "inspect_score")
    examples = [sample.exemplar for sample in scores.samples if sample.exemplar]
    assert [example.labels for example in examples] == [{"inspection_id": rejected["id"], "verdict": "fail"}]


def test_serials_are_no_labels(line: Line) -> None:
    serial = str(ULID())
    line.post(GOOD, {"serial": serial, "lot": serial})
    assert serial not in line.http.get("/metrics").text
