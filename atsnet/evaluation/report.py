"""An evaluation for people: on a terminal, in Markdown, and as one HTML file.

Every figure is explained in docs/evaluation.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import table as rich_table
from rich.console import Group
from rich.text import Text

from atsnet.data.layout import GOOD
from atsnet.evaluation.assessment import AUPRO_LIMIT, AUPRO_STRICT_LIMIT, DecisionReport, EvaluationReport, LabelReport
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
from atsnet.wording import counted

NOT_DEFINED = "not defined"


def report_markdown(
    report: EvaluationReport, charts: Sequence[Picture], overlays: Sequence[Picture], about: Mapping[str, str]
) -> str:
    """The report with its pictures by name.

    Args:
        report: The figures.
        charts: Curves and histograms.
        overlays: Images with heatmaps.
        about: What was evaluated, by name and value: the run, its trunk, its images.
    """
    return to_markdown(_title(report), _blocks(report, charts, overlays, about))


def report_html(
    report: EvaluationReport,
    charts: Sequence[Picture],
    overlays: Sequence[Picture],
    about: Mapping[str, str],
    folder: Path,
) -> str:
    """The same as one page that carries its pictures, which are read from `folder`."""
    return to_html(_title(report), _blocks(report, charts, overlays, about), folder)


def report_table(report: EvaluationReport) -> Group:
    """The figures of each label as a table, those of the whole set below it, for `rich.print`."""
    table = rich_table.Table(title=f"{report.dataset}: {counted(report.images, 'test image')}", title_justify="left")
    columns = ("label", "images", "image AUROC", "image AP", f"AUPRO@{AUPRO_LIMIT:g}", "failed")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for row in report.labels:
        failed = "" if row.failed is None else f"{row.failed} ({row.failed / row.images:.1%})"
        figures = ("", "", "") if row.label == GOOD else map(percent, (row.image_auroc, row.image_ap, row.aupro))
        table.add_row(Text(row.label), str(row.images), *figures, failed)
    lines = [
        f"image AUROC {percent(report.image_auroc)}  AP {percent(report.image_ap)}  "
        f"F1-max {percent(report.image_f1_max)}",
        f"AUPRO@{AUPRO_LIMIT:g} {percent(report.aupro)}  AUPRO@{AUPRO_STRICT_LIMIT:g} {percent(report.aupro_005)}  "
        f"({counted(report.regions, 'region')})",
        f"pixel AUROC {percent(report.pixel_auroc)}  AP {percent(report.pixel_ap)}  "
        f"F1-max {percent(report.pixel_f1_max)}",
    ]
    decisions = report.decisions
    if decisions:
        rejects = f"{percent(decisions.false_reject_rate)}{_between(decisions.false_reject_interval)}"
        lines.append(f"false rejects {rejects} (target {decisions.target_false_reject_rate:.2%})")
        lines.append(f"escapes {percent(decisions.escape_rate)}{_between(decisions.escape_interval)}")
        if decisions.review_from is not None:
            lines.append(f"for review {decisions.good_reviewed} good, {decisions.defective_reviewed} defective")
    else:
        lines.append("no threshold yet: calibrate the run")
    if report.cost:
        lines.append(
            f"{report.cost.latency_ms:.1f} ms a frame ({report.cost.device}, {counted(report.cost.threads, 'thread')})"
            f", {report.cost.parameter_bytes / 1e6:.2f} MB, {report.cost.macs / 1e9:.2f} GMAC"
        )
    if report.without_mask:
        lines.append(f"{counted(len(report.without_mask), 'defective image')} without a mask, for image figures only")
    return Group(table, Text("\n".join(lines)))


def percent(value: float | None) -> str:
    """A share of 1 for people; what is not defined says so."""
    return NOT_DEFINED if value is None else f"{value:.2%}"


def _title(report: EvaluationReport) -> str:
    return f"Evaluation on {report.dataset}"


def _blocks(
    report: EvaluationReport, charts: Sequence[Picture], overlays: Sequence[Picture], about: Mapping[str, str]
) -> list[Block]:
    decisions = report.decisions
    blocks: list[Block] = [
        Cards(_headline(report)),
        *(Paragraph(f"Warning: {warning}") for warning in report.warnings),
        Heading("Images: is the part defective?"),
        _images(report),
    ]
    if decisions is None:
        blocks.append(Paragraph("No threshold is deployed: calibrate the run to see false rejects and escapes."))
    blocks += [Heading("By defect"), _by_label(report.labels, decisions)]
    if charts:
        blocks += [Heading("Curves and scores"), Pictures(tuple(charts))]
    blocks += [Heading("Pixels: where is the defect?"), _pixels(report)]
    if report.without_mask:
        blocks.append(
            Paragraph(
                f"{counted(len(report.without_mask), 'defective image')} without a mask or with an empty one, for "
                f"image figures only: {', '.join(report.without_mask)}"
            )
        )
    if overlays:
        blocks += [Heading("Pictures"), Pictures(tuple(overlays))]
    if report.cost:
        blocks += [Heading("Time and size"), _cost(report)]
    blocks += [Heading("What was evaluated"), Table(("", ""), tuple(about.items()), frozenset({0, 1}))]
    return blocks


def _headline(report: EvaluationReport) -> tuple[Card, ...]:
    good = sum(row.images for row in report.labels if row.label == GOOD)
    cards = [
        Card(
            "Image AUROC",
            percent(report.image_auroc),
            f"{good} good, {counted(report.images - good, 'defective image')}",
        ),
        Card(
            f"AUPRO@{AUPRO_LIMIT:g}",
            percent(report.aupro),
            f"{counted(report.regions, 'region')} on {counted(report.pixel_images, 'image')}",
        ),
    ]
    if report.decisions:
        decisions = report.decisions
        cards += [
            Card("False rejects", percent(decisions.false_reject_rate), _interval(decisions.false_reject_interval)),
            Card("Escapes", percent(decisions.escape_rate), _interval(decisions.escape_interval)),
        ]
    if report.cost:
        cost = report.cost
        cards.append(
            Card("One frame", f"{cost.latency_ms:.1f} ms", f"{cost.device}, {counted(cost.threads, 'thread')}")
        )
    return tuple(cards)


def _images(report: EvaluationReport) -> Table:
    rows = [
        ("AUROC", percent(report.image_auroc), "the chance that a defective image scores above a good one"),
        ("AP", percent(report.image_ap), "average precision; defective images are the positives"),
        ("F1-max", percent(report.image_f1_max), "at the best threshold, found with the labels"),
    ]
    decisions = report.decisions
    if decisions:
        good = sum(row.images for row in report.labels if row.label == GOOD)
        rejects, escapes = _interval(decisions.false_reject_interval), _interval(decisions.escape_interval)
        rows += [
            (
                "false rejects",
                percent(decisions.false_reject_rate),
                f"{decisions.false_rejects} of {counted(good, 'good image')} fail at the deployed threshold; "
                f"{rejects}; target {decisions.target_false_reject_rate:.2%}",
            ),
            (
                "escapes",
                percent(decisions.escape_rate),
                f"{decisions.escapes} of {counted(report.images - good, 'defective image')} pass it; {escapes}",
            ),
        ]
        if decisions.review_from is not None:
            reviewed = f"{decisions.good_reviewed} good and {counted(decisions.defective_reviewed, 'defective image')}"
            rows.append(("for review", str(decisions.good_reviewed + decisions.defective_reviewed), reviewed))
    return Table(("figure", "value", ""), tuple(rows), frozenset({0, 2}))


def _pixels(report: EvaluationReport) -> Table:
    regions = f"over {counted(report.regions, 'region')} at original resolution, false-positive rate up to"
    rows = [
        (f"AUPRO@{AUPRO_LIMIT:g}", percent(report.aupro), f"{regions} {AUPRO_LIMIT:g}"),
        (f"AUPRO@{AUPRO_STRICT_LIMIT:g}", percent(report.aupro_005), f"{regions} {AUPRO_STRICT_LIMIT:g}"),
        ("pixel AUROC", percent(report.pixel_auroc), "large defects outweigh small ones, and the background both"),
        ("pixel AP", percent(report.pixel_ap), "average precision; defect pixels are the positives"),
        ("pixel F1-max", percent(report.pixel_f1_max), "at the best threshold, found with the masks"),
        ("foreground IoU at F1-max", percent(report.iou_at_f1_max), "there too: the largest of any threshold"),
        ("two-class mean IoU at F1-max", percent(report.mean_iou_two_class_at_f1_max), "half of it is background"),
    ]
    if report.pro_at_recall:
        point = report.pro_at_recall
        rows.append(
            (
                f"PRO at {point.pixel_recall:.0%} pixel recall",
                percent(point.pro),
                f"at a false-positive rate of {point.fpr:.2%} of the defect-free pixels",
            )
        )
    decisions = report.decisions
    if decisions and decisions.pixel_fpr is not None:
        rows += [
            (
                "foreground IoU, deployed",
                percent(decisions.iou),
                "at the deployed map threshold, from good images only",
            ),
            ("two-class mean IoU, deployed", percent(decisions.mean_iou_two_class), "half of it is background"),
            (
                "PRO, deployed",
                percent(decisions.pro),
                f"at a false-positive rate of {decisions.pixel_fpr:.3%} of the defect-free pixels",
            ),
        ]
    return Table(("figure", "value", ""), tuple(rows), frozenset({0, 2}))


def _by_label(labels: Sequence[LabelReport], decisions: DecisionReport | None) -> Table:
    reviews = decisions is not None and decisions.review_from is not None
    header = ["label", "images", "AUROC", "AP", f"AUPRO@{AUPRO_LIMIT:g}", f"AUPRO@{AUPRO_STRICT_LIMIT:g}"]
    header += ["pixel AUROC", "pixel AP", "regions"]
    header += ["failed"] if decisions else []
    header += ["for review"] if reviews else []
    header += ["escapes", "95 % interval"] if decisions else []
    rows = []
    for row in labels:
        shares = (row.image_auroc, row.image_ap, row.aupro, row.aupro_005, row.pixel_auroc, row.pixel_ap)
        defect = row.label != GOOD
        cells = [row.label, str(row.images), *(percent(share) if defect else "" for share in shares), str(row.regions)]
        cells += [str(row.failed)] if decisions else []
        cells += [str(row.reviewed)] if reviews else []
        if decisions:
            cells += [percent(row.escape_rate), _range(row.escape_interval)] if defect else ["", ""]
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows))


def _cost(report: EvaluationReport) -> Table:
    cost = report.cost
    assert cost is not None
    return Table(
        ("", "value", ""),
        (
            (
                "latency",
                f"{cost.latency_ms:.1f} ms",
                f"median of {cost.latency_frames} frames of {cost.frame_width}x{cost.frame_height}, one at a time, "
                f"PyTorch on {cost.device} with {counted(cost.threads, 'thread')}",
            ),
            (
                "parameters",
                f"{cost.parameters:,}",
                f"{cost.parameter_bytes / 1e6:.2f} MB in float32, the trunk included",
            ),
            ("arithmetic", f"{cost.macs / 1e9:.2f} GMAC", "for one frame (1 MAC = 2 FLOP)"),
        ),
        frozenset({0, 2}),
    )


def _range(interval: tuple[float, float] | None) -> str:
    return NOT_DEFINED if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"


def _interval(interval: tuple[float, float] | None) -> str:
    return NOT_DEFINED if interval is None else f"95 % interval {_range(interval)}"


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f", 95 % interval {_range(interval)}"
