"""What a person reads after training: `training.md`, the same as one page `training.html`, and `losses.png`."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from pydantic import BaseModel

from atsnet.calibration import MIN_IMAGES
from atsnet.config import Config
from atsnet.data.layout import Layout, listed
from atsnet.evaluation.document import (
    Block,
    Card,
    Cards,
    Heading,
    Paragraph,
    Picture,
    Pictures,
    Table,
    to_html,
    to_markdown,
)
from atsnet.imaging import Placement
from atsnet.prediction_limits import attainable_rate, images_needed
from atsnet.training.history import Event, Phase, Session, load_history, loss_curves
from atsnet.training.loss_chart import LOSSES_NAME, draw_losses
from atsnet.training.run_directory import TrainedRun
from atsnet.wording import counted

MARKDOWN_NAME: Final = "training.md"
HTML_NAME: Final = "training.html"

_LAYOUTS: Final[dict[Layout, str]] = {
    "mvtec": "laid out as MVTec AD",
    "mvtec-ad-2": "laid out as MVTec AD 2",
    "btad": "laid out as BTAD",
    "visa": "laid out as VisA",
    "folder": "a plain folder",
}
_SHRUNK: Final = 2.0
"""Pixels of an image to a frame's, from which on a person is told."""
_LOADING: Final = "loading images"
_FEATURES: Final = "features of the trunk"
_LOOKING_UP: Final = "nearest prototypes"
_PARTS: Final = {
    "gathering prototypes": "filling the memory",
    "choosing prototypes": "filling the memory",
    "fitting channel weights": "fitting the anomaly map",
    "fitting quantiles": "fitting the anomaly map",
}
"""Work that reports several tasks."""


def write_training_report(run: TrainedRun, data: Path, placements: Sequence[Placement]) -> None:
    """Write the report of a finished run into its directory, from its record and its history.

    Args:
        run: The run.
        data: The folder of its images.
        placements: Where its images lie in their frames.
    """
    sessions = load_history(run.directory)
    curves = loss_curves(sessions)
    pictures = []
    if curves:
        draw_losses(run.directory / LOSSES_NAME, curves, {task: _resumed_at(sessions, task) for task in curves})
        dotted = " Dotted: where training was resumed." if len(sessions) > 1 else ""
        pictures.append(Picture(LOSSES_NAME, f"Moving means of the loss terms, over about 20 steps.{dotted}"))
    title = f"Training of {run.directory.resolve().name}"
    blocks = [
        Cards(_headline(run, sessions)),
        Heading("What to know"),
        *map(Paragraph, _notes(run, data, sessions, placements)),
        Heading("What was trained"),
        _about(run, sessions, curves, placements),
        Heading("Configuration"),
        _configuration(run.config),
        Heading("Time"),
        *_times(sessions),
        Heading("Losses"),
        *_losses(curves, pictures),
    ]
    (run.directory / MARKDOWN_NAME).write_text(to_markdown(title, blocks), encoding="utf-8")
    (run.directory / HTML_NAME).write_text(to_html(title, blocks, run.directory), encoding="utf-8")


def _headline(run: TrainedRun, sessions: Sequence[Session]) -> tuple[Card, ...]:
    data, rate = run.record.data, run.config.calibration.target_false_reject_rate
    needed = images_needed(rate)
    enough = "enough" if len(data.holdout_images) >= needed else f"{needed} are needed"
    return (
        Card("Learned from", counted(len(data.train_images), "good image"), f"of {data.root}"),
        Card("Held out", counted(len(data.holdout_images), "good image"), f"{enough} for {rate:.2%} false rejects"),
        Card("Trunk", run.record.backbone.name, run.record.backbone.licence),
        Card("Time", _duration(sum(session.seconds for session in sessions)), counted(len(sessions), "session")),
    )


def _notes(run: TrainedRun, data: Path, sessions: Sequence[Session], placements: Sequence[Placement]) -> list[str]:
    return [
        _holdout_note(run),
        *_flatness_notes(run),
        *_resumption_notes(sessions),
        *_shrinking_notes(placements),
        "Losses say whether training went well, not how well defects are found: that takes atsnet evaluate on labelled "
        "images.",
        f"Next, the threshold: {shlex.join(['atsnet', 'calibrate', str(run.directory), str(data)])}",
    ]


def _holdout_note(run: TrainedRun) -> str:
    count, rate = len(run.record.data.holdout_images), run.config.calibration.target_false_reject_rate
    needed, held_out = images_needed(rate), counted(count, "held-out image")
    if count >= needed:
        return f"{held_out}: enough for a threshold of {rate:.2%} false rejects, which takes {needed}."
    what_they_do = (
        f"these can promise {attainable_rate(count):.2%}, and anything less by assuming that the scores' tail is "
        "exponential"
        if count >= MIN_IMAGES
        else f"these are too few for any, {MIN_IMAGES} the least"
    )
    return (
        f"{held_out}: a threshold of {rate:.2%} false rejects needs {needed} to hold whatever the distribution of the "
        f"scores; {what_they_do}. atsnet calibrate --good DIR takes further good images, without training again."
    )


def _flatness_notes(run: TrainedRun) -> list[str]:
    flat = run.record.flat_images
    return [f"Without any contrast, so perhaps no image of a part: {listed(flat, ', ')}."] if flat else []


