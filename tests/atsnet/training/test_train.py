import json
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_training import BACKBONE, make_frames, make_trunk, small_config

from atsnet.config import Config
from atsnet.data.layout import DataError, Dataset, file_digests, find_dataset
from atsnet.progress import Reporter, silent
from atsnet.training.history import load_history, loss_curves
from atsnet.training.run_directory import CONFIG_NAME, MODEL_NAME, BackboneSource, RunError, TrainedRun, load_run
from atsnet.training.train import train_run

CONFIG = small_config(stage1_steps=3, stage2_steps=3, stage3_steps=3, holdout_fraction=0.25)
FILES = [
    "config.json",
    "history.jsonl",
    "losses.png",
    "model.safetensors",
    "run.json",
    "training.html",
    "training.md",
]


@pytest.fixture
def images(tmp_path: Path) -> Dataset:
    root = tmp_path / "grains"
    root.mkdir()
    for number, frame in enumerate(make_frames(8)):
        assert cv2.imwrite(str(root / f"{number}.png"), frame[..., 0])
    return find_dataset(root)


def train(
    dataset: Dataset,
    out: Path,
    *,
    config: Config = CONFIG,
    backbone: BackboneSource = BACKBONE,
    resume: bool = False,
    report: Reporter = silent,
) -> TrainedRun:
    cpu = torch.device("cpu")
    return train_run(config, dataset, make_trunk(), backbone, out, device=cpu, resume=resume, report=report)


def stop_at(task: str, done: int) -> Callable[..., None]:
    def report(name: str, count: int, _: int, values: Mapping[str, float] | None = None) -> None:
        del values
        if name.startswith(task) and count == done:
            raise KeyboardInterrupt

    return report


def unfinished(dataset: Dataset, out: Path, stage: str = "stage 2") -> None:
    with pytest.raises(KeyboardInterrupt):
        train(dataset, out, report=stop_at(stage, 2))


def test_a_finished_run_holds_network_configuration_record_and_report_only(tmp_path: Path, images: Dataset) -> None:
    out = tmp_path / "run"
    run = train(images, out)
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert run.config == CONFIG
    record = run.record
    assert record.backbone == BACKBONE
    assert record.data.root == "grains"
    assert len(record.data.holdout_images) == 2
    assert sorted([*record.data.train_images, *record.data.holdout_images]) == [f"{n}.png" for n in range(8)]
    samples = {sample.name: sample for sample in images.train}
    in_order = [samples[name] for name in (*record.data.train_images, *record.data.holdout_images)]
    assert record.data.image_sha256 == file_digests(in_order)
    assert record.torch_version == torch.__version__
    assert len(record.losses) == 7
    assert torch.equal(run.network.backbone.conv1.weight, make_trunk().conv1.weight)


