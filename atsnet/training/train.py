"""From a data folder and a trunk to a finished run directory."""

from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from atsnet import __version__
from atsnet.config import Config
from atsnet.data.frames import load_frames, without_contrast
from atsnet.data.layout import Dataset, file_digests, fingerprint, split_holdout
from atsnet.network.atsnet import AtsNet
from atsnet.network.backbone import ResNet18Trunk
from atsnet.progress import Reporter, silent
from atsnet.training.checkpoint import STATE_RECORD_NAME, remove_checkpoint
from atsnet.training.history import HistoryRecorder
from atsnet.training.run_directory import (
    CONFIG_NAME,
    MODEL_NAME,
    START_NAME,
    BackboneSource,
    DataSource,
    RunError,
    RunRecord,
    RunStart,
    TrainedRun,
    load_run,
    save_run,
)
from atsnet.training.trainer import Trainer
from atsnet.training.training_report import write_training_report


def train_run(
    config: Config,
    dataset: Dataset,
    trunk: ResNet18Trunk,
    backbone: BackboneSource,
    out: Path,
    *,
    device: torch.device | None = None,
    resume: bool = False,
    report: Reporter = silent,
) -> TrainedRun:
    """Train a network on a data set's good images, and write a report of it beside the network.

    Args:
        config: What to train; its `input.color` is taken as it is.
        dataset: Where the images are; test images are not looked at.
        trunk: The backbone with its weights.
        backbone: Where these weights came from.
        out: Run directory, made here; must be empty or not exist, or hold an unfinished run with `resume`.
        device: A GPU where there is one, by default.
        resume: Go on from the last checkpoint in `out`.
        report: Receives the progress.

    Raises:
        RunError: `out` holds a run already, something else, or nothing that can be resumed; or it is inside the data
            folder.
        DataError: Images are missing or cannot be read.
        NonFiniteLossError: Training diverged.
    """
    _prepare(out, config, dataset.root, resume)
    train, holdout = split_holdout(dataset.train, config.training.holdout_fraction, config.training.seed)
    data = DataSource(
        layout=dataset.layout,
        root=dataset.root.resolve().name,
        train_images=tuple(sample.name for sample in train),
        holdout_images=tuple(sample.name for sample in holdout),
        sha256=fingerprint((*train, *holdout)),
        image_sha256=file_digests((*train, *holdout)),
    )
    _start(out, RunStart(backbone=backbone, data=data), resume)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recorder = HistoryRecorder(out, device, report, resumed=resume)
    images = load_frames(
        [*train, *holdout], config.input, progress=lambda done, total: recorder("loading images", done, total)
    )
    torch.manual_seed(np.random.SeedSequence((config.training.seed, 0)).generate_state(1)[0].item())
    network = AtsNet(config.network, config.input)
    network.backbone.load_trunk(trunk.state_dict())
    trainer = Trainer(
        network,
        config,
        images.pixels[: len(train)],
        images.pixels[len(train) :],
        out,
        device,
        recorder,
    )
    recorder.losses = lambda: trainer.losses
    trainer.run(resume=resume)
    names = (*data.train_images, *data.holdout_images)
    record = RunRecord(
        atsnet_version=__version__,
        torch_version=torch.__version__,
        backbone=backbone,
        data=data,
        flat_images=tuple(names[index] for index in without_contrast(images.pixels)),
        losses=trainer.losses,
        seconds=round(trainer.seconds, 1),
    )
    network.cpu()
    save_run(out, network, config, record)
    # Only now: until the network is written, the checkpoint is all that there is of it.
    remove_checkpoint(out)
    (out / START_NAME).unlink()
    run = load_run(out)
    write_training_report(run, dataset.root, images.placements)
    return run


def _prepare(out: Path, config: Config, data: Path, resume: bool) -> None:
    if (out / MODEL_NAME).exists():
        raise RunError(f"{out} already holds a finished run; give another directory")
    if resume:
        if not (out / CONFIG_NAME).is_file():
            raise RunError(f"{out} holds no run to resume: it has no {CONFIG_NAME}")
        try:
            started_with = Config.model_validate_json((out / CONFIG_NAME).read_bytes())
        except ValidationError as error:
            raise RunError(f"the run in {out} cannot be resumed, its {CONFIG_NAME} is damaged: {error}") from error
        if started_with != config:
            raise RunError(f"the run in {out} was started with another configuration; resume it with its own")
    elif (out / STATE_RECORD_NAME).exists():
        raise RunError(f"{out} holds an unfinished run; go on with `--resume`, or give another directory")
    elif not _is_free(out):
        raise RunError(f"{out} already exists and is not an empty directory; name another or remove it")
    elif out.resolve().is_relative_to(data.resolve()):
        raise RunError(f"{out} is inside the data folder {data}, where its files would count as data; name another")
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_NAME).write_text(config.model_dump_json(indent=2) + "\n")


def _is_free(out: Path) -> bool:
    """Whether there is nothing in a directory but what a run leaves that was stopped before its first checkpoint."""
    if not out.is_dir():
        return not out.exists()
    return (out / START_NAME).exists() or all(path.name == CONFIG_NAME for path in out.iterdir())


def _start(out: Path, start: RunStart, resume: bool) -> None:
    """Write down what a run is made from, so that it cannot be finished with anything else."""
    path = out / START_NAME
    if resume:
        try:
            before = RunStart.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise RunError(f"the run in {out} cannot be resumed, its {START_NAME} cannot be read: {error}") from error
        # What a layout is called may have changed since, or what is kept; which images it found is compared.
        now = {"layout": start.data.layout, "image_sha256": start.data.image_sha256}
        images = before.data.model_copy(update=now)
        for what, old, new in (("backbone", before.backbone, start.backbone), ("images", images, start.data)):
            if old != new:
                raise RunError(f"the run in {out} was started with another backbone or other images: its {what} differ")
    path.write_text(start.model_dump_json(indent=2) + "\n")
