"""What is to run: the cells of a benchmark, one for every part, variant and seed.

All cells have one configuration; a variant is a method with the keys of it that are changed on purpose. The seed
decides the network's beginning and, the same way for every method, which good images are held out.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from atsnet import __version__
from atsnet.calibration import MIN_IMAGES
from atsnet.config import Config, load_config
from atsnet.data.frames import detect_color
from atsnet.data.layout import DataError, Dataset, Sample, fingerprint, images_to_hold_out
from atsnet.progress import Reporter, silent

ATS_NET: Final = "ats-net"
METHODS: Final = (ATS_NET, "mkd", "stfpm", "patchcore", "padim")
"""ATS-Net and the baselines of `atsnet.baselines.methods`, in the order of the tables."""
TITLES: Final = {ATS_NET: "ATS-Net", "mkd": "MKD", "stfpm": "STFPM", "patchcore": "PatchCore", "padim": "PaDiM"}


@dataclass(frozen=True, slots=True)
class Variant:
    """A method, and what of the configuration is changed for it."""

    name: str
    """Also a folder's name."""
    title: str
    method: str
    assignments: tuple[str, ...] = ()
    """As `atsnet.config.load_config` takes them."""


_EMA_NORM: Final = "network.ema_norm=false"
_COUPLING: Final = "network.coupling=false"
_CONTEXT: Final = "network.context=false"
_MEMORY: Final = ("network.memory_size=0", "network.student_sees=features")
_EVIDENCE_HEAD: Final = "network.evidence_width=0"

LADDER: Final = (
    Variant("mkd", "MKD", "mkd"),
    Variant(
        "asymmetric-student",
        "+ asymmetric student",
        ATS_NET,
        (_EMA_NORM, _COUPLING, _CONTEXT, *_MEMORY, _EVIDENCE_HEAD),
    ),
    Variant("ema-norm", "+ EMA normalisation", ATS_NET, (_COUPLING, _CONTEXT, *_MEMORY, _EVIDENCE_HEAD)),
    Variant("coupling", "+ coupling", ATS_NET, (_CONTEXT, *_MEMORY, _EVIDENCE_HEAD)),
    Variant("context", "+ dual-scale context", ATS_NET, (*_MEMORY, _EVIDENCE_HEAD)),
    Variant("memory", "+ memory of prototypes", ATS_NET, (_EVIDENCE_HEAD,)),
    Variant("evidence-head", "+ evidence head", ATS_NET),
)
"""The ablation: each step switches on one part more than the one before, from the paper's baseline over the paper's own
parts to the whole network. The last two parts are ours: without them it stands where the paper's network would."""


class CellInputs(BaseModel):
    """All that a cell's result depends on; one with other inputs is run again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    atsnet_version: str
    method: str
    settings: str
    """Sha256 of the part of the configuration that the method looks at."""
    backbone: str
    """Sha256 of the trunk's file."""
    train: str
    """Fingerprint of the good images to learn from, the held-out ones included."""
    test: str
    """Fingerprint of the test images and their masks."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One part, variant and seed."""

    dataset: Dataset
    variant: Variant
    config: Config
    inputs: CellInputs

    @property
    def seed(self) -> int:
        """Of training and holdout."""
        return self.config.training.seed

    @property
    def path(self) -> Path:
        """Where the cell's files lie below the benchmark's folders."""
        return Path(self.dataset.name, self.variant.name, f"seed-{self.seed}")

    def __str__(self) -> str:
        return f"{self.dataset.name}, {self.variant.name}, seed {self.seed}"


def method_variants(names: Iterable[str]) -> tuple[Variant, ...]:
    """The methods of these names, as they are."""
    return tuple(Variant(name, TITLES[name], name) for name in names)


def plan_cells(
    datasets: Sequence[Dataset],
    variants: Sequence[Variant],
    seeds: int,
    *,
    backbone_sha256: str,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    report: Reporter = silent,
) -> list[Cell]:
    """All cells, part by part.

    Args:
        datasets: The parts, each with test images.
        variants: What is compared.
        seeds: Of each, 0 and upwards.
        backbone_sha256: Of the trunk's file.
        config: A TOML file that all cells share.
        assignments: Single keys that are changed for all cells, before those of a variant. Where neither says it,
            `input.color` follows the images of the part.
        report: Told how far it is: every image is read, so that an altered one is noticed.

    Raises:
        ConfigError: A key is unknown or a value wrong, of any variant.
        DataError: A part has no test images, or too few good ones to calibrate on, or an image cannot be read.
    """
    untested = [str(dataset.root) for dataset in datasets if not dataset.test]
    if untested:
        raise DataError(f"there is nothing to test on in {', '.join(untested)}: only good images to learn from")
    configs = {
        (variant, seed): load_config(config, [*assignments, *variant.assignments, f"training.seed={seed}"])
        for variant in variants
        for seed in range(seeds)
    }
    for dataset in datasets:
        for resolved in configs.values():
            _check_holdout(dataset, resolved.training.holdout_fraction)
    cells = []
    for index, dataset in enumerate(datasets):
        masks = [Sample(sample.mask, f"{sample.name} mask") for sample in dataset.test if sample.mask]
        train, test = fingerprint(dataset.train), fingerprint([*dataset.test, *masks])
        color = detect_color(dataset.train)
        for (variant, _), resolved in configs.items():
            if "color" not in resolved.input.model_fields_set:
                resolved = resolved.model_copy(update={"input": resolved.input.model_copy(update={"color": color})})
            inputs = CellInputs(
                atsnet_version=__version__,
                method=variant.method,
                settings=_hash_settings(resolved, variant.method),
                backbone=backbone_sha256,
                train=train,
                test=test,
            )
            cells.append(Cell(dataset, variant, resolved, inputs))
        report("looking at the images", index + 1, len(datasets))
    return cells


def _check_holdout(dataset: Dataset, fraction: float) -> None:
    needed = images_to_hold_out(MIN_IMAGES, fraction)
    if len(dataset.train) < needed:
        raise DataError(
            f"{dataset.root} has too few good images to learn from, {len(dataset.train)}: calibration takes "
            f"{MIN_IMAGES} held-out ones, so {needed} are needed with training.holdout_fraction = {fraction:g}"
        )


def _hash_settings(config: Config, method: str) -> str:
    """A baseline has settings of its own: of the configuration it only shares the frame, the split and the target."""
    settings = config.model_dump(mode="json")
    if method != ATS_NET:
        training = {key: settings["training"][key] for key in ("seed", "holdout_fraction")}
        settings = {"input": settings["input"], "training": training, "calibration": settings["calibration"]}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
