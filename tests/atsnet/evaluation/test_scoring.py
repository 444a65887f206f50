from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atsnet.config import NetworkConfig
from atsnet.evaluation.scoring import ScoringError, score_frames
from atsnet.imaging import InputGeometry
from atsnet.network.atsnet import AtsNet

GEOMETRY = InputGeometry(height=64, width=64, color="mono")


def _frames(count: int) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 2), dtype=np.uint8)
    frames[..., -1] = 255
    return frames


def _network() -> AtsNet:
    torch.manual_seed(0)
    return AtsNet(NetworkConfig(student_width=32, window=4, grid=4, coupling_hidden=(16, 16, 16)), GEOMETRY)


def test_scores_are_the_networks_in_eval_mode_whatever_the_batches() -> None:
    network, frames = _network(), _frames(5)
    with torch.inference_mode():
        score, anomaly_map = network(torch.from_numpy(frames))
    network.train()
    calls: list[tuple[str, int, int]] = []

    def record(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        assert not values
        calls.append((task, done, total))

    raw = score_frames(network, frames, batch_size=2, report=record)
    assert not network.training
    assert raw.scores.dtype == raw.maps.dtype == np.float32
    assert raw.maps.shape == (5, 16, 16)
    np.testing.assert_allclose(raw.scores, score.numpy(), rtol=1e-4)
    np.testing.assert_allclose(raw.maps, anomaly_map.numpy(), rtol=1e-3, atol=1e-4)
    assert calls == [("scoring", 2, 5), ("scoring", 4, 5), ("scoring", 5, 5)]


def test_no_frames_no_scores() -> None:
    raw = score_frames(_network(), _frames(0))
    assert raw.scores.shape == (0,)
    assert raw.maps.shape == (0, 16, 16)


class _Broken(nn.Module):
    """Answers NaN for the frames whose first pixel is 255."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.zeros(len(frames), 16, 16)
        maps[frames[:, 0, 0, 0] == 255, 3, 3] = torch.nan
        return torch.zeros(len(frames)), maps


def test_an_answer_that_is_not_finite_is_an_error() -> None:
    frames = _frames(4)
    frames[:, 0, 0, 0] = (0, 255, 0, 255)
    with pytest.raises(ScoringError, match="not finite for 2 of 4 images, first for number 2"):
        score_frames(_Broken(), frames, batch_size=3)  # type: ignore[arg-type]
