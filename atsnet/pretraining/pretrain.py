"""Train the trunk from scratch, on procedural images or on a folder of unlabelled line images."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from atsnet.config import PretrainingConfig
from atsnet.data.layout import Sample
from atsnet.network.backbone import ResNet18Trunk
from atsnet.pretraining.formulas import texture_bank
from atsnet.pretraining.objectives import FormulaObjective, VicregObjective
from atsnet.pretraining.passing_on import pass_on
from atsnet.pretraining.scenes import MARKS, SceneDataset
from atsnet.pretraining.views import FolderViews, SceneViews
from atsnet.progress import Reporter, silent
from atsnet.training.losses import NonFiniteLossError
from atsnet.training.precision import bfloat16_pays

LICENCE = "Apache-2.0 (trained on procedural images only)"
_LOSS_MEMORY = 0.98


def pretrain(
    config: PretrainingConfig,
    images: tuple[Sample, ...] = (),
    *,
    start: ResNet18Trunk | None = None,
    report: Reporter = silent,
) -> tuple[ResNet18Trunk, float]:
    """Train a trunk; after the formula objective, layer2 and layer3 hand on what layer1 learned (`pass_on`).

    Args:
        config: Objective and schedule.
        images: Unlabelled line images for `vicreg`; without them it uses procedural scenes.
        start: Trunk to go on from, trained in place; random weights by default.
        report: Receives the progress.

    Returns:
        The trunk in eval mode and the moving average of the loss at the end.

    Raises:
        ValueError: `images` were given for the formula objective, which cannot use them.
        NonFiniteLossError: Training diverged.
    """
    if images and config.objective == "formula":
        raise ValueError("the formula objective labels procedural images; use `vicreg` with a folder of images")
    torch.manual_seed(config.seed)
    trunk = start or ResNet18Trunk()
    data, objective, loss_of = _task(config, images)
    channels_last = torch.channels_last
    trunk.train().requires_grad_(True)
    parameters = [*trunk.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    for parameter in trunk.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=channels_last)
    half = config.bfloat16 and bfloat16_pays(torch.device("cpu"))
    average = 0.0
    for step, batch in enumerate(_batches(data, config)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of(lambda x: trunk((x.float() / 255).contiguous(memory_format=channels_last)), batch)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(f"pretraining, step {step}: the {config.objective} loss is {value}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average = value if step == 0 else _LOSS_MEMORY * average + (1 - _LOSS_MEMORY) * value
        report("pretraining", step + 1, config.steps, {"loss": average})
    if config.objective == "formula":
        pass_on(trunk, batch[0].float() / 255)
    return trunk.eval(), average


Features = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _task(
    config: PretrainingConfig, images: tuple[Sample, ...]
) -> tuple[Dataset[Any], nn.Module, Callable[[Features, Any], Tensor]]:
    """Images, objective, and how the two give a loss."""
    length = config.steps * config.batch_size
    if config.objective == "formula":
        formula = FormulaObjective(config.textures, len(MARKS))
        scenes = SceneDataset(length, config.size, config.textures, config.seed)
        return scenes, formula, lambda features, batch: formula(features(batch[0]), batch[1])
    vicreg = VicregObjective()
    views: Dataset[Any]
    if images:
        views = FolderViews([sample.path for sample in images], length, config.size, config.seed)
    else:
        views = SceneViews(texture_bank(config.textures, 2, config.seed), length, config.size, config.seed)

    def agree(features: Features, batch: list[Tensor]) -> Tensor:
        count = len(batch[0])
        both = features(torch.cat(batch))
        loss: Tensor = vicreg([x[:count] for x in both], [x[count:] for x in both])
        return loss

    return views, vicreg, agree


def _batches(data: Dataset[Any], config: PretrainingConfig) -> Iterator[Any]:
    # Every item is drawn from its own seed, so that the order of the workers does not matter.
    return iter(
        DataLoader(
            data,
            batch_size=config.batch_size,
            num_workers=config.workers,
            prefetch_factor=8 if config.workers else None,
            worker_init_fn=_one_thread,
            generator=torch.Generator().manual_seed(config.seed),
        )
    )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def _schedule(step: int, config: PretrainingConfig) -> float:
    """Share of the learning rate: linear warm-up, then a cosine down to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup_steps) / (config.steps - config.warmup_steps)))
