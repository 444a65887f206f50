"""Results of cells that nobody ran, with figures that are easy to check by hand."""

from atsnet import __version__
from atsnet.benchmark.cell import CellResult, Size, Speed
from atsnet.benchmark.document import BenchmarkResults
from atsnet.benchmark.plan import CellInputs
from atsnet.benchmark.summary import difference
from atsnet.calibration import calibrate
from atsnet.config import CalibrationConfig, Config
from atsnet.evaluation.assessment import DecisionReport, EvaluationReport, LabelReport
from atsnet.training.run_directory import BackboneSource

INPUTS = CellInputs(atsnet_version=__version__, method="m", settings="s", backbone="b", train="t", test="u")


def made_label(label: str, auroc: float | None) -> LabelReport:
    fields = dict.fromkeys(LabelReport.model_fields)
    return LabelReport.model_construct(**{**fields, "label": label, "images": 4, "image_auroc": auroc})


def made_cell(
    part: str,
    variant: str,
    seed: int,
    auroc: float | None,
    aupro: float | None = 0.5,
    *,
    rejects: float | None = 0.02,
    dent: float | None = None,
) -> CellResult:
    """A cell; figures that a test does not give are not defined."""
    fields = dict.fromkeys(EvaluationReport.model_fields)
    decisions = dict.fromkeys(DecisionReport.model_fields)
    decided = DecisionReport.model_construct(**{**decisions, "false_reject_rate": rejects, "escape_rate": 0.25})
    labels = (made_label("good", None), made_label("dent", dent))
    report = EvaluationReport.model_construct(
        **{**fields, "image_auroc": auroc, "aupro": aupro, "decisions": decided, "labels": labels}
    )
    scores = [1.0, 2.0, 3.0, 4.0, 5.0]
    return CellResult.model_construct(
        part=part,
        variant=variant,
        seed=seed,
        inputs=INPUTS,
        learned_from=10,
        held_out=5,
        report=report,
        calibration=calibrate(scores, scores, CalibrationConfig()),
        size=Size(trunk=2_000_000, learned=500_000, macs=None),
        speed=Speed(ms=12.0 + seed, device="CPU (none)", threads=2, jobs=3),
        seconds=7.0,
    )


def made_results(
    *cells: CellResult, titles: dict[str, str], seeds: int = 2, failures: dict[str, str] | None = None
) -> BenchmarkResults:
    names = list(titles)
    return BenchmarkResults.model_construct(
        title="Benchmark: made",
        command="atsnet benchmark made --out x",
        atsnet_version=__version__,
        backbone=BackboneSource(name="random", sha256="", licence="none", origin="tests"),
        configuration=Config().model_dump(mode="json"),
        parts=tuple(sorted({cell.part for cell in cells})),
        titles=titles,
        assignments=dict.fromkeys(names, ()),
        seeds=seeds,
        cells=cells,
        differences=tuple(difference(cells, names[0], other) for other in names[1:]),
        failures=failures or {},
    )
