"""`atsnet evaluate`: figures and pictures of a run on a test set."""

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.devices import DeviceChoice, choose_device
from cli.output import messages, print_json, results, warn

EXAMPLES = """Examples:
  atsnet evaluate runs/grains data/grains
  atsnet evaluate runs/grains data/grains --json | jq .image_auroc"""


def evaluate(
    run: options.Run,
    data: options.Data,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN/evaluation by default.")] = None,
    device: options.Device = DeviceChoice.AUTO,
    threads: options.Threads = None,
    batch_size: options.BatchSize = 16,
    json: options.Json = False,
) -> None:
    """Score a run on test images: figures of images, pixels and defects, latency, a report with pictures.

    Calibrate the run first to see what its threshold does. Nothing is learned from the test images.
    """
    from atsnet.data.layout import find_dataset
    from atsnet.evaluation.evaluate import HTML_NAME
    from atsnet.evaluation.evaluate import evaluate as evaluate_run
    from atsnet.evaluation.report import report_table
    from atsnet.progress import ConsoleReporter
    from atsnet.training.run_directory import load_run

    chosen = choose_device(device, threads)
    dataset = find_dataset(data)
    trained = load_run(run)
    trained.network.to(chosen)
    folder = run / "evaluation" if out is None else out
    with ConsoleReporter(messages()) as report:
        figures = evaluate_run(trained, dataset, folder, batch_size=batch_size, report=report)
    for warning in figures.warnings:
        warn(warning)
    messages().print(f"figures, pictures and a report are in {folder}; open {folder / HTML_NAME}")
    if json:
        print_json(figures)
    else:
        results().print(report_table(figures))
