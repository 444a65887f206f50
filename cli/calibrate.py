"""`atsnet calibrate`: thresholds from a run's held-out normal images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.devices import DeviceChoice, choose_device
from cli.output import messages, print_json, results, warn, warn_of_unnamed_folders

if TYPE_CHECKING:
    from atsnet.config import CalibrationConfig

EXAMPLES = """Examples:
  atsnet calibrate runs/grains data/grains
  atsnet calibrate runs/grains data/grains --false-reject-rate 0.005 --review-rate 0.05 --good data/more-good-grains"""


def calibrate(
    run: options.Run,
    data: options.Data,
    false_reject_rate: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of the good parts, that may fail; by default as the run was configured."),
    ] = None,
    review_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Of the good parts, that may fail or be for review; by default as configured."
        ),
    ] = None,
    good: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Further good images, unknown to the run, to calibrate with; repeatable."),
    ] = None,
    device: options.Device = DeviceChoice.AUTO,
    threads: options.Threads = None,
    batch_size: options.BatchSize = 16,
    json: options.Json = False,
) -> None:
    """Learn a run's thresholds from the good images that its training held out.

    Writes RUN/calibration.json. DATA is the folder that the run was trained on; test images are not looked at.
    No training is needed for other rates, nor for further good images: the more there are, the surer the thresholds.
    """
    from rich.table import Table

    from atsnet.calibration import calibrate_run
    from atsnet.data.layout import find_dataset
    from atsnet.progress import ConsoleReporter
    from atsnet.training.run_directory import CALIBRATION_NAME, load_run

    chosen = choose_device(device, threads)
    trained = load_run(run)
    trained.network.to(chosen)
    rates = _rates(trained.config.calibration, false_reject_rate, review_rate)
    folders = [find_dataset(folder) for folder in good or ()]
    for folder in folders:
        warn_of_unnamed_folders(folder)
    further = [sample for folder in folders for sample in folder.train]
    with ConsoleReporter(messages()) as report:
        calibration = calibrate_run(trained, data, config=rates, further=further, batch_size=batch_size, report=report)
    for warning in calibration.warnings:
        warn(warning)
    if json:
        print_json(calibration)
        return
    table = Table(title=str(run / CALIBRATION_NAME), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("score threshold", f"{calibration.score_threshold:.6g} (raw)")
    table.add_row("false rejects, target", f"{calibration.target_false_reject_rate:.2%}")
    table.add_row("false rejects, 95 % interval", _span(calibration.false_reject_interval))
    if calibration.review_score is not None and calibration.review_interval is not None:
        table.add_row("review from", f"{calibration.review_score:.6g} (calibrated; 1 is the threshold)")
        table.add_row("not passed, target", f"{calibration.target_review_rate:.2%}")
        table.add_row("not passed, 95 % interval", _span(calibration.review_interval))
    table.add_row("good images, not trained on", str(calibration.normal_images))
    table.add_row("method", calibration.method)
    results().print(table)


def _rates(
    configured: "CalibrationConfig", false_reject_rate: float | None, review_rate: float | None
) -> "CalibrationConfig":
    from pydantic import ValidationError

    from atsnet.config import CalibrationConfig, ConfigError, describe

    said = {"target_false_reject_rate": false_reject_rate, "target_review_rate": review_rate}
    changes = {key: rate for key, rate in said.items() if rate is not None}
    try:
        return CalibrationConfig.model_validate(configured.model_dump() | changes)
    except ValidationError as error:
        raise ConfigError(describe(error, CalibrationConfig)) from error


def _span(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{low:.2%} to {high:.2%}"
