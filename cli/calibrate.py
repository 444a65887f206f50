"""`atsnet calibrate`: thresholds from a run's held-out normal images."""

from cli import options
from cli.devices import DeviceChoice, choose_device
from cli.output import messages, print_json, results, warn

EXAMPLES = "Example:\n  atsnet calibrate runs/grains data/grains"


def calibrate(
    run: options.Run,
    data: options.Data,
    device: options.Device = DeviceChoice.AUTO,
    threads: options.Threads = None,
    batch_size: options.BatchSize = 16,
    json: options.Json = False,
) -> None:
    """Learn a run's thresholds from the good images that its training held out.

    Writes RUN/calibration.json. DATA is the folder that the run was trained on; test images are not looked at.
    """
    from rich.table import Table

    from atsnet.calibration import calibrate_run
    from atsnet.progress import ConsoleReporter
    from atsnet.training.run_directory import CALIBRATION_NAME, load_run

    chosen = choose_device(device, threads)
    trained = load_run(run)
    trained.network.to(chosen)
    with ConsoleReporter(messages()) as report:
        calibration = calibrate_run(trained, data, batch_size=batch_size, report=report)
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
    if calibration.false_reject_interval is not None:
        low, high = calibration.false_reject_interval
        table.add_row("false rejects, 95 % interval", f"{low:.2%} to {high:.2%}")
    table.add_row("held-out good images", str(calibration.normal_images))
    table.add_row("method", calibration.method)
    results().print(table)
