import pytest
import torch
from small_training import make_frames, make_network, small_config

from atsnet.network.coupling import negative_log_likelihood
from atsnet.training.losses import SCALE_NAMES, NonFiniteLossError, student_terms, teacher_terms, total_loss

CHANNELS = (2, 3, 4)


def pair() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, 8 // factor, 8 // factor) for channels, factor in zip(CHANNELS, (1, 2, 4), strict=True)]
    return tuple([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))  # type: ignore[return-value]


def test_student_terms_are_mean_squared_errors() -> None:
    teacher, student = pair()
    terms = student_terms(teacher, student, torch.ones(2, 8, 8), 1.0)
    expected = [torch.nn.functional.mse_loss(s, t) for t, s in zip(teacher, student, strict=True)]
    assert torch.allclose(torch.stack(list(terms.values())), torch.stack(expected))


@pytest.mark.parametrize("hard_fraction", [0.3, 1.0])
def test_padding_does_not_count(hard_fraction: float) -> None:
    teacher, student = pair()
    inspect = torch.ones(2, 8, 8)
    inspect[:, :4] = 0
    before = student_terms(teacher, student, inspect, hard_fraction)
    for scale in student:
        scale[:, :, : scale.shape[2] // 2] += 100
    after = student_terms(teacher, student, inspect, hard_fraction)
    assert before == after
    inspected = [
        torch.nn.functional.mse_loss(s[:, :, s.shape[2] // 2 :], t[:, :, t.shape[2] // 2 :])
        for t, s in zip(teacher, student, strict=True)
    ]
    if hard_fraction == 1:
        assert torch.allclose(torch.stack(list(after.values())), torch.stack(inspected))


def test_the_hard_fraction_takes_the_worst_positions() -> None:
    teacher = [torch.zeros(1, channels, 8 // factor, 8 // factor) for channels, factor in ((2, 1), (3, 2), (4, 4))]
    student = [torch.zeros_like(t) for t in teacher]
    student[0][0, :, 0, :4] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    first, *others = student_terms(teacher, student, torch.ones(1, 8, 8), 2 / 64).values()
    assert first.item() == pytest.approx((9 + 16) / 2)
    assert [term.item() for term in others] == [0, 0]


def test_nothing_to_inspect_gives_a_finite_loss() -> None:
    teacher, student = pair()
    terms = student_terms(teacher, student, torch.zeros(2, 8, 8), 1.0)
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(SCALE_NAMES, 0.0)


def test_teacher_terms_are_the_likelihoods_of_the_scales() -> None:
    network = make_network(small_config())
    images, _ = network.unpack(torch.from_numpy(make_frames(2)))
    features = network.standardise(network.backbone(images))
    terms = teacher_terms(network, features)
    # The couplings start as permutations, which have determinant 1.
    expected = [negative_log_likelihood(x, torch.zeros_like(x[:, 0])) for x in features]
    assert torch.allclose(torch.stack(list(terms.values())), torch.stack(expected))


def test_total_is_the_sum() -> None:
    assert total_loss({name: torch.tensor(v) for name, v in zip("abc", (1.0, 2.0, 4.0), strict=True)}, 1, 0).item() == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scale", range(3))
def test_a_term_that_is_not_finite_is_named_with_stage_and_step(value: float, scale: int) -> None:
    terms = dict.fromkeys(SCALE_NAMES, torch.tensor(1.0)) | {SCALE_NAMES[scale]: torch.tensor(value)}
    with pytest.raises(NonFiniteLossError, match=f"stage 2, step 17: the loss of {SCALE_NAMES[scale]} is"):
        total_loss(terms, 2, 17)
