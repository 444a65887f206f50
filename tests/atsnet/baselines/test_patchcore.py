import numpy as np
import pytest
import torch
from small_frames import (
    CPU,
    GEOMETRY,
    LocalTrunk,
    make_frames,
    make_trunk,
    with_defect,
    with_other_padding,
)

from atsnet.baselines.detector import NotFittedError
from atsnet.baselines.features import FrameTrunk
from atsnet.baselines.patchcore import PatchCore, embed, greedy_coreset, nearest_neighbour

EMPTY = make_frames(0)


def fitted(trunk: LocalTrunk | None = None, frames: np.ndarray | None = None, **options: object) -> PatchCore:
    detector = PatchCore(trunk or make_trunk(), GEOMETRY, 0, CPU, **options)  # type: ignore[arg-type]
    detector.fit(make_frames(8) if frames is None else frames, EMPTY)
    return detector


@pytest.mark.parametrize("candidates", [3, 40, 5000])
def test_coreset_is_greedy_k_centre(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atsnet.baselines.patchcore._CANDIDATES", candidates)
    monkeypatch.setattr("atsnet.baselines.patchcore._CHUNK", 100)
    points = torch.randn(450, 6, generator=torch.Generator().manual_seed(0))
    expected = [17]
    while len(expected) < 60:
        expected.append(int(torch.cdist(points, points[expected]).amin(1).argmax()))
    assert greedy_coreset(points, 60, first=17).tolist() == expected


def test_coreset_of_equal_points_has_no_member_twice() -> None:
    assert sorted(greedy_coreset(torch.ones(20, 3), 20).tolist()) == list(range(20))


def test_nearest_neighbour_is_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(5000, 12, generator=generator), torch.randn(30, 12, generator=generator)
    distances, indices = nearest_neighbour(queries, bank)
    exact = (queries.double().unsqueeze(1) - bank.double()).square().sum(2).sqrt()
    assert torch.equal(indices, exact.argmin(1))
    assert torch.allclose(distances.double(), exact.amin(1), atol=1e-5)


def test_memory_holds_a_share_of_the_inspected_patches() -> None:
    detector = fitted(coreset=0.1)
    patches = embed(FrameTrunk(make_trunk(), GEOMETRY, CPU).features(make_frames(8)))
    inside = patches[:, :, 2:6].reshape(-1, 384)
    assert detector.bank.shape == (int(0.1 * len(inside)), 384)
    assert (detector.bank.unsqueeze(1) == inside).all(2).any(1).all()
    assert detector.size().learned == detector.bank.numel()


def test_image_score_is_the_papers() -> None:
    detector = fitted(coreset=0.3, neighbours=4, image_score="reweighted")
    frame = with_defect(make_frames(1, seed=9))
    patches = embed(FrameTrunk(make_trunk(), GEOMETRY, CPU).features(frame))[0, :, 2:6].reshape(-1, 384).double()
    bank = detector.bank.double()
    distances = torch.cdist(patches, bank)
    patch = int(distances.amin(1).argmax())
    memory = int(distances[patch].argmin())
    around = torch.cdist(bank[memory : memory + 1], bank)[0].argsort()[:4]
    weight = 1 - torch.exp(distances[patch, memory]) / torch.exp(distances[patch, around]).sum()
    expected = float(weight * distances[patch, memory])
    assert detector.score(frame).scores[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("image_score", ["reweighted", "max"])
def test_a_defect_scores_higher_where_it_is(image_score: str) -> None:
    detector = fitted(LocalTrunk(), image_score=image_score, coreset=0.1)
    normal = detector.score(make_frames(4, seed=1))
    marked = detector.score(with_defect(make_frames(4, seed=1)))
    assert marked.scores.min() > normal.scores.max()
    assert marked.maps.shape == (4, 16, 16)
    assert marked.maps.dtype == marked.scores.dtype == np.float32
    rows, columns = np.unravel_index(marked.maps.reshape(4, -1).argmax(1), (16, 16))
    assert ((rows >= 5) & (rows < 11) & (columns >= 5) & (columns < 11)).all()


def test_padding_has_no_part() -> None:
    frames, test = make_frames(6), with_defect(make_frames(3, seed=1))
    one, other = fitted(LocalTrunk(), frames), fitted(LocalTrunk(), with_other_padding(frames))
    expected, got = one.score(test), other.score(with_other_padding(test))
    assert np.array_equal(expected.scores, got.scores)
    assert np.array_equal(expected.maps, got.maps)
    assert (expected.maps[:, :, :4] == 0).all()
    assert (expected.maps[:, :, 4:12] > 0).all()


def test_a_frame_without_anything_inspected_scores_nothing() -> None:
    frames = make_frames(2, seed=1)
    frames[1, :, :, 1] = 0
    raw = fitted().score(frames)
    assert raw.scores[0] > 0
    assert raw.scores[1] == 0
    assert not raw.maps[1].any()


def test_the_same_seed_gives_the_same_bits() -> None:
    test = make_frames(2, seed=1)
    one, same = fitted().score(test), fitted().score(test)
    assert np.array_equal(one.scores, same.scores)
    assert np.array_equal(one.maps, same.maps)


def test_no_frames_give_no_scores() -> None:
    raw = fitted().score(EMPTY)
    assert raw.scores.shape == (0,)
    assert raw.maps.shape == (0, 16, 16)


def test_without_a_memory_there_is_no_score() -> None:
    detector = PatchCore(make_trunk(), GEOMETRY)
    with pytest.raises(NotFittedError, match="call fit first"):
        detector.score(make_frames(1))
    with pytest.raises(ValueError, match="no inspected position"):
        detector.fit(EMPTY, EMPTY)
