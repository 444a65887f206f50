"""The model card: what a bundle is, for the people who have to trust it, in Markdown.

Source of the form: Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from model_export.bundle import Manifest, Precision
from model_export.parity import ParityReport


def render_model_card(
    manifest: Manifest,
    parities: Mapping[Precision, ParityReport],
    *,
    parameters: int,
    cautions: Sequence[str] = (),
) -> str:
    """Write the card.

    Args:
        manifest: The bundle's manifest, with every file but the card.
        parities: Of each graph.
        parameters: Learned numbers of the trained network, the trunk's and the memory's prototypes among them.
        cautions: What calibration warned of.
    """
    sections = (
        _head(manifest),
        _use(manifest),
        _data(manifest),
        _metrics(manifest.metrics, manifest.calibration.score_threshold),
        _calibration(manifest, cautions),
        *_gates(manifest),
        _parities(parities),
        _golden(manifest),
        _sizes(manifest, parameters),
        *_speeds(manifest),
        _backbone(manifest),
        _configuration(manifest),
        _reproduce(manifest),
    )
    return "\n\n".join(sections) + "\n"


def _head(manifest: Manifest) -> str:
    frame = manifest.input
    kind = "grey" if frame.color == "mono" else "colour"
    return (
        f"# {manifest.name}, version {manifest.version}\n\n"
        f"Inspects images of the product `{manifest.product}` for anomalies: an asymmetric teacher-student network "
        f"(ATS-Net) on {frame.width}x{frame.height} {kind} frames, which answers an anomaly score and an anomaly map "
        f"of {manifest.map_width}x{manifest.map_height} positions. Made {manifest.created:%Y-%m-%d %H:%M} UTC."
    )


def _use(manifest: Manifest) -> str:
    return (
        "## What it is for, and what not\n\n"
        f"- **For** telling good parts of `{manifest.product}` from parts that look unlike them, one part an image, "
        "taken with the camera, lens, lighting and holder that the training images were taken with.\n"
        "- **Not for** other products, other optics or another crop of the image: all of these look anomalous, or "
        "worse, hide what is. Train on images of the line that it is to inspect.\n"
        "- **Not for** naming, measuring or counting defects: it was never shown one, and says only how unusual what "
        "it sees is, and where.\n"
        "- **Not for** defects that are smaller than a few pixels of the frame, or that the image does not show.\n"
        "- It is no safety function. Measure false rejects and escapes on labelled parts of the line before it "
        "decides alone."
    )


def _data(manifest: Manifest) -> str:
    data = manifest.data
    return "## Data\n\nOnly images of good parts were learned from.\n\n" + _table(
        ("", ""),
        (
            ("data set", f"`{data.get('root', 'unknown')}`"),
            ("images that the weights were learned from", data.get("train_images", "unknown")),
            ("good images kept back for quantiles and thresholds", data.get("holdout_images", "unknown")),
            ("sha256 over names and contents", f"`{data.get('sha256', 'unknown')}`"),
        ),
    )


def _metrics(metrics: Mapping[str, Any], score_threshold: float) -> str:
    text = "## Measured\n\n"
    if not metrics:
        return text + "The run was not evaluated on labelled images: how well it detects is unknown."
    figures = {name: value for name, value in metrics.items() if name != "cost"}  # among sizes and speeds
    parts = [
        text + "As `atsnet evaluate` wrote them, at the last training step, which no test image had a say in.",
        _table(("metric", "value"), [(name, _number(value)) for name, value in _flatten(figures)]),
    ]
    labels = metrics.get("labels")
    if isinstance(labels, list) and labels and all(isinstance(row, Mapping) for row in labels):
        header = list(labels[0])
        parts.append(_table(header, [[_number(row.get(key)) for key in header] for row in labels]))
    decisions = metrics.get("decisions")
    if isinstance(decisions, Mapping) and decisions.get("score_threshold") not in (None, score_threshold):
        parts.append("> **Caution:** decisions were counted at another threshold than this bundle's; evaluate again.")
    return "\n\n".join(parts)


def _calibration(manifest: Manifest, cautions: Sequence[str]) -> str:
    calibration = manifest.calibration
    review, review_target = "There is no band in which a person decides.", ""
    if calibration.review_score is not None:
        review = f"From a calibrated score of {_number(calibration.review_score)} to 1 a person decides."
    if calibration.target_review_rate is not None:
        review_target = f", and {_number(100 * calibration.target_review_rate)} % that do not pass"
    text = (
        "## Calibration\n\n"
        f"A part fails when its raw score is above {_number(calibration.score_threshold)}, which is shown as a "
        f"calibrated score of 1. {review} The anomaly map is in units of {_number(calibration.map_threshold)}: a "
        f"position above 1 belongs to an anomalous region. Both come from {calibration.normal_images} good images "
        "that were kept out of training, for a target of "
        f"{_number(100 * calibration.target_false_reject_rate)} % falsely rejected parts{review_target}. "
        f"Method: {calibration.method}. No defective part had a say in it."
    )
    return "\n".join([text, *(f"\n> **Caution:** {caution}" for caution in cautions)])


def _gates(manifest: Manifest) -> Iterator[str]:
    if manifest.gates is None:
        return
    rows = [
        (f"{name} ({unit})", *("none" if end is None else _number(end) for end in (limits.min, limits.max)))
        for name, unit, limits in (
            ("brightness", "mean grey value, 0 to 255", manifest.gates.brightness),
            ("contrast", "standard deviation of the grey values", manifest.gates.contrast),
            ("sharpness", "squared Laplacian over the variance", manifest.gates.sharpness),
            ("clipped", "share of black and white pixels", manifest.gates.clipped),
        )
    ]
    yield (
        "## Gates\n\nLearned, with room to spare, from the good images that the thresholds come from. The score of an "
        "image beyond them means little.\n\n"
        f"{_table(('quantity', 'least', 'most'), rows)}"
    )


def _parities(parities: Mapping[Precision, ParityReport]) -> str:
    return "\n\n".join(["## Parity", *(_parity(precision, parity) for precision, parity in parities.items())])


def _parity(precision: Precision, parity: ParityReport) -> str:
    limits = parity.limits
    rows = (
        ("raw score, absolute", _number(parity.score_absolute_mean), _number(parity.score_absolute_max), ""),
        (
            "raw score, relative",
            _number(parity.score_relative_mean),
            _number(parity.score_relative_max),
            _number(limits.score_relative),
        ),
        (
            "anomaly map, in map thresholds",
            _number(parity.map_absolute_mean),
            _number(parity.map_absolute_max),
            f"{_number(limits.map_relative)} (relative above 1)",
        ),
        ("image AUROC", "", _number(parity.auroc_difference), _number(limits.auroc_absolute)),
        ("verdicts flipped", "", len(parity.flipped), limits.flips(parity.frames)),
        ("verdicts flipped by rounding, on the threshold itself", "", len(parity.ties), ""),
    )
    return (
        f"`{precision}`: {parity.candidate} against {parity.reference}, on {parity.frames} real frames.\n\n"
        f"{_table(('difference', 'mean', 'largest', 'limit'), rows)}"
    )


def _golden(manifest: Manifest) -> str:
    rows = [
        (
            f"[`{sample.image}`]({sample.image})",
            sample.label,
            _number(sample.score / manifest.calibration.score_threshold),
            sample.verdict,
        )
        for sample in manifest.golden_samples
    ]
    return (
        "## Golden samples\n\n"
        "The self-test inspects these and expects these answers. They were chosen to be typical, not at random: they "
        "say nothing about quality.\n\n"
        f"{_table(('image', 'shows', 'calibrated score', 'verdict'), rows)}"
    )


def _sizes(manifest: Manifest, parameters: int) -> str:
    graphs = [
        (f"`{name}` ({precision})", f"{manifest.files[name].bytes / 1e6:.2f} MB")
        for precision, name in manifest.graphs.items()
    ]
    total = sum(entry.bytes for entry in manifest.files.values())
    rows = [
        (
            "parameters of the network, trunk and memory included",
            f"{parameters / 1e6:.2f} million ({4 * parameters / 1e6:.2f} MB in float32)",
        ),
        *graphs,
        ("the bundle without this card", f"{total / 1e6:.2f} MB"),
    ]
    return f"## Sizes\n\n{_table(('', ''), rows)}"


def _speeds(manifest: Manifest) -> Iterator[str]:
    if not manifest.speeds:
        return
    rows = [
        (f"`{precision}`", f"{speed.cpu_ms:.1f} ms", speed.frames, speed.cpu)
        for precision, speed in manifest.speeds.items()
    ]
    parts = [
        "## Speed\n\nCPU time of a frame in ONNX Runtime on one thread, median, on the machine that made this bundle. "
        "`float16` is for GPUs; a CPU converts it back and forth.",
        _table(("graph", "a frame", "frames", "processor"), rows),
    ]
    cost = manifest.metrics.get("cost")
    if isinstance(cost, Mapping):
        parts.append(
            f"`atsnet evaluate` timed the trained network itself, in PyTorch on {cost['device']}, CPU threads: "
            f"{cost['threads']}. From a frame to its map took {cost['latency_ms']:.0f} ms, the median of "
            f"{cost['latency_frames']} frames, one at a time; that is time on the clock, the machine's other work "
            f"included, and the service runs no PyTorch. A frame of {cost['frame_width']}x{cost['frame_height']} takes "
            f"{cost['macs'] / 1e9:.2f} GMAC (1 MAC = 2 FLOP)."
        )
    yield "\n\n".join(parts)


def _backbone(manifest: Manifest) -> str:
    names = {"name": "weights", "licence": "licence", "origin": "origin", "sha256": "sha256"}
    rows = [(names.get(key, key), value) for key, value in manifest.backbone.items()]
    return (
        "## Backbone\n\nThe frozen trunk has a source of its own; its licence goes with this bundle."
        f"\n\n{_table(('', ''), rows)}"
    )


def _configuration(manifest: Manifest) -> str:
    configuration: dict[str, Any] = {
        "input": manifest.input.model_dump(mode="json"),
        "network": manifest.network,
        **{key: manifest.training[key] for key in ("augment", "training", "calibration") if key in manifest.training},
    }
    return f"## Configuration\n\n```json\n{json.dumps(configuration, indent=2)}\n```"


def _reproduce(manifest: Manifest) -> str:
    training = manifest.training
    return (
        "## How to make it again\n\n"
        f"With atsnet {training.get('atsnet_version', 'of unknown version')} and "
        f"torch {training.get('torch_version', 'of unknown version')}: `atsnet train` on the data set above with this "
        "configuration and backbone, `atsnet calibrate`, `atsnet evaluate`, then `atsnet export`. Compare the sha256 "
        "of data and backbone first. On one machine the weights come out bit for bit the same, and one set of weights "
        "always gives the same graph file."
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Scalars and intervals of nested objects under dotted names; other lists, such as image names, are left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, list) or _is_interval(value):
            yield f"{prefix}{key}", value


def _is_interval(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, (int, float)) for end in value)


def _number(value: object) -> str:
    if value is None:
        return "not measured"
    if _is_interval(value):
        return " to ".join(map(_number, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
