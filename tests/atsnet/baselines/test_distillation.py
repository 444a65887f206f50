"""MKD and STFPM: a student that learns from the trunk."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_frames import CPU, GEOMETRY, make_frames, make_trunk, with_defect
from torch import Tensor

from atsnet.baselines import mkd, stfpm
from atsnet.baselines.detector import NotFittedError
from atsnet.baselines.distillation import DistillationError
from atsnet.baselines.mkd import Mkd
from atsnet.baselines.stfpm import Stfpm

EMPTY = make_frames(0)


def make(method: str, **options: float) -> Mkd | Stfpm:
    if method == "mkd":
        return Mkd(make_trunk(), GEOMETRY, 0, CPU, **{"steps": 40, "batch_size": 8, **options})  # type: ignore[arg-type]
    return Stfpm(make_trunk(), GEOMETRY, 0, CPU, **{"steps": 40, "batch_size": 8, **options})  # type: ignore[arg-type]


def random_features(seed: int, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, c, s, s, generator=generator) for c, s in ((64, 16), (128, 8), (256, 4))]


def half_mask(count: int = 2) -> Tensor:
    mask = torch.ones(count, 1, 64, 64)
    mask[..., 32:] = 0
    return mask


@pytest.mark.parametrize("method", ["mkd", "stfpm"])
def test_the_loss_falls_and_a_defect_scores_higher(method: str) -> None:
    detector = make(method)
    detector.fit(make_frames(16), EMPTY)
    assert np.mean(detector.losses[-5:]) < 0.7 * np.mean(detector.losses[:5])
    normal = detector.score(make_frames(6, seed=1))
    marked = detector.score(with_defect(make_frames(6, seed=1)))
    assert marked.scores.min() > normal.scores.max()
    assert marked.maps.shape == (6, 16, 16)
    assert marked.maps.dtype == marked.scores.dtype == np.float32
    assert marked.maps[:, 6:10, 6:10].mean() > 1.5 * normal.maps[:, 6:10, 6:10].mean()
    assert (marked.maps[:, :, :4] == 0).all()


@pytest.mark.parametrize("method", ["mkd", "stfpm"])
def test_the_same_seed_gives_the_same_bits(method: str) -> None:
    test, results = make_frames(2, seed=1), []
    for _ in range(2):
        detector = make(method, steps=3)
        detector.fit(make_frames(5), EMPTY)  # fewer frames than a batch
        results.append(detector.score(test))
    assert np.array_equal(results[0].scores, results[1].scores)
    assert np.array_equal(results[0].maps, results[1].maps)


def test_mkd_scores_by_value_and_by_direction() -> None:
    teacher, student = random_features(0), random_features(1)
    expected = []
    for image in range(2):
        loss = 0.0
        for t, s in zip(teacher, student, strict=True):
            a, b = (x[image, :, :, : x.shape[3] // 2].double().flatten().numpy() for x in (t, s))
            loss += 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) + 0.5 * np.mean((a - b) ** 2)
        expected.append(loss)
    assert mkd.image_losses(teacher, student, half_mask()).tolist() == pytest.approx(expected, rel=1e-5)


def test_stfpm_multiplies_the_scales() -> None:
    teacher, student = random_features(0), random_features(1)
    whole = torch.ones(2, 1, 64, 64)
    product, total = torch.ones(2, 16, 16), 0.0
    for t, s in zip(teacher, student, strict=True):
        distance = 1 - (t * s).sum(1) / t.norm(dim=1) / s.norm(dim=1)  # of unit vectors, half the squared one
        product *= F.interpolate(distance.unsqueeze(1), size=(16, 16), mode="bilinear").squeeze(1)
        total += distance.mean().item()
    assert torch.allclose(stfpm.pyramid_map(teacher, student, whole), product, rtol=1e-3, atol=1e-7)
    assert stfpm.pyramid_loss(teacher, student, whole).item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    "answer", [mkd.image_losses, mkd.loss_map, stfpm.pyramid_loss, stfpm.pyramid_map], ids=lambda f: f.__name__
)
def test_padding_has_no_part(answer: Callable[[list[Tensor], list[Tensor], Tensor], Tensor]) -> None:
    teacher, student = random_features(0), random_features(1)
    before = answer(teacher, student, half_mask())
    for x in (*teacher, *student):
        x[..., x.shape[3] // 2 :] += torch.rand(x[..., x.shape[3] // 2 :].shape)
    assert torch.equal(before, answer(teacher, student, half_mask()))
    nothing = answer(teacher, student, torch.zeros(2, 1, 64, 64))
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_a_cloner_is_thin() -> None:
    detector = make("mkd", steps=1)
    detector.fit(make_frames(2), EMPTY)
    features = detector.cloner(torch.rand(1, 3, 64, 64))  # type: ignore[union-attr]
    assert [x.shape for x in features] == [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4)]
    size = detector.size()
    assert size.learned < 0.1 * size.trunk
    assert size.macs is not None


def test_divergence_is_an_error() -> None:
    with pytest.raises(DistillationError, match="at step"):
        make("mkd", learning_rate=1e30).fit(make_frames(8), EMPTY)


@pytest.mark.parametrize("method", ["mkd", "stfpm"])
def test_without_a_student_there_is_no_score(method: str) -> None:
    with pytest.raises(NotFittedError, match="call fit first"):
        make(method).score(make_frames(1))
    with pytest.raises(ValueError, match="no frames"):
        make(method).fit(EMPTY, EMPTY)
