from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from atsnet.config import PretrainingConfig
from atsnet.data.layout import Sample
from atsnet.network.backbone import ResNet18Trunk
from atsnet.pretraining.pretrain import pretrain
from atsnet.training.losses import NonFiniteLossError


def small(**keys: Any) -> PretrainingConfig:
    defaults = {"steps": 2, "batch_size": 2, "size": 64, "textures": 5, "warmup_steps": 0, "workers": 0}
    return PretrainingConfig.model_validate({**defaults, "bfloat16": False, **keys})


def images(folder: Path, count: int = 3) -> tuple[Sample, ...]:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        path = folder / f"{number}.png"
        assert cv2.imwrite(str(path), rng.integers(0, 256, (80, 80), np.uint8))
        samples.append(Sample(path, path.name))
    return tuple(samples)


def test_the_formula_objective_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atsnet.pretraining.pretrain._LOSS_MEMORY", 0.0)
    losses: list[float] = []

    def report(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        assert values
        assert (task, done, total) == ("pretraining", len(losses) + 1, 60)
        losses.append(values["loss"])

    trunk, last = pretrain(small(steps=60, batch_size=8, learning_rate=3e-3), report=report)
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:5])
    assert last == losses[-1]
    assert not trunk.training


def test_the_same_seed_gives_the_same_trunk() -> None:
    first, second, other = (pretrain(small(seed=seed))[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_all_of_the_trunk_is_trained_and_its_statistics_too() -> None:
    torch.manual_seed(0)
    start = ResNet18Trunk().requires_grad_(False)  # as the one of a trained network is
    before = {key: value.clone() for key, value in start.state_dict().items()}
    trunk, _ = pretrain(small(objective="vicreg"), start=start)
    assert trunk is start
    assert [key for key, value in trunk.state_dict().items() if torch.equal(value, before[key])] == []


def test_after_formulas_the_deeper_scales_are_those_of_the_first() -> None:
    trunk, _ = pretrain(small())
    with torch.inference_mode():
        quarter, eighth, sixteenth = trunk(torch.rand(2, 3, 64, 64))
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    averaged = torch.nn.functional.conv2d(quarter, kernel.expand(64, 1, 3, 3), stride=2, padding=1, groups=64)
    assert torch.allclose(eighth[:, :64], averaged, atol=1e-4)
    assert sixteenth.any()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_vicreg_trains_on_scenes_and_on_a_folder(tmp_path: Path, bfloat16: bool) -> None:
    config = small(objective="vicreg", batch_size=3, bfloat16=bfloat16)
    on_scenes, first = pretrain(config)
    on_images, second = pretrain(config, images(tmp_path))
    assert np.isfinite([first, second]).all()
    assert not torch.equal(on_scenes.conv1.weight, on_images.conv1.weight)
    assert all(value.isfinite().all() for value in on_images.state_dict().values())
    assert on_images.conv1.weight.dtype == torch.float32


def test_the_formula_objective_refuses_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use `vicreg` with a folder of images"):
        pretrain(small(), images(tmp_path, 1))


def test_divergence_is_reported_with_its_step() -> None:
    start = ResNet18Trunk()
    start.conv1.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="pretraining, step 0: the formula loss is nan"):
        pretrain(small(), start=start)


@pytest.mark.parametrize(
    "keys", [{"objective": "magic"}, {"step": 3}, {"size": 70}, {"textures": 4}, {"batch_size": 1}, {"seed": -1}]
)
def test_wrong_keys_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(keys))):
        small(**keys)


def test_the_warmup_is_shorter_than_the_training() -> None:
    with pytest.raises(ValidationError, match="warmup_steps = 5 must be less than steps = 5"):
        small(steps=5, warmup_steps=5)
