from typing import Any

import numpy as np
import pytest
import torch
from small_training import make_frames, make_network, small_config
from torch import Tensor

from atsnet.config import Config
from atsnet.data.augment import expose
from atsnet.data.synthetic import SyntheticSet, paste_anomalies
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.network.evidence import evidence_loss
from atsnet.training.frozen_features import FeatureBatch, FrozenFeatures
from atsnet.training.pasted import PastedAnomalies, normal_count

CPU = torch.device("cpu")


def made(config: Config, frames: UInt8Array) -> tuple[AtsNet, FeatureBatch]:
    """A network with a memory of the frames, each of a part of its own, and the normal ones of a batch."""
    network = make_network(config)
    features = FrozenFeatures(network, config, frames, CPU, augmented=False)
    chosen = np.arange(normal_count(config.training.batch_size))
    batch = features.batch(chosen, np.random.default_rng(0))
    network.update_norms(batch.raw)
    if network.memory:
        described = network.memory.describe(features.batch(np.arange(len(frames)), np.random.default_rng(0)).raw)
        parts = torch.arange(len(frames)).repeat_interleave(described[0, 0].numel())
        network.memory.fit(described.permute(0, 2, 3, 1).flatten(0, 2), 0, parts=parts)
        features.look_up()
        batch = features.batch(chosen, np.random.default_rng(0))
    return network, batch


@pytest.mark.parametrize("augmented", [False, True])
def test_the_same_step_has_the_same_loss_and_another_one_another(augmented: bool) -> None:
    config, frames = small_config(augmented=augmented), make_frames(5)
    network, batch = made(config, frames)
    first, second = (PastedAnomalies(network, config, frames, CPU) for _ in range(2))
    assert first.loss(3, batch, half=False).item() == second.loss(3, batch, half=False).item()
    assert first.loss(3, batch, half=False).item() != first.loss(4, batch, half=False).item()


@pytest.mark.parametrize("network", [{}, {"memory_size": 0, "student_sees": "features"}])
def test_the_loss_teaches_the_head_alone(network: dict[str, object]) -> None:
    config, frames = small_config(network=network), make_frames(5)
    made_network, batch = made(config, frames)
    made_network.requires_grad_(True)
    PastedAnomalies(made_network, config, frames, CPU).loss(0, batch, half=False).backward()
    taught = {name.split(".")[0] for name, p in made_network.named_parameters() if p.grad is not None}
    assert taught == {"evidence_head"}


def test_what_is_pasted_is_learned() -> None:
    config, frames = small_config(synthetic_images=12), make_frames(5)
    network, batch = made(config, frames)
    pasted = PastedAnomalies(network, config, frames, CPU)
    assert network.evidence_head is not None
    optimizer = torch.optim.Adam(network.evidence_head.parameters(), 0.01)
    checked = range(100, 105)

    def loss() -> float:
        with torch.no_grad():
            return float(np.mean([pasted.loss(step, batch, half=False).item() for step in checked]))

    before = loss()
    for step in range(60):
        optimizer.zero_grad()
        pasted.loss(step, batch, half=False).backward()
        optimizer.step()
    assert loss() < 0.7 * before


@pytest.mark.parametrize("copies", [True, False])
def test_a_pasted_frame_is_not_compared_with_prototypes_of_its_own_part(
    monkeypatch: pytest.MonkeyPatch, copies: bool
) -> None:
    config, frames = small_config(augmented=False, synthetic_images=25), make_frames(5)
    network, _ = made(config, frames)
    memory = network.memory
    assert memory is not None
    bases: list[UInt8Array] = []

    def paste(base: UInt8Array, *arguments: Any, **options: Any) -> SyntheticSet:
        bases.append(base)
        return paste_anomalies(base, *arguments, **options)

    monkeypatch.setattr("atsnet.training.pasted.paste_anomalies", paste)
    parts = None
    if copies:
        frames, parts = np.concatenate([frames, expose(frames, 0.1, np.random.default_rng(0))]), np.tile(range(5), 2)
    pasted = PastedAnomalies(network, config, frames, CPU, parts=parts)
    batch = pasted._features.batch(np.arange(25), np.random.default_rng(0))
    (base,) = bases
    shown = [next(i for i, frame in enumerate(frames) if np.array_equal(frame, one)) % 5 for one in base]
    assert set(shown) == set(range(5))
    assert batch.nearest is not None
    own = torch.tensor(shown)[:, None, None]
    assert (memory.parts[batch.nearest] != own).all()
    assert (memory.parts[memory.nearest(memory.project(memory.describe(batch.raw)))] == own).any()


@pytest.mark.parametrize(("batch_size", "normal"), [(16, 4), (8, 2), (4, 1), (2, 1), (1, 1)])
def test_a_quarter_of_a_batch_and_at_least_one_frame_is_normal(batch_size: int, normal: int) -> None:
    assert normal_count(batch_size) == normal


@pytest.mark.parametrize(("batch_size", "judged"), [(8, 8), (1, 2)])
def test_a_batch_is_filled_with_pasted_frames(batch_size: int, judged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one of each kind, however small the batch is."""
    config, frames = small_config(batch_size=batch_size), make_frames(5)
    network, batch = made(config, frames)
    pasted = PastedAnomalies(network, config, frames, CPU)
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(logits: Tensor, anomalous: Tensor, inspect: Tensor) -> Tensor:
        seen.append((logits, anomalous))
        return evidence_loss(logits, anomalous, inspect)

    monkeypatch.setattr("atsnet.training.pasted.evidence_loss", loss)
    pasted.loss(0, batch, half=False)
    ((logits, anomalous),) = seen
    assert logits.shape == anomalous.shape == (judged, 16, 16)
    normal = normal_count(batch_size)
    assert not anomalous[:normal].any()
    assert anomalous[normal:].any()


def test_the_frames_themselves_stay_as_they_are() -> None:
    config, frames = small_config(), make_frames(5)
    before = frames.copy()
    network, _ = made(config, frames)
    PastedAnomalies(network, config, frames, CPU)
    assert np.array_equal(frames, before)
