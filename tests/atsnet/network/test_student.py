import pytest
import torch
from torch import Tensor

from atsnet.network.backbone import SCALE_CHANNELS
from atsnet.network.student import Student

PROTOTYPE_WIDTH = 12


def make_student(
    *, dropout: float = 0.0, noise: float = 0.0, prototypes: bool = False, attention: bool = True
) -> Student:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        width = PROTOTYPE_WIDTH if prototypes else None
        student = Student(32, 4, 4, 4, dropout, noise, prototype_width=width, attention=attention)
    return student.requires_grad_(False)


def recalled(height: int = 4, width: int = 4) -> Tensor:
    """Prototypes at 1/8 of a frame that has `height` x `width` positions at 1/16."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, PROTOTYPE_WIDTH, 2 * height, 2 * width, generator=generator)


def seen(prototypes: bool) -> list[Tensor] | Tensor:
    return recalled() if prototypes else features()


def features(height: int = 4, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, height * factor, width * factor, generator=generator)
        for channels, factor in zip(SCALE_CHANNELS, (4, 2, 1), strict=True)
    ]


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("attention", [True, False])
def test_predictions_have_the_shapes_of_the_features(attention: bool) -> None:
    x = features(4, 8)
    shapes = [part.shape for part in x]
    assert [y.shape for y in make_student(attention=attention).eval()(x)] == shapes
    student = make_student(prototypes=True, attention=attention).eval()
    assert [y.shape for y in student(recalled(4, 8))] == shapes


@pytest.mark.parametrize("prototypes", [True, False])
def test_eval_mode_is_deterministic_whatever_dropout_and_noise(prototypes: bool) -> None:
    student, x = make_student(dropout=0.5, noise=1.0, prototypes=prototypes).eval(), seen(prototypes)
    assert same(student(x), student(x))
    assert same(student(x), make_student(prototypes=prototypes).eval()(x))


@pytest.mark.parametrize("prototypes", [True, False])
def test_noise_and_dropout_act_in_training_mode_each_by_itself(prototypes: bool) -> None:
    x = seen(prototypes)
    assert same(make_student(prototypes=prototypes).train()(x), make_student(prototypes=prototypes).eval()(x))
    for student in (make_student(noise=0.5, prototypes=prototypes), make_student(dropout=0.5, prototypes=prototypes)):
        student.train()
        assert not same(student(x), student(x))


@pytest.mark.parametrize("prototypes", [True, False])
def test_training_mode_repeats_with_the_random_seed(prototypes: bool) -> None:
    student, x = make_student(dropout=0.3, noise=0.5, prototypes=prototypes).train(), seen(prototypes)
    outputs = []
    with torch.random.fork_rng():
        for _ in range(2):
            torch.manual_seed(4)
            outputs.append(student(x))
    assert same(*outputs)


def test_every_scale_of_the_input_reaches_every_prediction() -> None:
    student = make_student().eval()
    reference = student(features())
    for scale in range(3):
        x = features()
        x[scale] = x[scale] + 1
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(student(x), reference, strict=True)), scale


def test_fine_detail_does_not_pass_the_bottleneck() -> None:
    """What averages out within a cell of the bottleneck cannot be copied through by the student."""
    student, x = make_student().eval(), features()
    reference = student(x)
    checkerboard = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    x[0] = x[0] + checkerboard
    for a, b in zip(student(x), reference, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_prototype_reaches_every_prediction_and_its_place_matters() -> None:
    """At 1/8 one prototype in full detail: what its three neighbours are is not averaged away."""
    student = make_student(prototypes=True).eval()
    reference = student(recalled())
    changed = recalled()
    changed[:, :, 2, 5] += 1
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(student(changed), reference, strict=True))
    swapped = recalled()
    swapped[:, :, [2, 3], 5] = swapped[:, :, [3, 2], 5]
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(student(swapped), reference, strict=True))


@pytest.mark.parametrize("prototypes", [True, False])
@pytest.mark.parametrize("attention", [True, False])
def test_all_parameters_receive_a_gradient(prototypes: bool, attention: bool) -> None:
    student = make_student(dropout=0.1, noise=0.1, prototypes=prototypes, attention=attention)
    student.requires_grad_(True).train()
    sum(y.square().sum() for y in student(seen(prototypes))).backward()
    silent = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
