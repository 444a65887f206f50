import numpy as np
import pytest
import torch
from small_frames import CPU, GEOMETRY, LocalTrunk, make_frames, make_trunk, with_defect, with_other_padding

from atsnet.baselines import maps
from atsnet.baselines.detector import NotFittedError
from atsnet.baselines.features import FrameTrunk
from atsnet.baselines.padim import MIN_SHARE, REGULARISATION, Padim
from atsnet.network.backbone import ResNet18Trunk

EMPTY = make_frames(0)


def fitted(trunk: ResNet18Trunk, frames: np.ndarray) -> Padim:
    detector = Padim(trunk, GEOMETRY, 0, CPU, dimensions=12)
    detector.fit(frames, EMPTY)
    return detector


def all_channels(frames: np.ndarray) -> np.ndarray:
    """Features of the three scales at 1/4, `[N, 448, 16, 16]`."""
    scales = FrameTrunk(make_trunk(), GEOMETRY, CPU).features(frames).scales
    return np.concatenate(
        [np.repeat(np.repeat(x.numpy(), 16 // x.shape[2], 2), 16 // x.shape[3], 3) for x in scales], axis=1
    ).astype(np.float64)


def test_maps_are_smoothed_mahalanobis_distances() -> None:
    frames, test = make_frames(40), make_frames(2, seed=1)
    detector = fitted(make_trunk(), frames)
    channels = detector.channels.numpy()
    assert len(set(channels.tolist())) == 12
    normal, new = all_channels(frames)[:, channels], all_channels(test)[:, channels]
    distances = np.zeros((2, 16, 16), np.float32)
    for row in range(16):
        for column in range(4, 12):
            at = normal[:, :, row, column]
            covariance = np.cov(at, rowvar=False) + REGULARISATION * np.eye(12)
            deviation = new[:, :, row, column] - at.mean(0)
            distances[:, row, column] = np.sqrt(np.sum(deviation * np.linalg.solve(covariance, deviation.T).T, axis=1))
    inspected = torch.zeros(2, 16, 16, dtype=torch.bool)
    inspected[:, :, 4:12] = True
    expected = maps.smooth(torch.from_numpy(distances), inspected).numpy()
    raw = detector.score(test)
    assert np.allclose(raw.maps, expected, rtol=1e-3, atol=1e-4)
    assert np.array_equal(raw.scores, raw.maps.max((1, 2)))


def test_a_position_seldom_inspected_takes_the_nearest_gaussian() -> None:
    frames = make_frames(60)
    rare, often = frames.copy(), frames.copy()
    rare[: round(60 * MIN_SHARE) - 1, :, 12:16, 1] = 255
    often[: round(60 * MIN_SHARE), :, 12:16, 1] = 255
    means = [fitted(LocalTrunk(), x).gaussians[0].view(16, 16, -1) for x in (rare, often)]
    assert torch.equal(means[0][:, 3], means[0][:, 4])
    assert torch.equal(means[0][:, 0], means[0][:, 4])
    assert not torch.equal(means[1][:, 3], means[1][:, 4])
    assert torch.equal(means[1][:, 0], means[1][:, 3])


def test_a_defect_scores_higher_where_it_is() -> None:
    detector = fitted(LocalTrunk(), make_frames(40))
    normal = detector.score(make_frames(4, seed=1))
    marked = detector.score(with_defect(make_frames(4, seed=1)))
    assert marked.scores.min() > normal.scores.max()
    rows, columns = np.unravel_index(marked.maps.reshape(4, -1).argmax(1), (16, 16))
    assert ((rows >= 5) & (rows < 11) & (columns >= 5) & (columns < 11)).all()


def test_padding_has_no_part() -> None:
    frames, test = make_frames(12), with_defect(make_frames(3, seed=1))
    expected = fitted(LocalTrunk(), frames).score(test)
    got = fitted(LocalTrunk(), with_other_padding(frames)).score(with_other_padding(test))
    assert np.array_equal(expected.scores, got.scores)
    assert np.array_equal(expected.maps, got.maps)
    assert (expected.maps[:, :, :4] == 0).all()


def test_the_size_is_that_of_means_and_covariances() -> None:
    size = fitted(make_trunk(), make_frames(4)).size()
    assert size.learned == 16 * 16 * (12 + 12 * 12)
    assert size.bytes == 4 * (size.learned + size.trunk)


def test_the_seed_chooses_the_channels() -> None:
    one, other = (Padim(make_trunk(), GEOMETRY, seed).channels for seed in (0, 1))
    assert torch.equal(one, Padim(make_trunk(), GEOMETRY, 0).channels)
    assert not torch.equal(one, other)


def test_without_gaussians_there_is_no_score() -> None:
    detector = Padim(make_trunk(), GEOMETRY)
    with pytest.raises(NotFittedError, match="call fit first"):
        detector.score(make_frames(1))
    with pytest.raises(ValueError, match="two training frames"):
        detector.fit(make_frames(1), EMPTY)
