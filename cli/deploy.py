"""`atsnet deploy`: a bundle that exists, put where a GPU's runtime takes it from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import messages, print_json, results

if TYPE_CHECKING:
    from model_export.bundle import Bundle
    from model_export.tensorrt import EngineCache, Gate

EXAMPLES = """Examples:
  atsnet deploy weights/my-grain/2 --triton models/
  atsnet deploy weights/my-grain/2 --tensorrt --images data/grains"""


def deploy(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's directory, weights/NAME/VERSION.")],
    triton: options.Triton = None,
    tensorrt: options.TensorRt = False,
    engines: options.Engines = Path("var/engines"),
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Compare the engine with the bundle's fp32 graph on this data set's test images too, or on its good "
            "ones where it has no others; needs the extra train.",
        ),
    ] = None,
    parity_images: Annotated[int, typer.Option(min=1, help="Most of these images to compare on.")] = 500,
    json: options.Json = False,
) -> None:
    """Put a bundle that exists into Triton's model repository, or build its TensorRT engine.

    The bundle itself stays as it is. An engine is kept only if it answers the bundle's golden samples as it must, and
    with --images only if it also scores real images as the fp32 graph does. It replaces one that was built before.
    """
    from rich.table import Table

    from model_export.bundle import load_bundle

    if triton is None and not tensorrt:
        raise CommandError(ExitCode.USAGE, "nothing to do; give --triton DIR, --tensorrt, or both")
    if images is not None and not tensorrt:
        raise CommandError(ExitCode.USAGE, "--images are for the engine's gate; add --tensorrt")
    cache = open_cache(engines) if tensorrt else None
    gate = None if images is None else _gate(images, parity_images)
    loaded = load_bundle(bundle)
    made = put_in_place(loaded, triton, cache, gate)
    if json:
        paths = {name: str(path) for name, path in made.items()}
        print_json({"path": str(loaded.path), "digest": loaded.digest, "made": paths})
        return
    table = Table(title=str(loaded.path), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, path in made.items():
        table.add_row(name, str(path))
    results().print(table)


def open_cache(engines: Path) -> "EngineCache":
    """The engines of this machine's GPU.

    Raises:
        TensorRtError: There is no TensorRT, or no GPU.
    """
    from model_export.tensorrt import EngineCache
    from model_export.tensorrt_calls import load_tensorrt

    return EngineCache(engines, load_tensorrt())


def put_in_place(
    bundle: "Bundle", triton: Path | None, cache: "EngineCache | None", gate: "Gate | None"
) -> dict[str, Path]:
    """Write a bundle into a model repository and build its engine, as far as either is given; returns what was made.

    Args:
        bundle: A verified one.
        triton: The model repository.
        cache: Keeps the engine.
        gate: What the engine has to pass; the golden samples without one.

    Raises:
        TritonRepositoryError: The repository cannot be written.
        TensorRtError: The engine cannot be built or kept.
        BundleError: The engine does not answer the golden samples as it must.
        ParityError: It does not score the gate's images as it must.
    """
    from model_export.tensorrt import check_golden_samples
    from model_export.triton import write_model_repository

    made = {}
    engine = None if cache is None else cache.path(bundle)  # refuses a bundle without a half-precision graph
    if triton is not None:
        made["triton"] = write_model_repository(bundle, triton)
    if cache is not None and engine is not None:
        with messages().status("building the engine, and comparing"):
            cache.build(bundle, gate or check_golden_samples)
        made["tensorrt"] = engine
    return made


def _gate(images: Path, limit: int) -> "Gate":
    from atsnet.data.layout import find_dataset
    from model_export.engine_gate import parity_gate
    from model_export.parity import evenly

    dataset = find_dataset(images)
    return parity_gate(evenly(dataset.test or dataset.train, limit))
