"""The curves of every loss term over the steps, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from atsnet.evaluation.charts import GOOD_COLOR, plain, save
from atsnet.training.history import Event

LOSSES_NAME: Final = "losses.png"


def draw_losses(path: Path, curves: Mapping[str, Sequence[Event]], resumed: Mapping[str, Sequence[int]]) -> None:
    """A row a stage and a picture a term, each on a scale of its own.

    Args:
        path: PNG to write.
        curves: Of each stage, as `atsnet.training.history.loss_curves` gives them; at least one.
        resumed: Steps of each stage that training was resumed at; dotted.
    """
    columns = max(len(events[-1].losses) for events in curves.values())
    figure = Figure(figsize=(3.2 * columns, 2.6 * len(curves)), layout="constrained")
    grid = figure.subplots(len(curves), columns, squeeze=False)
    for row, (task, events) in zip(grid, curves.items(), strict=True):
        steps = [event.done for event in events]
        for axes, name in zip(row, events[-1].losses, strict=False):
            axes.plot(steps, [event.losses[name] for event in events], color=GOOD_COLOR, linewidth=1.5)
            for step in resumed.get(task, ()):
                axes.axvline(step, color="0.4", linewidth=1, linestyle=":")
            axes.set_title(plain(name), fontsize="medium")
            axes.set_xlabel("step")
            axes.spines[["top", "right"]].set_visible(False)
        for axes in row[len(events[-1].losses) :]:
            axes.set_visible(False)
        row[0].set_ylabel(plain(task))
    save(figure, path)
