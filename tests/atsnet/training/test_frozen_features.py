from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from small_training import make_frames, make_network, small_config
from torch import Tensor

from atsnet.config import Config
from atsnet.data.augment import augment
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.training.frozen_features import FrozenFeatures

CHOSEN = np.array([4, 0, 4, 2])


class Watched:
    """A network's trunk, and how many frames went through it."""

    def __init__(self, network: AtsNet) -> None:
        self.frames = 0
        network.backbone.register_forward_pre_hook(self._count)

    def _count(self, _: object, inputs: tuple[Tensor]) -> None:
        self.frames += len(inputs[0])


def make(
    config: Config, frames: UInt8Array, network: AtsNet | None = None, **options: Any
) -> tuple[FrozenFeatures, Watched]:
    network = network or make_network(config)
    watched = Watched(network)
    return FrozenFeatures(network, config, frames, torch.device("cpu"), **options), watched


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def fill(network: AtsNet, frames: UInt8Array, parts: Tensor | None = None) -> None:
    assert network.memory is not None
    raw = network.backbone(network.unpack(torch.from_numpy(frames))[0])
    described = network.memory.describe(raw).permute(0, 2, 3, 1)
    of_positions = None if parts is None else parts.repeat_interleave(described[0, ..., 0].numel())
    network.memory.fit(described.flatten(0, 2), 0, parts=of_positions)


def test_features_are_the_same_with_and_without_a_cache() -> None:
    frames = make_frames(6)
    frames[2, :, 40:, -1] = 0
    cached, once = make(small_config(augmented=False), frames)
    anew, always = make(small_config(augmented=False, cache_megabytes=0), frames)
    first, second = cached.batch(CHOSEN, rng()), anew.batch(CHOSEN, rng())
    for a, b in zip(first.raw, second.raw, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
        assert torch.equal(a[0], a[2])
        assert not torch.allclose(a[0], a[1])
    assert torch.equal(first.inspect, second.inspect)
    assert [int(mask.sum()) for mask in first.inspect] == [12 * 16, 12 * 16, 12 * 16, 12 * 10]
    assert (once.frames, always.frames) == (6, 4)
    cached.batch(CHOSEN, rng())
    anew.batch(CHOSEN, rng())
    assert (once.frames, always.frames) == (6, 8)


def test_features_are_the_trunks() -> None:
    config, frames = small_config(augmented=False), make_frames(5)
    network = make_network(config)
    features, _ = make(config, frames, network)
    expected = network.backbone(network.unpack(torch.from_numpy(frames[CHOSEN]))[0])
    for a, b in zip(features.batch(CHOSEN, rng()).raw, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
        assert not a.requires_grad


@pytest.mark.parametrize("color", ["mono", "rgb"])
def test_bytes_are_counted_as_they_are_kept(color: str) -> None:
    features, _ = make(small_config(augmented=False, color=color), make_frames(5, color=color))
    batch = features.batch(np.arange(5), rng())
    assert features.cache_bytes() == sum(scale.numel() * scale.element_size() for scale in batch.raw)


def test_the_cache_has_a_limit() -> None:
    """A frame of 64x64 has 112 KiB of features in float32: nine of them fit into a megabyte, ten do not."""
    config = small_config(augmented=False, cache_megabytes=1)
    for count, seen in ((9, 9), (10, 4)):
        features, watched = make(config, make_frames(count))
        features.batch(CHOSEN, rng())
        assert watched.frames == seen


def test_augmentation_turns_the_cache_off() -> None:
    config, frames = small_config(augmented=True), make_frames(6)
    network = make_network(config)
    features, watched = make(config, frames, network)
    assert watched.frames == 0
    batch = features.batch(CHOSEN, rng())
    assert watched.frames == 4
    changed = torch.from_numpy(augment(frames[CHOSEN], config.augment, rng()))
    expected = network.backbone(network.unpack(changed)[0])
    for a, b in zip(batch.raw, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    other = features.batch(CHOSEN, np.random.default_rng(1))
    assert not torch.allclose(batch.raw[0], other.raw[0])


def test_nearest_prototypes_are_looked_up_once_there_is_a_memory() -> None:
    config, frames = small_config(augmented=False), make_frames(6)
    network = make_network(config)
    assert network.memory is not None
    features, watched = make(config, frames, network)
    assert features.batch(CHOSEN, rng()).nearest is None
    fill(network, make_frames(4, seed=5))
    before = watched.frames
    features.look_up()
    batch = features.batch(CHOSEN, rng())
    assert watched.frames == before
    assert batch.nearest is not None
    assert batch.nearest.shape == (4, 8, 8)
    assert len(batch.nearest.unique()) > 5
    known, found = network.memory(batch.raw, batch.nearest), network.memory(batch.raw)
    for a, b in zip(known, found, strict=True):
        assert torch.equal(a, b)


WITH_AND_WITHOUT_CACHE = pytest.mark.parametrize(
    "options", [{"augmented": False}, {"augmented": False, "cache_megabytes": 0}, {"augmented": True}], ids=str
)


@WITH_AND_WITHOUT_CACHE
@pytest.mark.parametrize("given", [True, False])
def test_prototypes_of_a_frames_own_part_are_never_handed_out(options: dict[str, Any], given: bool) -> None:
    """Each frame shows its own part unless it is said which one it shows."""
    config, frames = small_config(**options), make_frames(6)
    network = make_network(config)
    memory = network.memory
    assert memory is not None
    parts = np.array([3, 1, 4, 1, 1, 9]) if given else np.arange(6)
    features, _ = make(config, frames, network, parts=parts if given else None)
    fill(network, frames, torch.from_numpy(parts))
    assert features.batch(CHOSEN, rng()).nearest is None
    features.look_up()
    batch = features.batch(CHOSEN, rng())
    assert batch.nearest is not None
    own = torch.from_numpy(parts[CHOSEN])[:, None, None]
    assert (memory.parts[batch.nearest] != own).all()
    vectors = memory.project(memory.describe(batch.raw))
    assert (memory.parts[memory.nearest(vectors)] == own).any()  # they would be the nearest
    distances = torch.cdist(vectors.flatten(1, 2).double(), memory.prototypes.double())
    distances = distances.masked_fill(memory.parts == own, torch.inf)
    assert torch.equal(batch.nearest.flatten(1), distances.argmin(dim=2))


@WITH_AND_WITHOUT_CACHE
def test_nothing_is_looked_up_without_a_memory(options: dict[str, Any]) -> None:
    config = small_config(**options, network={"memory_size": 0, "student_sees": "features"})
    features, _ = make(config, make_frames(5))
    features.look_up()
    assert features.batch(CHOSEN, rng()).nearest is None


def test_progress_is_reported_where_all_frames_are_seen() -> None:
    seen: list[tuple[str, int, int]] = []

    def report(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        assert values is None
        seen.append((task, done, total))

    config = small_config(augmented=False)
    network = make_network(config)
    features, _ = make(config, make_frames(6), network, report=report)
    fill(network, make_frames(2))
    features.look_up(report)
    tasks = ("features of the trunk", "nearest prototypes")
    assert seen == [(task, done, 6) for task in tasks for done in (4, 6)]
