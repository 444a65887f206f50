import json
from pathlib import Path

import pytest
from invoking import atsnet


def test_summary_shows_parts_and_budget() -> None:
    result = atsnet("model", "summary")
    assert result.exit_code == 0
    lines = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("│")}
    assert set(lines) == {
        "backbone", "EMA norms", "coupling 1/4", "coupling 1/8", "coupling 1/16", "memory", "student", "evidence head",
        "anomaly map", "total", "budget at 256x256",
    }  # fmt: skip
    assert "2,782,784" in lines["backbone"]
    assert "1,831.9" in lines["backbone"]
    assert "4,840,000" in lines["budget at 256x256"]
    assert "19.36" in lines["budget at 256x256"]
    assert "1 MAC = 2 FLOP" in result.stdout


def test_json_adds_up() -> None:
    document = json.loads(atsnet("model", "summary", "--json").stdout)
    assert document["parameters"] == sum(part["parameters"] for part in document["parts"])
    assert document["macs"] == document["macs_at_256x256"] == sum(part["macs"] for part in document["parts"])
    assert document["within_budget"] is True
    assert document["budget"] == {"parameters": 4_840_000, "macs_at_256x256": 3_800_000_000}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_network_over_budget_ends_with_4(options: tuple[str, ...]) -> None:
    result = atsnet("model", "summary", "--set", "network.student_width=512", *options)
    assert result.exit_code == 4
    assert "over its budget" in result.stderr
    assert "backbone" in result.stdout


def test_summary_of_a_run_is_at_its_size(run: Path) -> None:
    document = json.loads(atsnet("model", "summary", run, "--json").stdout)
    assert (document["height"], document["width"]) == (64, 64)
    assert document["macs_at_256x256"] == 16 * document["macs"]
    assert "at 256x256" in atsnet("model", "summary", run).stdout


def test_what_is_no_run(tmp_path: Path) -> None:
    result = atsnet("model", "summary", tmp_path)
    assert result.exit_code == 4
    assert str(tmp_path / "config.json") in result.stderr
    (tmp_path / "config.json").write_text("{}}")
    assert atsnet("model", "summary", tmp_path).exit_code == 4


def test_run_and_configuration_exclude_each_other(tmp_path: Path) -> None:
    assert atsnet("model", "summary", tmp_path, "--set", "network.grid=4").exit_code == 2