@pytest.mark.parametrize("stage", ["stage 2", "stage 3"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path, images: Dataset, stage: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(images, whole)
    unfinished(images, out, stage)
    assert not (out / MODEL_NAME).exists()
    train(images, out, resume=True)
    assert (out / MODEL_NAME).read_bytes() == (whole / MODEL_NAME).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_the_report_covers_the_phases_and_loss_terms_of_a_run_that_was_interrupted(
    tmp_path: Path, images: Dataset
) -> None:
    out = tmp_path / "run"
    unfinished(images, out)
    train(images, out, resume=True)
    text = (out / "training.md").read_text().replace("\\", "")
    for part in (
        "| images | grains (a plain folder): 6 good images |",
        "2 held-out images: a threshold of 1.00% false rejects needs 199",
        "went on with step 3 of stage 2 (student).",
        *("loading images", "synthetic anomalies: pasting, features", "filling the memory", "fitting the anomaly map"),
        *(f"| stage 1 (teacher) | {scale} |" for scale in ("1/4", "1/8", "1/16")),
        *(f"| stage 2 (student) | {scale} |" for scale in ("1/4", "1/8", "1/16")),
        "| stage 3 (evidence head) | evidence |",
        "| stage 3 (evidence head) | 3 steps of 4 images |",
    ):
        assert part in text
    curves = loss_curves(load_history(out))
    assert {task: [event.done for event in events] for task, events in curves.items()} == {
        "stage 1 (teacher)": [1, 2, 3],
        "stage 2 (student)": [1, 2, 3],
        "stage 3 (evidence head)": [1, 2, 3],
    }
    last = {
        f"stage{number} {name}": value
        for number, events in enumerate(curves.values(), 1)
        for name, value in events[-1].losses.items()
    }
    assert last == pytest.approx(load_run(out).record.losses, rel=1e-5)


def test_a_crash_before_the_network_is_written_does_not_lose_the_training(
    tmp_path: Path, images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(checkpoint_every=3)

    def crash(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("atsnet.training.train.save_run", crash)
    with pytest.raises(OSError, match="no space"):
        train(images, tmp_path / "run", config=config)
    monkeypatch.undo()
    steps = []

    def watch(task: str, done: int, _: int, values: Mapping[str, float] | None = None) -> None:
        if values:
            steps.append((task, done))

    train(images, tmp_path / "run", config=config, resume=True, report=watch)
    assert steps == []  # all stages were complete


def test_a_finished_run_is_not_overwritten(tmp_path: Path, images: Dataset) -> None:
    out = tmp_path / "run"
    train(images, out)
    content = (out / MODEL_NAME).read_bytes()
    for resume in (False, True):
        with pytest.raises(RunError, match="already holds a finished run; give another directory"):
            train(images, out, resume=resume)
    assert (out / MODEL_NAME).read_bytes() == content


def test_an_unfinished_run_is_not_overwritten_either(tmp_path: Path, images: Dataset) -> None:
    unfinished(images, tmp_path / "run")
    with pytest.raises(RunError, match="unfinished run; go on with `--resume`"):
        train(images, tmp_path / "run")


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path, images: Dataset) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    for out in (mine, images.root, mine / "notes.txt"):
        with pytest.raises(RunError, match=f"{out} already exists and is not an empty directory; name another"):
            train(images, out)
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    assert len(list(images.root.iterdir())) == 8


def test_a_run_inside_the_data_folder_would_become_data(tmp_path: Path, images: Dataset) -> None:
    for out in (images.root / "run", tmp_path / "elsewhere" / ".." / "grains" / "runs" / "first"):
        with pytest.raises(RunError, match=r"is inside the data folder .*grains"):
            train(images, out)
    assert len(list(images.root.iterdir())) == 8


def test_there_must_be_something_to_resume(tmp_path: Path, images: Dataset) -> None:
    with pytest.raises(RunError, match=r"holds no run to resume: it has no config.json"):
        train(images, tmp_path / "run", resume=True)


def test_a_run_stopped_before_its_first_checkpoint_starts_again(tmp_path: Path, images: Dataset) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(images, out, report=stop_at("loading images", 1))
    with pytest.raises(RunError, match=r"no checkpoint to resume from .*; start again without `--resume`"):
        train(images, out, resume=True)
    assert (train(images, out).directory / MODEL_NAME).is_file()


def test_resuming_takes_the_same_configuration_backbone_and_images(tmp_path: Path, images: Dataset) -> None:
    out = tmp_path / "run"
    unfinished(images, out)
    with pytest.raises(RunError, match="another configuration"):
        train(images, out, resume=True, config=small_config(stage1_steps=5))
    with pytest.raises(RunError, match="its backbone differ"):
        train(images, out, resume=True, backbone=BACKBONE.model_copy(update={"sha256": "f" * 64}))
    path = images.train[0].path
    content = path.read_bytes()
    assert cv2.imwrite(str(path), make_frames(1, seed=5)[0, ..., 0])
    with pytest.raises(RunError, match="its images differ"):
        train(images, out, resume=True)
    path.write_bytes(content)
    train(images, out, resume=True)


def test_a_layout_that_was_called_otherwise_is_no_other_set_of_images(tmp_path: Path, images: Dataset) -> None:
    unfinished(images, tmp_path / "run")
    path = tmp_path / "run" / "started.json"
    started = json.loads(path.read_text())
    started["data"]["layout"] = "mvtec"
    del started["data"]["image_sha256"]  # as before it was kept
    path.write_text(json.dumps(started))
    assert train(images, tmp_path / "run", resume=True).record.data.layout == "folder"


@pytest.mark.parametrize("name", [CONFIG_NAME, "started.json"])
def test_damaged_notes_of_an_unfinished_run_are_an_error(tmp_path: Path, images: Dataset, name: str) -> None:
    unfinished(images, tmp_path / "run")
    (tmp_path / "run" / name).write_text("{")
    with pytest.raises(RunError, match=f"cannot be resumed, its {name}"):
        train(images, tmp_path / "run", resume=True)


def test_images_without_contrast_are_named_in_record_and_report(tmp_path: Path, images: Dataset) -> None:
    assert cv2.imwrite(str(images.root / "3.png"), np.full((64, 30), 255, np.uint8))
    run = train(images, tmp_path / "run")
    assert run.record.flat_images == ("3.png",)
    assert "so perhaps no image of a part: 3.png" in (tmp_path / "run" / "training.md").read_text().replace("\\", "")


def test_unreadable_images_are_listed(tmp_path: Path, images: Dataset) -> None:
    images.train[3].path.write_bytes(b"no image")
    with pytest.raises(DataError, match=images.train[3].path.name):
        train(images, tmp_path / "run")
