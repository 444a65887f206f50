from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atsnet.network.memory import PrototypeMemory, k_centres

CHANNELS = 384


def features(count: int = 2, seed: int = 0) -> list[Tensor]:
    """Rectified, as the backbone's are, at 64x96 pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((64, 16, 24), (128, 8, 12), (256, 4, 6))
    return [torch.randn(count, *shape, generator=generator).relu() for shape in shapes]


def positions(described: Tensor) -> Tensor:
    """`[N, C, h, w]` to `[N * h * w, C]`."""
    return described.permute(0, 2, 3, 1).flatten(0, 2)


def fitted(size: int = 50, width: int = 12, *, seed: int = 3, frames: int = 4) -> PrototypeMemory:
    memory = PrototypeMemory(size, width)
    memory.fit(positions(memory.describe(features(frames, seed=9))), seed)
    return memory


def vectors(count: int, width: int = 8, seed: int = 1) -> Tensor:
    """Clusters of unequal spread, so that a random choice covers them badly."""
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(12, width, generator=generator)
    spread = torch.logspace(-1.5, 0.5, 12)
    which = torch.randint(12, (count,), generator=generator)
    return centres[which] + spread[which, None] * torch.randn(count, width, generator=generator)


def greedy(points: Tensor, first: int, count: int) -> list[int]:
    """Textbook greedy k-centre, one centre at a time (Gonzalez 1985)."""
    chosen = [first]
    while len(chosen) < count:
        distance = torch.cdist(points.double(), points[chosen].double()).amin(dim=1)
        chosen.append(int(distance.argmax()))
    return chosen


def radius(points: Tensor, chosen: list[int]) -> float:
    """How far the worst point is from its nearest centre."""
    return torch.cdist(points, points[chosen]).amin(dim=1).max().item()


def test_description_is_the_mean_of_nine_positions_of_both_coarser_scales() -> None:
    x = features()
    described = PrototypeMemory(4, 4).describe(x)
    assert described.shape == (2, CHANNELS, 8, 12)
    assert torch.allclose(described[0, 7, 3, 4], x[1][0, 7, 2:5, 3:6].mean())
    # Outside of the frame are zeros: on a corner, four of nine are left.
    assert torch.allclose(described[1, 5, 0, 0], x[1][1, 5, :2, :2].sum() / 9)
    coarse = F.avg_pool2d(x[2], 3, stride=1, padding=1)
    upsampled = F.interpolate(coarse, size=(8, 12), mode="bilinear", align_corners=False)
    assert torch.allclose(described[:, 128:], upsampled, atol=1e-6)


def test_half_precision_features_are_compared_in_float32() -> None:
    memory, x = fitted(), features()
    assert {part.dtype for part in memory([scale.bfloat16() for scale in x])} == {torch.float32}


def test_the_nearest_prototype_is_that_of_brute_force() -> None:
    memory = fitted()
    found = memory.project(memory.describe(features(4)))  # more positions than are searched for at a time
    distances = torch.cdist(found.flatten(0, 2).double(), memory.prototypes.double())
    expected = distances.argmin(dim=1).view(found.shape[:3])
    nearest = memory.nearest(found)
    assert torch.equal(nearest, expected)
    assert len(nearest.unique()) > 10


def test_the_distance_is_the_norm_to_the_recalled_prototype() -> None:
    memory, x = fitted(), features()
    prototypes, missed, distance = memory(x)
    assert prototypes.shape == (2, 12, 8, 12)
    assert distance.shape == (2, 8, 12)
    found = memory.project(memory.describe(x)).permute(0, 3, 1, 2)
    assert torch.allclose(missed, found - prototypes)
    assert torch.allclose(distance, torch.linalg.vector_norm(missed, dim=1), rtol=1e-5)
    brute = torch.cdist(positions(found).double(), memory.prototypes.double()).amin(dim=1)
    assert torch.allclose(distance.flatten().double(), brute, rtol=1e-4)


def test_a_nearest_prototype_that_is_known_is_not_searched_for() -> None:
    memory, x = fitted(), features()
    nearest = memory.nearest(memory.project(memory.describe(x)))
    for found, given in zip(memory(x), memory(x, nearest), strict=True):
        assert torch.equal(found, given)
    other = (nearest + 1) % memory.size
    prototypes, _, distance = memory(x, other)
    assert torch.equal(prototypes.permute(0, 2, 3, 1), memory.prototypes[other])
    assert (distance >= memory(x).distance - 1e-4).all()


PARTS = torch.tensor([7, 3, 7, 5])
"""Of the four frames of `filled_by_parts`: the first and the third are of one part."""


def filled_by_parts(parts: Tensor = PARTS, size: int = 50) -> tuple[PrototypeMemory, Tensor]:
    """A memory of four frames, and their places in its space, `[4, 8, 12, 12]`."""
    memory = PrototypeMemory(size, 12)
    described = memory.describe(features(4, seed=9))
    memory.fit(positions(described), 3, parts=parts.repeat_interleave(8 * 12))
    return memory, memory.project(described)


def test_every_prototype_knows_its_part() -> None:
    for size in (50, 1_000):  # of 384 positions: the prototypes are chosen among them, or repeat them
        memory, found = filled_by_parts(size=size)
        distance, place = torch.cdist(memory.prototypes.double(), found.flatten(0, 2).double()).min(dim=1)
        assert distance.max() < 1e-5
        assert torch.equal(memory.parts, PARTS[place // (8 * 12)])
        assert set(memory.parts.tolist()) == {3, 5, 7}


def test_the_nearest_prototype_of_others_is_that_of_brute_force_among_them() -> None:
    memory, found = filled_by_parts()
    nearest = memory.nearest_of_others(found, PARTS)
    assert nearest.shape == (4, 8, 12)
    for frame, part, indices in zip(found, PARTS, nearest, strict=True):
        others = torch.nonzero(memory.parts != part)[:, 0]
        distances = torch.cdist(frame.flatten(0, 1).double(), memory.prototypes[others].double())
        assert torch.equal(indices.flatten(), others[distances.argmin(dim=1)])
    # Some position is a prototype itself, and must look for another one.
    freely = memory.nearest(found)
    assert (memory.parts[freely] == PARTS[:, None, None]).any()
    assert not torch.equal(nearest, freely)
    assert (memory.recall(found, nearest).distance >= memory.recall(found, freely).distance - 1e-4).all()


def test_a_part_that_the_memory_has_not_seen_may_look_at_all_prototypes() -> None:
    memory, found = filled_by_parts()
    assert torch.equal(memory.nearest_of_others(found, torch.tensor([0, 1, 2, 4])), memory.nearest(found))


def test_prototypes_of_one_part_count_for_itself_where_there_are_no_others() -> None:
    memory, found = filled_by_parts(torch.full((4,), 6))
    assert torch.equal(memory.nearest_of_others(found, torch.full((4,), 6)), memory.nearest(found))


def test_a_memory_that_was_not_told_of_parts_leaves_nothing_out() -> None:
    memory, _ = filled_by_parts()
    found = memory.project(memory.describe(features(4, seed=9)))
    memory.fit(positions(memory.describe(features(4, seed=9))), 3)
    assert set(memory.parts.tolist()) == {-1}
    assert torch.equal(memory.nearest_of_others(found, torch.arange(4)), memory.nearest(found))


def test_parts_change_neither_the_prototypes_nor_what_is_stored() -> None:
    told, untold = filled_by_parts()[0].state_dict(), fitted().state_dict()
    assert set(told) == set(untold) == {"mean", "projection", "prototypes", "half_norms"}
    for key, value in told.items():
        assert torch.equal(value, untold[key]), key


def test_prototypes_are_remembered_at_no_distance() -> None:
    memory, x = PrototypeMemory(10_000, 384), features(4, seed=9)
    memory.fit(positions(memory.describe(x)), 0)
    assert float(memory(x).distance.max()) < 1e-3
    assert float(memory(features(2, seed=10)).distance.min()) > 1


def test_projection_keeps_the_principal_components_half_whitened() -> None:
    """The variance of a kept component is the square root of what it was, and 1 on average."""
    generator = torch.Generator().manual_seed(0)
    deviations = torch.full((CHANNELS,), 0.1)
    deviations[[5, 200, 300]] = torch.tensor([9.0, 4.0, 1.0])
    data = 3 + deviations * torch.randn(4_000, CHANNELS, generator=generator)
    memory = PrototypeMemory(20, 3)
    memory.fit(data, 0)
    projected = memory.project(data.T[None, :, :, None]).flatten(0, 2)
    assert torch.allclose(projected.mean(dim=0), torch.zeros(3), atol=1e-3)
    covariance = torch.cov(projected.T)
    expected = torch.tensor([9.0, 4.0, 1.0]) / (14 / 3)
    assert torch.allclose(covariance, torch.diag(expected), atol=0.1)
    assert memory.projection.abs().argmax(dim=1).tolist() == [5, 200, 300]
    assert (memory.projection.gather(1, memory.projection.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_prototypes_are_among_what_was_seen() -> None:
    memory = fitted(50)
    seen = memory.project(memory.describe(features(4, seed=9))).flatten(0, 2)
    assert torch.cdist(memory.prototypes.double(), seen.double()).amin(dim=1).max() < 1e-5
    assert len(memory.prototypes.unique(dim=0)) == 50


def test_fewer_positions_than_prototypes_are_repeated() -> None:
    memory = PrototypeMemory(40, 8)
    described = positions(memory.describe(features(1)))[:15]
    memory.fit(described, 0)
    assert len(memory.prototypes.unique(dim=0)) == 15
    assert torch.equal(memory.prototypes[:15], memory.prototypes[15:30])
    assert float(memory.half_norms.min()) > 0
    assert (
        float(torch.cdist(memory.project(described.T[None, :, :, None])[0, :, 0], memory.prototypes).amin(1).max())
        < 1e-3
    )


def test_the_same_seed_gives_the_same_memory_and_another_one_another() -> None:
    first, again, other = fitted(seed=3), fitted(seed=3), fitted(seed=4)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert torch.equal(first.projection, other.projection)
    assert not torch.equal(first.prototypes, other.prototypes)


def test_state_dict_round_trip_recalls_the_same() -> None:
    memory, other = fitted(), PrototypeMemory(50, 12)
    other.load_state_dict(memory.state_dict())
    for a, b in zip(memory(features()), other(features()), strict=True):
        assert torch.equal(a, b)
    assert not list(memory.parameters())


def test_features_that_do_not_vary_are_refused() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        PrototypeMemory(4, 4).fit(torch.ones(30, CHANNELS), 0)


def test_more_components_than_features_are_refused() -> None:
    with pytest.raises(ValueError, match="width 385 exceeds the 384 channels"):
        PrototypeMemory(4, 385)


@pytest.mark.parametrize("count", [1, 2, 20, 33])
def test_a_small_choice_is_the_exact_greedy_one(count: int) -> None:
    """Where all vectors are candidates and one batch is enough; 33 are the first one and a batch of 32."""
    points = vectors(700)
    chosen = k_centres(points, count, seed=5).tolist()
    assert chosen == greedy(points, chosen[0], count)


def test_a_choice_in_batches_covers_nearly_as_well_as_the_exact_one() -> None:
    """There are more vectors than candidates, and the choice takes many batches."""
    points = vectors(3_000)
    chosen = k_centres(points, 200, seed=5).tolist()
    assert len(set(chosen)) == 200
    best = radius(points, greedy(points, chosen[0], 200))
    random = torch.randperm(3_000, generator=torch.Generator().manual_seed(0))[:200].tolist()
    assert radius(points, chosen) < 1.1 * best
    assert radius(points, random) > 1.3 * best


def test_all_of_the_vectors_can_be_chosen_once() -> None:
    points = vectors(100)
    assert sorted(k_centres(points, 100, seed=0).tolist()) == list(range(100))


def test_the_first_one_follows_from_the_seed() -> None:
    points = vectors(300)
    assert torch.equal(k_centres(points, 40, 7), k_centres(points, 40, 7))
    assert len({int(k_centres(points, 1, seed)) for seed in range(20)}) > 10


def test_choosing_draws_none_of_the_callers_random_numbers_and_reports() -> None:
    seen: list[tuple[int, int]] = []

    def report(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        assert task == "choosing prototypes"
        assert values is None
        seen.append((done, total))

    before = torch.random.get_rng_state()
    k_centres(vectors(300), 70, 0, report)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert seen == [(33, 70), (65, 70), (70, 70)]