def _resumption_notes(sessions: Sequence[Session]) -> list[str]:
    notes = []
    if not sessions or sessions[0].start.resumed:
        notes.append("The run was begun without a history: of its time and losses only what came later is known.")
    stages = loss_curves(sessions)
    for session in sessions:
        if session.start.resumed:
            steps = [phase for phase in session.phases if phase.task in stages]
            where = f"went on with step {steps[0].first} of {steps[0].task}" if steps else "took no step"
            notes.append(f"The run was resumed on {session.start.began:%Y-%m-%d at %H:%M} UTC and {where}.")
    for what, names in {
        "devices": [session.start.device for session in sessions],
        "numbers of CPU threads": [str(session.start.threads) for session in sessions],
        "versions of PyTorch": [session.start.torch_version for session in sessions],
        "versions of atsnet": [session.start.atsnet_version for session in sessions],
    }.items():
        if len(set(names)) > 1:
            notes.append(
                f"Its sessions had different {what} ({', then '.join(names)}): an uninterrupted run may end with "
                "other bits."
            )
    return notes


def _shrinking_notes(placements: Sequence[Placement]) -> list[str]:
    shrunk = median(map(_shrinking, placements))
    if shrunk < _SHRUNK:
        return []
    return [
        f"A pixel of a frame is {shrunk:.1f} pixels of an image wide: defects finer than that are hardly seen. "
        "Crop the images to the part, or raise input.height and input.width."
    ]


def _shrinking(placement: Placement) -> float:
    """Pixels of the image to one of the frame."""
    return max(placement.roi.width / placement.width, placement.roi.height / placement.height)


def _about(
    run: TrainedRun, sessions: Sequence[Session], curves: Mapping[str, Sequence[Event]], placements: Sequence[Placement]
) -> Table:
    record, frame, training = run.record, run.config.input, run.config.training
    data = record.data
    sizes = {(placement.roi.width, placement.roi.height) for placement in placements}
    size = "x".join(map(str, sizes.pop())) if len(sizes) == 1 else f"{len(sizes)} sizes"
    rows = [
        ("images", f"{data.root} ({_LAYOUTS[data.layout]}): {counted(len(data.train_images), 'good image')}"),
        (
            "held out",
            f"{counted(len(data.holdout_images), 'good image')}, for quantiles and thresholds; seen by no weight",
        ),
        ("sha256 of the images", data.sha256),
        ("frames", f"{frame.width}x{frame.height} {frame.color}, of images of {size}"),
        ("trunk", f"{record.backbone.name}, {record.backbone.licence}"),
        ("sha256 of the trunk", record.backbone.sha256),
        *(
            (task, f"{counted(events[-1].total, 'step')} of {counted(training.batch_size, 'image')}")
            for task, events in curves.items()
        ),
        ("seed", str(training.seed)),
        *(
            (
                "resumed" if session.start.resumed else "begun",
                f"{session.start.began:%Y-%m-%d %H:%M} UTC on {session.start.device}, "
                f"{counted(session.start.threads, 'thread')}",
            )
            for session in sessions
        ),
        ("versions", f"atsnet {record.atsnet_version}, PyTorch {record.torch_version}"),
    ]
    return Table(("", ""), tuple(rows), frozenset({0, 1}))


def _configuration(config: Config) -> Block:
    default = dict(_keys(Config()))
    changed = [(key, str(value), str(default[key])) for key, value in _keys(config) if value != default[key]]
    if not changed:
        return Paragraph("Every key has its default.")
    return Table(("key", "value", "default"), tuple(changed), frozenset({0, 1, 2}))


def _keys(model: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values, as `--set` takes them."""
    found: list[tuple[str, Any]] = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        found += _keys(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [(f"{prefix}{name}", value)]
    return found


def _times(sessions: Sequence[Session]) -> list[Block]:
    seconds: dict[str, float] = {}
    for session in sessions:
        for title, phase in zip(_titles(session.phases), session.phases, strict=True):
            seconds[title] = seconds.get(title, 0.0) + phase.seconds
    if not seconds:
        return [Paragraph("Not known.")]
    total = sum(seconds.values())
    rows = [(title, _duration(spent), f"{spent / total:.0%}" if total else "") for title, spent in seconds.items()]
    summed = [Paragraph("All sessions together.")] if len(sessions) > 1 else []
    return [*summed, Table(("phase", "time", "share"), (*rows, ("in all", _duration(total), "")))]


def _titles(phases: Sequence[Phase]) -> list[str]:
    """What the phases of a session are called.

    The trunk's features of the training images are computed right after these are loaded, if at all; those of synthetic
    anomalies later, after they were pasted.
    """
    titles, pasted, before = [], False, ""
    for phase in phases:
        pasted = pasted or (phase.task == _FEATURES and before != _LOADING)
        if phase.task not in (_FEATURES, _LOOKING_UP):
            titles.append(_PARTS.get(phase.task, phase.task))
        elif pasted:
            titles.append(f"synthetic anomalies: pasting, {_FEATURES}, {_LOOKING_UP}")
        else:
            titles.append(f"training images: {phase.task}")
        before = phase.task
    return titles


def _losses(curves: dict[str, list[Event]], pictures: Sequence[Picture]) -> list[Block]:
    if not curves:
        return [Paragraph("Not known.")]
    rows = []
    for task, events in curves.items():
        for name in events[-1].losses:
            chosen = (events[0], events[(len(events) - 1) // 2], events[-1])
            rows.append((task, name, *(f"{event.losses[name]:.4g} (step {event.done})" for event in chosen)))
    return [
        Pictures(tuple(pictures)),
        Table(("stage", "term", "first", "half way", "last"), tuple(rows), frozenset({0, 1})),
        Paragraph(
            "The teacher's terms: negative log-likelihood of normal features a channel and position, at each scale. "
            "The student's: mean squared error of the predicted latents, at each scale. Evidence: focal cross-entropy "
            "on pasted anomalies."
        ),
    ]


def _resumed_at(sessions: Sequence[Session], task: str) -> list[int]:
    return [
        phase.first
        for session in sessions
        if session.start.resumed
        for phase in session.phases
        if phase.task == task and phase.first > 1
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
