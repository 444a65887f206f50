import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from invoking import atsnet, program

from atsnet.progress import ConsoleReporter

Stop = Callable[[str, int, BaseException], None]


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Have training end by an exception when it reports a step of a stage."""

    def stop_at(stage: str, step: int, error: BaseException) -> None:
        def report(_: ConsoleReporter, task: str, done: int, *_rest: object) -> None:
            if task.startswith(stage) and done == step:
                raise error

        monkeypatch.setattr(ConsoleReporter, "__call__", report)

    return stop_at


def train(data: Path, out: Path, backbone: Path, config: Path, *options: object) -> object:
    return atsnet("train", data, "--out", out, "--backbone", backbone, "--config", config, *options)


@pytest.mark.parametrize(
    ("stage", "step", "error", "code", "kept"),
    [
        ("stage 1", 3, KeyboardInterrupt(), 130, 3),
        ("stage 2", 7, KeyboardInterrupt(), 130, 7),
        ("stage 2", 8, RuntimeError("the power went"), 1, 5),
        ("stage 3", 6, KeyboardInterrupt(), 130, 6),
        ("stage 3", 6, RuntimeError("the power went"), 1, 5),
    ],
)
def test_resumed_run_ends_with_the_same_bits(
    run: Path, grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch,
    stage: str, step: int, error: BaseException, code: int, kept: int,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    stop(stage, step, error)
    result = train(grains, out, backbone, config)
    assert result.exit_code == code
    assert json.loads((out / "state.json").read_text())["step"] == kept
    assert not (out / "model.safetensors").exists()
    if code == 130:
        assert f"after step {kept} of {stage}" in result.stderr
        assert f"atsnet train {grains} --out {out} --resume" in result.stderr
    monkeypatch.undo()
    resumed = atsnet("train", grains, "--out", out, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert json.loads((out / "run.json").read_text())["backbone"]["name"] == "random"
    assert not (out / "state.json").exists()


def test_interrupt_before_the_first_step_says_to_start_again(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop
) -> None:
    stop("loading images", 1, KeyboardInterrupt())
    result = train(grains, tmp_path / "run", backbone, config)
    assert result.exit_code == 130
    assert "start again" in result.stderr


def test_how_it_was_computed_is_kept_when_it_is_interrupted(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop
) -> None:
    stop("stage 1", 3, KeyboardInterrupt())
    how = ("--device", "cpu", "--threads", 1, "--json")
    result = train(grains, tmp_path / "run", backbone, config, *how)
    expected = f"atsnet train {grains} --out {tmp_path / 'run'} --resume --device cpu --threads 1 --json"
    assert result.stderr.endswith(f"{expected}\n")


def test_ctrl_c_keeps_the_state(grains: Path, backbone: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--out", out, "--backbone", backbone, "--config", config, "--threads", 1)
    endless = ("--set", "training.stage2_steps=1000000", "--set", "training.checkpoint_every=1000000")
    with subprocess.Popen(program("train", grains, *options, *endless), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("stage 1 (teacher): 6/6"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert "--resume" in rest
    assert "Traceback" not in rest
    assert json.loads((out / "state.json").read_text())["step"] > 0


def test_finished_run_is_not_trained_over(run: Path, grains: Path, backbone: Path, config: Path) -> None:
    before = (run / "model.safetensors").read_bytes()
    result = train(grains, run, backbone, config)
    assert result.exit_code == 4
    assert str(run) in result.stderr
    assert "give another directory" in result.stderr
    assert atsnet("train", grains, "--out", run, "--resume").exit_code == 4
    assert (run / "model.safetensors").read_bytes() == before


def test_unfinished_run_is_not_started_over(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop
) -> None:
    stop("stage 1", 3, KeyboardInterrupt())
    train(grains, tmp_path / "run", backbone, config)
    result = train(grains, tmp_path / "run", backbone, config)
    assert result.exit_code == 4
    assert "--resume" in result.stderr


def test_resuming_with_other_images_is_refused(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "grains", tmp_path / "run"
    shutil.copytree(grains, data)
    stop("stage 1", 3, KeyboardInterrupt())
    train(data, out, backbone, config)
    monkeypatch.undo()
    (data / "train" / "good" / "000.png").unlink()
    result = atsnet("train", data, "--out", out, "--resume")
    assert result.exit_code == 4
    assert "images" in result.stderr


def test_resuming_nothing(grains: Path, tmp_path: Path) -> None:
    result = atsnet("train", grains, "--out", tmp_path / "nothing", "--resume")
    assert result.exit_code == 4
    assert "no run to resume" in result.stderr


@pytest.mark.parametrize(
    "options", [("--seed", "0"), ("--set", "training.seed=1"), ("--color", "mono"), ("--backbone", "imagenet")]
)
def test_resumed_run_takes_no_other_configuration(grains: Path, tmp_path: Path, options: tuple[str, str]) -> None:
    result = atsnet("train", grains, "--out", tmp_path / "run", "--resume", *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


@pytest.mark.parametrize(
    ("options", "color"),
    [
        (("--color", "rgb"), "rgb"),
        (("--set", "input.color=rgb"), "rgb"),
        (("--set", "input.color=rgb", "--color", "auto"), "mono"),
    ],
)
def test_color_that_is_said_wins(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop, options: tuple[str, ...], color: str
) -> None:
    stop("stage 1", 1, KeyboardInterrupt())
    train(grains, tmp_path / "run", backbone, config, *options)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["input"]["color"] == color


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("network.students_width=160", "network.students_width"),
        ("network.student_width=17", "network.student_width"),
        ("network.window=3", "network.window"),
        ("student_width", "network.student_width=160"),
        ("training.seed.first=1", "training.seed"),
    ],
)
def test_wrong_configuration(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, option: str, said: str
) -> None:
    result = train(grains, tmp_path / "run", backbone, config, "--set", option)
    assert result.exit_code == 4
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


def test_configuration_file_that_is_missing(grains: Path, backbone: Path, tmp_path: Path) -> None:
    result = train(grains, tmp_path / "run", backbone, tmp_path / "none.toml")
    assert result.exit_code == 4
    assert str(tmp_path / "none.toml") in result.stderr


def test_data_folder_that_is_missing_or_empty(backbone: Path, config: Path, tmp_path: Path) -> None:
    missing = train(tmp_path / "none", tmp_path / "run", backbone, config)
    assert missing.exit_code == 3
    assert str(tmp_path / "none") in missing.stderr
    (tmp_path / "empty").mkdir()
    empty = train(tmp_path / "empty", tmp_path / "run", backbone, config)
    assert empty.exit_code == 3
    assert str(tmp_path / "empty") in empty.stderr


def test_too_few_images_for_a_threshold_are_said_before_training(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop
) -> None:
    stop("loading images", 1, KeyboardInterrupt())
    said = "will be held out, and a threshold takes 3: train on 7, raise training.holdout_fraction, or give further"
    assert said not in train(grains, tmp_path / "enough", backbone, config).stderr
    (tmp_path / "few").mkdir()
    for number in range(4):
        shutil.copy(grains / "train" / "good" / f"{number:03d}.png", tmp_path / "few")
    assert (
        f"warning: of 4 good images only 2 {said}" in train(tmp_path / "few", tmp_path / "run", backbone, config).stderr
    )


def test_what_is_perhaps_no_good_part_is_warned_of(grains: Path, backbone: Path, config: Path, tmp_path: Path) -> None:
    for folder in ("chip", "fine"):
        shutil.copytree(grains / "train" / "good", tmp_path / "data" / folder)
    cv2.imwrite(str(tmp_path / "data" / "chip" / "000.png"), np.zeros((64, 64), np.uint8))
    result = train(tmp_path / "data", tmp_path / "run", backbone, config)
    assert result.exit_code == 0
    assert "its folders chip, fine too" in result.stderr
    assert "without any contrast, so perhaps no image of a part: chip/000.png" in result.stderr
    calibrated = atsnet("calibrate", tmp_path / "run", tmp_path / "data", "--good", tmp_path / "data")
    assert "its folders chip, fine too" in calibrated.stderr


def test_unreadable_images_are_listed(grains: Path, backbone: Path, config: Path, tmp_path: Path) -> None:
    shutil.copytree(grains, tmp_path / "data")
    damaged = [tmp_path / "data" / "train" / "good" / name for name in ("003.png", "007.png")]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    result = train(tmp_path / "data", tmp_path / "run", backbone, config)
    assert result.exit_code == 3
    assert all(str(path) in result.stderr for path in damaged)
    assert "000.png" not in result.stderr


def test_backbone_that_is_unknown_or_none(grains: Path, config: Path, tmp_path: Path) -> None:
    registry = tmp_path / "backbones.json"
    registry.write_text('{"imagenet": {"url": "http://x/y", "sha256": "' + "0" * 64 + '", "licence": "none"}}')
    unknown = train(grains, tmp_path / "run", Path("resnet50"), config, "--registry", registry)
    assert unknown.exit_code == 4
    assert "resnet50" in unknown.stderr
    assert "imagenet" in unknown.stderr
    (tmp_path / "no.safetensors").write_bytes(b"nothing of the kind")
    damaged = train(grains, tmp_path / "run", tmp_path / "no.safetensors", config)
    assert damaged.exit_code == 4
    assert "no.safetensors" in damaged.stderr


def test_the_registry_is_found_from_any_directory(
    grains: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unknown = train(grains, tmp_path / "run", Path("resnet50"), config)
    assert unknown.exit_code == 4
    assert "unknown backbone 'resnet50'; known: " in unknown.stderr
    assert "imagenet" in unknown.stderr
    missing = train(grains, tmp_path / "run", Path("resnet50"), config, "--registry", "mine.json")
    assert "the backbone registry mine.json cannot be read" in missing.stderr
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "backbones.json").write_text("{}")
    assert "known: ; or" in train(grains, tmp_path / "run", Path("resnet50"), config).stderr


def test_local_backbone_needs_no_registry(
    grains: Path, backbone: Path, config: Path, tmp_path: Path, stop: Stop
) -> None:
    stop("stage 1", 1, KeyboardInterrupt())
    result = train(grains, tmp_path / "run", backbone, config, "--registry", tmp_path / "none.json")
    assert result.exit_code == 130


def test_diverging_training_names_the_step(grains: Path, backbone: Path, config: Path, tmp_path: Path) -> None:
    result = train(grains, tmp_path / "run", backbone, config, "--set", "training.stage1_learning_rate=1e30")
    assert result.exit_code == 5
    assert "stage 1, step" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_no_silent_cpu(grains: Path, backbone: Path, config: Path, tmp_path: Path) -> None:
    result = train(grains, tmp_path / "run", backbone, config, "--device", "cuda")
    assert result.exit_code == 4
    assert "no CUDA GPU" in result.stderr
