import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from invoking import atsnet, program

from atsnet.benchmark import benchmark as benchmark_module
from atsnet.benchmark.document import BenchmarkResults
from atsnet.benchmark.plan import LADDER

QUICK = ("--seeds", 1, "--jobs", 4)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command asks of the benchmark, which is not run."""
    calls: list[dict[str, Any]] = []

    def ask(datasets: object, variants: object, *_: object, **options: Any) -> None:
        calls.append({"datasets": datasets, "variants": variants, **options})
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark_module, "run_benchmark", ask)
    return calls


def test_benchmark_prints_what_it_writes_and_does_not_repeat_it(
    grains: Path, backbone: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("benchmark", grains, "--out", out, "--backbone", backbone, "--config", config, *QUICK)
    methods = ("--methods", "ats-net,padim")
    result = atsnet(*arguments, *methods)
    assert result.exit_code == 0, result.stderr
    assert "PaDiM" in result.stdout
    assert "ATS-Net minus PaDiM: " in result.stdout
    assert "grains, padim, seed 0: image AUROC" in result.stderr
    assert "[2/2] grains, " in result.stderr
    assert {path.name for path in out.iterdir()} == {"results.json", "table.md", "bars.png", "cells", "runs"}
    again = atsnet(*arguments, *methods, "--json")
    assert again.exit_code == 0
    printed = BenchmarkResults.model_validate_json(again.stdout)
    assert printed == BenchmarkResults.model_validate_json((out / "results.json").read_bytes())
    assert [cell.variant for cell in printed.cells] == ["ats-net", "padim"]
    assert {cell.report.images for cell in printed.cells} == {9}
    assert "2 of 2 cells finished already" in again.stderr
    assert f"atsnet benchmark {grains} --out {out}" in printed.command
    assert (out / "runs" / "grains" / "ats-net" / "seed-0" / "calibration.json").is_file()


def test_cells_that_fail_are_reported_and_end_in_an_exit_code(
    grains: Path, backbone: Path, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copytree(grains, tmp_path / "data" / "whole")
    shutil.copytree(grains, tmp_path / "data" / "broken")
    (tmp_path / "data" / "broken" / "test" / "good" / "000.png").write_bytes(b"no image")
    options = ("--backbone", backbone, "--config", config, "--methods", "padim", *QUICK)
    result = atsnet("benchmark", tmp_path / "data", "--out", tmp_path / "out", *options)
    assert result.exit_code == 7
    assert "1 of 2 cells failed" in result.stderr
    assert "broken, padim, seed 0: DataError: 1 file cannot be used" in result.stderr
    assert "whole" in result.stdout
    assert "Traceback" not in result.stderr


def test_ablate_climbs_the_ladder(asked: list[dict[str, Any]], grains: Path, tmp_path: Path) -> None:
    result = atsnet("ablate", grains, "--out", tmp_path, "--set", "training.stage2_steps=5", "--seeds", 2)
    assert result.exit_code == 130
    assert asked[0]["variants"] == LADDER
    assert (asked[0]["seeds"], asked[0]["assignments"]) == (2, ("training.stage2_steps=5",))
    assert asked[0]["compared"][0] == ("asymmetric-student", "mkd")
    assert asked[0]["compared"][-1] == ("evidence-head", "mkd")
    expected = f"atsnet ablate {grains} --out {tmp_path} --backbone imagenet --seeds 2 --set training.stage2_steps=5"
    assert expected in result.stderr


@pytest.mark.parametrize("name", ["benchmark", "ablate"])
def test_all_options_are_kept_when_it_is_interrupted(
    asked: list[dict[str, Any]], grains: Path, config: Path, tmp_path: Path, name: str
) -> None:
    given = ("--backbone", "t.safetensors", "--seeds", 2, "--config", config, "--set", "training.stage2_steps=5")
    how = ("--jobs", 3, "--device", "cpu", "--registry", "mine.json", "--cache", tmp_path, "--json")
    first = atsnet(name, grains, "--out", tmp_path / "out", *given, *how)
    (hint,) = [line.strip() for line in first.stderr.splitlines() if line.startswith("  atsnet ")]
    assert hint.endswith(" ".join(map(str, how)))
    assert "--jobs" not in asked[0]["command"]
    again = atsnet(*shlex.split(hint)[1:])
    assert hint in again.stderr
    assert {**asked[0], "datasets": 0} == {**asked[1], "datasets": 0}


def test_methods_are_compared_with_ats_net_in_the_order_given(
    asked: list[dict[str, Any]], grains: Path, tmp_path: Path
) -> None:
    atsnet("benchmark", grains, "--out", tmp_path, "--methods", "padim, ats-net,mkd,padim")
    atsnet("benchmark", grains, "--out", tmp_path, "--methods", "padim,mkd")
    assert [variant.name for variant in asked[0]["variants"]] == ["padim", "ats-net", "mkd"]
    assert asked[0]["compared"] == [("ats-net", "padim"), ("ats-net", "mkd")]
    assert asked[1]["compared"] == []


@pytest.mark.parametrize("methods", ["padim,resnet", ","])
def test_unknown_methods(grains: Path, tmp_path: Path, methods: str) -> None:
    result = atsnet("benchmark", grains, "--out", tmp_path / "out", "--methods", methods)
    assert result.exit_code == 2
    assert "patchcore" in result.stderr
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_used(grains: Path, backbone: Path, tmp_path: Path) -> None:
    missing = atsnet("benchmark", tmp_path / "none", "--out", tmp_path / "out")
    assert missing.exit_code == 3
    good_only = atsnet("ablate", grains / "train", "--out", tmp_path / "out", "--backbone", backbone)
    assert good_only.exit_code == 3
    assert "nothing to test on" in good_only.stderr
    inside = atsnet("benchmark", grains, "--out", grains / "out", "--backbone", backbone)
    assert inside.exit_code == 3
    assert "is inside the data folder" in inside.stderr
    assert not (grains / "out").exists()


def test_ctrl_c_keeps_what_can_be_resumed(grains: Path, backbone: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--out", out, "--backbone", backbone, "--config", config, "--methods", "ats-net", *QUICK)
    endless = ("--set", "training.stage2_steps=1000000", "--set", "training.checkpoint_every=1")
    state = out / "runs" / "grains" / "ats-net" / "seed-0" / "state.json"
    # A session of its own, so that the signal reaches the processes of the benchmark as well, as from a terminal.
    command = program("benchmark", grains, *options, *endless)
    # Where the tests run in the background of a shell, SIGINT is ignored, and would be here as well.
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear
    ) as process:
        while not state.exists() or json.loads(state.read_text())["stage"] == 1:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; 0 of 1 cell finished. Go on with:" in error
    assert "Traceback" not in error
    assert json.loads(state.read_text())["step"] > 0
    for _ in range(200):  # the tracker of multiprocessing's resources notices a little later that it is alone
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("processes were left behind")
