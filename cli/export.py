"""`atsnet export`: from a calibrated run to a bundle that the service loads."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import options
from cli.deploy import open_cache, put_in_place
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import messages, print_json, results, warn

if TYPE_CHECKING:
    from atsnet.calibration import Calibration
    from atsnet.data.layout import Dataset, Sample
    from atsnet.training.run_directory import TrainedRun
    from model_export.bundle import Bundle, Precision

EXAMPLES = """Examples:
  atsnet export runs/grains data/grains --name my-grain --version 1 --product my-grain
  atsnet export runs/grains data/grains --name my-grain --version 2 --product my-grain \\
    --precision fp32,fp16,int8 --triton models/"""

PRECISIONS: "Final[Mapping[str, Precision]]" = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


def export(
    run: options.Run,
    data: options.Data,
    name: Annotated[str, typer.Option(help="Name of the bundle.")],
    version: Annotated[str, typer.Option(help="Version of the bundle; a published one never changes.")],
    product: Annotated[str, typer.Option(help="Product that it inspects; names its recipe in the service.")],
    weights: Annotated[Path, typer.Option(help="Directory of the bundles.")] = Path("weights"),
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32[,fp16][,int8]",
            help="Graphs to put in: fp32, always there, fp16 for GPU runtimes, int8 for CPUs.",
        ),
    ] = "fp32",
    tensorrt: options.TensorRt = False,
    engines: options.Engines = Path("var/engines"),
    triton: options.Triton = None,
    parity_images: Annotated[
        int, typer.Option(min=1, help="Most images to compare PyTorch and ONNX Runtime on, evenly chosen.")
    ] = 500,
    json: options.Json = False,
) -> None:
    """Make a bundle of a calibrated run: ONNX graphs, thresholds, golden samples, model card.

    The graphs are compared with the network on DATA's test images and the run's held-out ones; where a score differs or
    a verdict flips, nothing is published. Evaluate the run first, and its figures go into the model card. What `atsnet
    deploy` does for a bundle that exists, --tensorrt and --triton do for the one that has just been published.
    """
    from rich.table import Table

    from atsnet.calibration import load_calibration
    from atsnet.data.layout import find_dataset
    from atsnet.training.run_directory import load_run
    from atsnet.wording import counted
    from model_export.engine_gate import parity_gate
    from model_export.exporter import Identity, export_bundle
    from model_export.parity import evenly

    precisions = _precisions(precision)
    if tensorrt and "float16" not in precisions:
        raise CommandError(ExitCode.USAGE, "--tensorrt builds from the fp16 graph; add --precision fp32,fp16")
    cache = open_cache(engines) if tensorrt else None
    dataset = find_dataset(data)
    identity = Identity(name, version, product)
    trained = load_run(run)
    calibration = load_calibration(run)
    if calibration is None:
        raise CommandError(
            ExitCode.CONFIGURATION, f"{run} has no thresholds yet; learn them with `atsnet calibrate {run} {data}`"
        )
    _check_evaluation(run, data, calibration)
    samples = _real_images(trained, dataset)
    chosen = evenly(samples, parity_images)
    with messages().status(f"exporting and comparing {counted(len(chosen), 'image')}"):
        exported = export_bundle(
            trained,
            calibration,
            identity,
            weights_root=weights,
            parity_samples=chosen,
            golden_samples=samples,
            precisions=precisions,
            range_samples=_learned_from(trained, dataset),
        )
    bundle = exported.bundle
    golden = bundle.manifest.golden_samples
    if not any(sample.verdict == "fail" for sample in golden):
        warn("no golden sample fails, so a station's self-test sees no defect: give test images that fail")
    made = {"bundle": bundle.path}
    with _published_already(bundle, triton, engines if tensorrt else None, data):
        made |= put_in_place(bundle, triton, cache, parity_gate(chosen))
    if json:
        document = {
            "path": str(bundle.path),
            "digest": bundle.digest,
            "made": {name: str(path) for name, path in made.items()},
            "parity": exported.parity.model_dump(mode="json"),
            "parities": {name: parity.model_dump(mode="json") for name, parity in exported.parities.items()},
        }
        print_json(document)
        return
    table = Table(title=str(bundle.path), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("digest", bundle.digest)
    table.add_row("size", f"{sum(entry.bytes for entry in bundle.manifest.files.values()) / 1e6:.1f} MB")
    for name, parity in exported.parities.items():
        images = counted(parity.frames, "image")
        table.add_row(f"{name} compared", f"{images}, {parity.candidate} with {parity.reference}")
        speed = f"{bundle.manifest.speeds[name].cpu_ms:.1f} ms of CPU a frame"
        table.add_row(f"{name} graph", f"{bundle.graph(name).stat().st_size / 1e6:.1f} MB, {speed}")
        table.add_row("largest difference of a score", f"{parity.score_relative_max:.2g} relative")
        table.add_row("flipped verdicts", str(len(parity.flipped)))
        if parity.auroc is not None:
            table.add_row("image AUROC", f"{parity.auroc:.4f}, {parity.reference_auroc:.4f} in the reference")
    verdicts = ", ".join(f"{Path(s.image).stem} {s.verdict}" for s in golden)
    table.add_row("golden samples", verdicts)
    for name, path in list(made.items())[1:]:
        table.add_row(name, str(path))
    results().print(table)


@contextmanager
def _published_already(bundle: "Bundle", triton: Path | None, engines: Path | None, data: Path) -> Iterator[None]:
    """Whatever ends the block, the version is taken and the same command would be refused: says how to go on."""
    try:
        yield
    except BaseException:
        command = ["atsnet", "deploy", bundle.path]
        if triton is not None:
            command += ["--triton", triton]
        if engines is not None:
            command += ["--tensorrt", "--engines", engines, "--images", data]
        warn(f"{bundle.path} is published all the same; go on with `{shlex.join(map(str, command))}`")
        raise


def _precisions(names: str) -> list["Precision"]:
    given = [name.strip() for name in names.split(",")]
    unknown = [name for name in given if name not in PRECISIONS]
    if unknown:
        have = ", ".join(PRECISIONS)
        raise CommandError(ExitCode.USAGE, f"--precision {names}: no precision {unknown[0]!r}; there are: {have}")
    return [PRECISIONS[name] for name in given]


def _check_evaluation(run: Path, data: Path, calibration: "Calibration") -> None:
    """The figures that go into the model card must be those of the thresholds that are exported.

    Raises:
        CommandError: The run was calibrated anew since it was evaluated.
    """
    import json

    from atsnet.evaluation.assessment import Thresholds
    from model_export.exporter import METRICS_PATH

    path, deployed = run / METRICS_PATH, Thresholds.of(calibration)
    metrics = json.loads(path.read_bytes()) if path.is_file() else {}
    decisions = metrics.get("decisions")
    if decisions and (decisions["score_threshold"], decisions["review_from"]) != (deployed.score, deployed.review_from):
        raise CommandError(
            ExitCode.CONFIGURATION,
            f"{path} counts decisions at other thresholds than {run} has since it was calibrated anew; run "
            f"`atsnet evaluate {run} {data}` again",
        )
    for warning in metrics.get("warnings", ()):
        warn(warning)


def _learned_from(run: "TrainedRun", dataset: "Dataset") -> list["Sample"]:
    """The good images that the run was trained on, as far as they are still there."""
    known = set(run.record.data.train_images)
    return [sample for sample in dataset.train if sample.name in known]


def _real_images(run: "TrainedRun", dataset: "Dataset") -> list["Sample"]:
    """The test images, and the good ones that were held out of the training."""
    held_out = set(run.record.data.holdout_images)
    samples = [*dataset.test, *(sample for sample in dataset.train if sample.name in held_out)]
    if not samples:
        raise CommandError(
            ExitCode.DATA, f"{dataset.root} has neither test images nor those that {run.directory} held out"
        )
    return samples
