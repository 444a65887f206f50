import numpy as np
import pytest
import torch
from small_training import make_frames, make_network, small_config

from atsnet.config import Config
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.training.frozen_features import FeatureBatch, FrozenFeatures
from atsnet.training.pasted import PastedAnomalies

CPU = torch.device("cpu")


def made(config: Config, frames: UInt8Array) -> tuple[AtsNet, FeatureBatch]:
    """A network with a memory of the frames, and a batch of them."""
    network = make_network(config)
    features = FrozenFeatures(network, config, frames, CPU, augmented=False)
    chosen = np.arange(4)
    batch = features.batch(chosen, np.random.default_rng(0))
    network.update_norms(batch.raw)
    if network.memory:
        network.memory.fit(network.memory.describe(batch.raw).permute(0, 2, 3, 1).flatten(0, 2), 0)
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


def test_the_frames_themselves_stay_as_they_are() -> None:
    config, frames = small_config(), make_frames(5)
    before = frames.copy()
    network, _ = made(config, frames)
    PastedAnomalies(network, config, frames, CPU)
    assert np.array_equal(frames, before)
