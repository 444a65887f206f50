import json
from pathlib import Path

import pytest
import torch
from torch import nn

from atsnet.training.checkpoint import (
    STATE_RECORD_NAME,
    Position,
    load_checkpoint,
    remove_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from atsnet.training.run_directory import RunError


def make(seed: int = 0, outputs: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, outputs, 1))
    network[0].weight.data = network[0].weight.data.contiguous(memory_format=torch.channels_last)
    return network, torch.optim.AdamW(network.parameters(), 0.01)


def take_step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(x).square().mean().backward()
    optimizer.step()


def position(step: int) -> Position:
    return Position(stage=1, step=step, losses={"stage1 1/4": 0.1 + 0.2}, seconds=1.5)


def saved(directory: Path, step: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    network, optimizer = make()
    take_step(network, optimizer, 0)
    save_checkpoint(directory, network, optimizer, position(step))
    return network, optimizer


def tensors_of(directory: Path) -> Path:
    (path,) = directory.glob("*.safetensors")
    return path


def test_a_restored_pair_takes_the_same_next_steps(tmp_path: Path) -> None:
    network, optimizer = saved(tmp_path)
    other, other_optimizer = make(seed=1)
    where, states = load_checkpoint(tmp_path, other)
    restore_optimizer(other_optimizer, states)
    assert where == position(5)
    for step in (1, 2):
        take_step(network, optimizer, step)
        take_step(other, other_optimizer, step)
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_only_the_newest_state_is_kept_and_all_of_it_removed(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    saved(tmp_path, 10)
    assert len(list(tmp_path.iterdir())) == 2
    assert load_checkpoint(tmp_path, make()[0])[0].step == 10
    (tmp_path / "model.safetensors").write_bytes(b"the run's own")
    remove_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    remove_checkpoint(tmp_path)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    saved(tmp_path)
    json.loads((tmp_path / STATE_RECORD_NAME).read_text())
    header_size = int.from_bytes(tensors_of(tmp_path).read_bytes()[:8], "little")
    json.loads(tensors_of(tmp_path).read_bytes()[8 : 8 + header_size])


@pytest.mark.parametrize("failing", [1, 2])
def test_a_crash_while_writing_leaves_the_state_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever file is written when the power goes, the run can be resumed from what was there."""
    saved(tmp_path, 5)

    def crash(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text" if failing == 1 else "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 10)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path, make()[0])[0].step == 5
    saved(tmp_path, 15)
    assert load_checkpoint(tmp_path, make()[0])[0].step == 15
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_damaged_tensors_are_detected(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tensors_of(tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=f"damaged: {path.name} is not the file that was written"):
        load_checkpoint(tmp_path, make()[0])


def test_tensors_of_another_moment_are_detected(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tensors_of(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    network, optimizer = make(seed=3)
    save_checkpoint(other, network, optimizer, position(5))
    path.write_bytes(tensors_of(other).read_bytes())
    with pytest.raises(RunError, match="is not the file that was written"):
        load_checkpoint(tmp_path, make()[0])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"stage": 1}'])
def test_a_damaged_record_is_detected(tmp_path: Path, content: str) -> None:
    saved(tmp_path)
    (tmp_path / STATE_RECORD_NAME).write_text(content)
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(tmp_path, make()[0])


def test_a_record_with_an_impossible_position_is_detected(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / STATE_RECORD_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "stage": 4}))
    with pytest.raises(RunError, match="stage"):
        load_checkpoint(tmp_path, make()[0])


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(RunError, match="size mismatch"):
        load_checkpoint(tmp_path, make(outputs=5)[0])


def test_no_checkpoint_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"no checkpoint to resume from .*{STATE_RECORD_NAME}"):
        load_checkpoint(tmp_path, make()[0])
    saved(tmp_path)
    tensors_of(tmp_path).unlink()
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        load_checkpoint(tmp_path, make()[0])
