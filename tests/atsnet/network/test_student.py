import torch
from torch import Tensor

from atsnet.network.backbone import SCALE_CHANNELS
from atsnet.network.student import Student


def make_student(*, dropout: float = 0.0, noise: float = 0.0) -> Student:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Student(32, 4, 4, 4, dropout, noise).requires_grad_(False)


def features(height: int = 4, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, height * factor, width * factor, generator=generator)
        for channels, factor in zip(SCALE_CHANNELS, (4, 2, 1), strict=True)
    ]


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_predictions_have_the_shapes_of_the_features() -> None:
    x = features(4, 8)
    assert [y.shape for y in make_student().eval()(x)] == [part.shape for part in x]


def test_eval_mode_is_deterministic_whatever_dropout_and_noise() -> None:
    student, x = make_student(dropout=0.5, noise=1.0).eval(), features()
    assert same(student(x), student(x))
    assert same(student(x), make_student().eval()(x))


def test_noise_and_dropout_act_in_training_mode_each_by_itself() -> None:
    x = features()
    assert same(make_student().train()(x), make_student().eval()(x))
    for student in (make_student(noise=0.5), make_student(dropout=0.5)):
        student.train()
        assert not same(student(x), student(x))


def test_training_mode_repeats_with_the_random_seed() -> None:
    student, x = make_student(dropout=0.3, noise=0.5).train(), features()
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


def test_all_parameters_receive_a_gradient() -> None:
    student = make_student(dropout=0.1, noise=0.1).requires_grad_(True).train()
    sum(y.square().sum() for y in student(features())).backward()
    silent = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
