from pathlib import Path

import pytest
import torch
from small_training import BACKBONE, make_frames, make_network, small_config

from atsnet.config import Config
from atsnet.data.layout import Layout
from atsnet.network.atsnet import AtsNet
from atsnet.training.run_directory import (
    CONFIG_NAME,
    MODEL_NAME,
    RECORD_NAME,
    DataSource,
    RunError,
    RunRecord,
    load_run,
    save_run,
)

RECORD = RunRecord(
    atsnet_version="0.0",
    torch_version="0.0",
    backbone=BACKBONE,
    data=DataSource(
        layout="folder", root="grains", train_images=("a.png",), holdout_images=("b.png",), sha256="1" * 64
    ),
    losses={"stage1 1/4": 0.1},
    seconds=1.0,
)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, AtsNet, Config]:
    config = small_config()
    network = make_network(config)
    directory = tmp_path / "deep" / "run"
    save_run(directory, network, config, RECORD)
    return directory, network, config


def test_a_run_comes_back_as_it_was_saved(run: tuple[Path, AtsNet, Config]) -> None:
    directory, network, config = run
    loaded = load_run(directory)
    assert loaded.config == config
    assert loaded.record == RECORD
    assert loaded.directory == directory
    assert not loaded.network.training
    frames = torch.from_numpy(make_frames(2))
    with torch.no_grad():
        assert torch.equal(loaded.network(frames)[1], network(frames)[1])


@pytest.mark.parametrize("layout", ["mvtec", "mvtec-ad-2", "btad", "visa", "folder"])
def test_every_layout_can_be_recorded(run: tuple[Path, AtsNet, Config], layout: Layout) -> None:
    """`mvtec` and `folder` are all that there was once."""
    path = run[0] / RECORD_NAME
    path.write_text(path.read_text().replace('"layout": "folder"', f'"layout": "{layout}"'))
    assert load_run(run[0]).record.data.layout == layout


def test_weights_in_another_memory_format_are_saved_too(tmp_path: Path) -> None:
    config = small_config()
    network = make_network(config).to(memory_format=torch.channels_last)
    save_run(tmp_path, network, config, RECORD)
    assert torch.equal(load_run(tmp_path).network.backbone.conv1.weight, network.backbone.conv1.weight)


def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match=r"is no training run: it has no config.json.*`atsnet train`"):
            load_run(directory)


def test_an_unfinished_run_says_how_to_go_on(run: tuple[Path, AtsNet, Config]) -> None:
    directory, _, _ = run
    (directory / MODEL_NAME).unlink()
    with pytest.raises(RunError, match=f"is not finished; go on with `atsnet train .*--resume.*{directory}`"):
        load_run(directory)


def test_a_crash_while_the_network_is_written_leaves_the_run_unfinished(
    run: tuple[Path, AtsNet, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, network, config = run
    (directory / MODEL_NAME).unlink()

    def crash(_: object, path: Path) -> None:
        path.write_bytes(b"half of the tens")
        raise KeyboardInterrupt

    monkeypatch.setattr("atsnet.training.run_directory.save_file", crash)
    with pytest.raises(KeyboardInterrupt):
        save_run(directory, network, config, RECORD)
    with pytest.raises(RunError, match="is not finished"):
        load_run(directory)


@pytest.mark.parametrize("name", [CONFIG_NAME, RECORD_NAME, MODEL_NAME])
@pytest.mark.parametrize("content", [b"", b"{}x", b"[1, 2]"])
def test_damaged_files_are_reported_as_such(run: tuple[Path, AtsNet, Config], name: str, content: bytes) -> None:
    directory, _, _ = run
    (directory / name).write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        load_run(directory)


def test_unknown_keys_and_a_missing_record_are_damage(run: tuple[Path, AtsNet, Config]) -> None:
    directory, _, config = run
    (directory / CONFIG_NAME).write_text(config.model_dump_json().replace('"seed"', '"sead"'))
    with pytest.raises(RunError, match="sead"):
        load_run(directory)
    (directory / CONFIG_NAME).write_text(config.model_dump_json())
    (directory / RECORD_NAME).unlink()
    with pytest.raises(RunError, match=RECORD_NAME):
        load_run(directory)


def test_weights_of_another_configuration_are_damage(run: tuple[Path, AtsNet, Config]) -> None:
    directory, _, config = run
    wider = config.model_copy(update={"network": config.network.model_copy(update={"student_width": 64})})
    (directory / CONFIG_NAME).write_text(wider.model_dump_json())
    with pytest.raises(RunError, match="size mismatch"):
        load_run(directory)


def test_a_configuration_that_no_network_can_be_made_of_is_damage(run: tuple[Path, AtsNet, Config]) -> None:
    directory, _, config = run
    impossible = config.model_copy(update={"network": config.network.model_copy(update={"heads": 6})})
    (directory / CONFIG_NAME).write_text(impossible.model_dump_json())
    with pytest.raises(RunError, match="heads"):
        load_run(directory)
