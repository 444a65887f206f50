"""`atsnet train`: from images of good parts to a trained run."""

import shlex
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.devices import DeviceChoice, choose_device
from cli.output import messages, print_json, results, warn, warn_of_unnamed_folders

if TYPE_CHECKING:
    from atsnet.config import Config
    from atsnet.data.layout import Dataset
    from atsnet.progress import Reporter
    from atsnet.training.run_directory import BackboneSource, TrainedRun

EXAMPLES = """Examples:
  atsnet train data/grains --out runs/grains
  atsnet train data/tiles --out runs/tiles --seed 1 --set network.student_width=160 --set training.stage2_steps=4000
  atsnet train data/tiles --out runs/tiles --resume"""


class ColorChoice(StrEnum):
    """What `--color` may say."""

    AUTO = "auto"
    MONO = "mono"
    RGB = "rgb"


def train(
    data: options.Data,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Directory of the run, made here.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Backbone of the registry, or a .safetensors, .pth or .pt file; imagenet by default.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Configuration; see RUN/config.json.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the configuration; may be repeated."),
    ] = None,
    color: Annotated[
        ColorChoice | None,
        typer.Option(help="Channels of the frames; auto looks at the images, unless the configuration says it."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same as --set training.seed=N.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run, as it was started.")] = False,
    device: options.Device = DeviceChoice.AUTO,
    threads: options.Threads = None,
    registry: options.Registry = options.REGISTRY,
    cache: options.Cache = options.CACHE,
    json: options.Json = False,
) -> None:
    """Train a network on images of good parts; defective ones are not needed and never looked at.

    Training keeps its state in RUN every training.checkpoint_every steps, and when Ctrl-C stops it. The same
    configuration, images, backbone and number of threads give the same bits on one machine, resumed or not.
    """
    if resume and (backbone or config or assignments or color or seed is not None):
        raise typer.BadParameter(
            "a resumed run keeps what it was started with; leave out --backbone, --config, --set, --color and --seed",
            param_hint="--resume",
        )
    from atsnet.backbones import load_backbone
    from atsnet.data.layout import find_dataset, listed
    from atsnet.network.backbone import ResNet18Trunk
    from atsnet.progress import ConsoleReporter
    from atsnet.training.run_directory import MODEL_NAME
    from atsnet.training.train import train_run
    from atsnet.wording import counted

    chosen = choose_device(device, threads)
    dataset = find_dataset(data)
    warn_of_unnamed_folders(dataset)
    try:
        with ConsoleReporter(messages()) as bars, _stoppable(bars) as report:
            if resume:
                resolved, source = _started_with(out)
                trunk = ResNet18Trunk()  # its weights come from the checkpoint
            else:
                resolved = _resolve(config, assignments or [], color, seed, dataset)
                trunk, source = load_backbone(backbone or "imagenet", registry, cache.expanduser(), report)
            messages().print(
                f"{counted(len(dataset.train), 'good image')}, {resolved.input.height}x{resolved.input.width} "
                f"{resolved.input.color}, backbone {source.name}, on {chosen}",
                highlight=False,
            )
            _warn_of_too_few(len(dataset.train), resolved)
            began = time.monotonic()
            run = train_run(resolved, dataset, trunk, source, out, device=chosen, resume=resume, report=report)
            seconds = time.monotonic() - began
    except KeyboardInterrupt:
        how = [] if device is DeviceChoice.AUTO else ["--device", device.value]
        how += ["--threads", str(threads)] if threads else []
        how += ["--json"] if json else []
        raise KeyboardInterrupt(_how_to_resume(data, out, how, finished=(out / MODEL_NAME).exists())) from None
    if run.record.flat_images:
        warn(f"without any contrast, so perhaps no image of a part: {listed(run.record.flat_images, ', ')}")
    if json:
        print_json(run.record)
    else:
        _print_table(run, data, seconds)


def _started_with(out: Path) -> tuple["Config", "BackboneSource"]:
    """Configuration and backbone of the unfinished run in a directory.

    Raises:
        RunError: There is none.
    """
    from pydantic import ValidationError

    from atsnet.config import Config
    from atsnet.training.run_directory import CONFIG_NAME, MODEL_NAME, START_NAME, RunError, RunStart

    if (out / MODEL_NAME).exists():
        raise RunError(f"the run in {out} is finished; there is nothing to resume")
    try:
        config = Config.model_validate_json((out / CONFIG_NAME).read_bytes())
        start = RunStart.model_validate_json((out / START_NAME).read_bytes())
    except OSError as error:
        raise RunError(f"{out} holds no run to resume: {error.filename} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RunError(f"the run in {out} cannot be resumed, it is damaged: {error}") from error
    return config, start.backbone


def _resolve(
    config: Path | None, assignments: list[str], color: ColorChoice | None, seed: int | None, dataset: "Dataset"
) -> "Config":
    from atsnet.config import load_config
    from atsnet.data.frames import detect_color

    given = [*assignments, *([] if seed is None else [f"training.seed={seed}"])]
    resolved = load_config(config, given)
    if color in (None, ColorChoice.AUTO) and not (color is None and "color" in resolved.input.model_fields_set):
        found = detect_color(dataset.train)
    elif color is None:
        return resolved
    else:
        found = "mono" if color is ColorChoice.MONO else "rgb"
    return resolved.model_copy(update={"input": resolved.input.model_copy(update={"color": found})})


def _warn_of_too_few(images: int, config: "Config") -> None:
    """Before training takes its time: what it holds out would not do for a threshold."""
    from atsnet.calibration import MIN_IMAGES
    from atsnet.data.layout import holdout_size, images_to_hold_out

    fraction = config.training.holdout_fraction
    needed = images_to_hold_out(MIN_IMAGES, fraction)
    if 2 <= images < needed:
        warn(
            f"of {images} good images only {holdout_size(images, fraction)} will be held out, and a threshold takes "
            f"{MIN_IMAGES}: train on {needed}, raise training.holdout_fraction, or give further good images to "
            "`atsnet calibrate --good DIR` afterwards"
        )


@contextmanager
def _stoppable(report: "Reporter") -> Iterator["Reporter"]:
    """Let Ctrl-C take effect where progress is reported, between two steps; a second one takes effect at once."""
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True

    def stoppable(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        report(task, done, total, values)
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stoppable
    finally:
        signal.signal(signal.SIGINT, before)


def _how_to_resume(data: Path, out: Path, how: list[str], *, finished: bool) -> str:
    import json

    from atsnet.training.checkpoint import STATE_RECORD_NAME

    if finished:
        return f"interrupted; the run in {out} is finished"
    try:
        state = json.loads((out / STATE_RECORD_NAME).read_text())
    except OSError:
        return "interrupted before the first checkpoint; start again with the same command"
    command = shlex.join(["atsnet", "train", str(data), "--out", str(out), "--resume", *how])
    return (
        f"interrupted; the state after step {state['step']} of stage {state['stage']} is kept. Go on with:\n  {command}"
    )


def _print_table(run: "TrainedRun", data: Path, seconds: float) -> None:
    from rich.table import Table

    from atsnet.training.training_report import HTML_NAME
    from atsnet.wording import counted

    record = run.record
    table = Table(title=str(run.directory), title_justify="left", show_header=False)
    table.add_row("trained on", counted(len(record.data.train_images), "good image"))
    table.add_row("held out", counted(len(record.data.holdout_images), "good image"))
    table.add_row("backbone", f"{record.backbone.name} ({record.backbone.licence})")
    for name, loss in record.losses.items():
        table.add_row(f"loss, {name}", f"{loss:.4g}")
    table.add_row("time", f"{seconds:.0f} s")
    results().print(table)
    messages().print(f"how it went, with the losses: {run.directory / HTML_NAME}", highlight=False, soft_wrap=True)
    messages().print(f"next: {shlex.join(['atsnet', 'calibrate', str(run.directory), str(data)])}")
