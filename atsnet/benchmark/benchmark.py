"""Run every cell that has no result yet, and write what all of them say.

results.json     `BenchmarkResults`
table.md         the tables, as they are printed
bars.png         image AUROC and AUPRO@0.3 with their spread
cells/, runs/    see `atsnet.benchmark.cell`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from atsnet import __version__
from atsnet.baselines.methods import METHODS, MakeDetector
from atsnet.benchmark.cell import Backbone, CellResult, read_result
from atsnet.benchmark.charts import draw_bars
from atsnet.benchmark.document import BenchmarkResults
from atsnet.benchmark.plan import Variant, plan_cells
from atsnet.benchmark.pool import CellFailure, Watcher, plan_places, run_cells
from atsnet.benchmark.summary import difference
from atsnet.benchmark.tables import to_markdown
from atsnet.config import load_config
from atsnet.data.layout import DataError, Dataset
from atsnet.progress import Reporter, silent

RESULTS_NAME: Final = "results.json"
TABLE_NAME: Final = "table.md"
BARS_NAME: Final = "bars.png"


def run_benchmark(
    datasets: Sequence[Dataset],
    variants: Sequence[Variant],
    backbone: Backbone,
    out: Path,
    watcher: Watcher,
    *,
    title: str,
    command: str,
    compared: Sequence[tuple[str, str]],
    seeds: int = 3,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    device: torch.device | None = None,
    jobs: int | None = None,
    baselines: Mapping[str, MakeDetector] = METHODS,
    report: Reporter = silent,
) -> BenchmarkResults:
    """Run a benchmark, or the rest of it: a cell whose result is in `out`, made from the same inputs, is not run again.

    Args:
        datasets: The parts, each with test images.
        variants: What is compared, in the order of the tables.
        backbone: The trunk of all.
        out: Directory to write to; made if missing.
        watcher: Told what becomes of the cells.
        title: Of the tables.
        command: That repeats it.
        compared: Names of variants to subtract: the second from the first.
        seeds: How many of each, from 0.
        config: A TOML file that all cells share.
        assignments: Single keys of the configuration, for all cells.
        device: A GPU where there is one, by default.
        jobs: How many cells side by side; see `plan_places`.
        baselines: By name.
        report: Told of what comes before the cells.

    Raises:
        ConfigError: A key is unknown or a value wrong.
        DataError: A part has no test images or holds `out`, or images cannot be read.
        BackboneError: The trunk cannot be had.
        KeyboardInterrupt: Ctrl-C; the same call goes on where this one stopped.
    """
    around = [str(dataset.root) for dataset in datasets if out.resolve().is_relative_to(dataset.root.resolve())]
    if around:
        raise DataError(
            f"{out} is inside the data folder {around[0]}, where its files would count as data; name another"
        )
    source = backbone.load(report)[1]
    cells = plan_cells(
        datasets,
        variants,
        seeds,
        backbone_sha256=source.sha256,
        config=config,
        assignments=assignments,
        report=report,
    )
    found = {cell: result for cell in cells if (result := read_result(out, cell)) is not None}
    missing = [cell for cell in cells if cell not in found]
    watcher.expect(len(found), len(cells))
    places = plan_places(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"), jobs)
    outcomes = {**found, **run_cells(missing, places, backbone, out, watcher, baselines)}
    failures = {cell: outcome for cell, outcome in outcomes.items() if isinstance(outcome, CellFailure)}
    finished = [outcome for cell in cells if isinstance(outcome := outcomes[cell], CellResult)]
    results = BenchmarkResults(
        title=title,
        command=command,
        atsnet_version=__version__,
        backbone=source,
        configuration=load_config(config, assignments).model_dump(mode="json"),
        parts=tuple(dataset.name for dataset in datasets),
        titles={variant.name: variant.title for variant in variants},
        assignments={variant.name: variant.assignments for variant in variants},
        seeds=seeds,
        cells=tuple(finished),
        differences=tuple(difference(finished, variant, other) for variant, other in compared),
        failures={str(cell): failure.error for cell, failure in failures.items()},
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS_NAME).write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / TABLE_NAME).write_text(to_markdown(results), encoding="utf-8")
    draw_bars(out / BARS_NAME, results)
    return results
