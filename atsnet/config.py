"""Configuration: frozen models that reject unknown keys; the resolved one is saved in whatever it produced."""

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

from atsnet.imaging import InputGeometry


class ConfigError(ValueError):
    """A configuration file is missing, not TOML, or has a wrong or unknown key; the message names it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(_Frozen):
    """Shape of the network; the backbone is fixed."""

    ema_norm: bool = True
    """Standardise the backbone's features by moving averages; without it they are taken as they are."""
    coupling: bool = True
    """Let the teacher's word be the coupling's latents; without it, it is the features themselves."""
    context: bool = True
    """Attention in the student's contextual blocks; without it, their convolutions and feed-forward layers alone."""
    student_sees: Literal["prototypes", "features"] = "prototypes"
    """The nearest prototype of every place, or the features that are there."""
    student_width: int = Field(default=192, gt=0, multiple_of=16)
    """Channels of the student's bottleneck at 1/16; half of it at 1/8."""
    heads: int = Field(default=8, gt=0, multiple_of=2)
    window: int = Field(default=8, gt=0)
    """Side of the local attention's windows, in positions."""
    grid: int = Field(default=8, gt=0)
    """Side of the grid that the global attention's keys are pooled to."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    noise: float = Field(default=0.2, ge=0)
    """Standard deviation of the noise on the student's (standardised) input."""
    coupling_hidden: tuple[PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256)
    """Hidden channels of the coupling's conditioner, from the fine scale to the coarse."""
    coupling_kernel: Literal[1, 3] = 1
    coupling_clamp: float = Field(default=2.0, gt=0)
    """Largest absolute log-scale of the coupling."""
    ema_momentum: float = Field(default=0.99, gt=0, lt=1)
    memory_size: int = Field(default=8_000, ge=0)
    """Prototypes of normal places; 0 for a network without memory."""
    memory_width: int = Field(default=96, gt=0, le=384)
    """Principal components in which they are compared."""
    evidence_width: int = Field(default=48, ge=0)
    """Channels of the evidence head, which learns from pasted anomalies; 0 for a network without it."""
    scale_weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (1.0, 1.0, 0.0)
    """Weight of each scale's residuals in the anomaly map, from the fine scale to the coarse; what 1/16 knows,
    the memory knows better."""
    memory_weight: NonNegativeFloat = 3.0
    """Weight of the memory in the anomaly map."""
    evidence_weight: NonNegativeFloat = 3.0
    """Weight of the evidence head in the anomaly map."""
    border_rings: int = Field(default=10, gt=0)
    """Rings of map positions along the part's border that have quantiles of their own; the last one reaches inwards."""
    smoothing_sigma: float = Field(default=1.25, gt=0)
    """Gaussian smoothing of the anomaly map, in map pixels (4 frame pixels each)."""
    score_fraction: float = Field(default=0.002, gt=0, le=1)
    """Share of the map's positions, the highest ones, whose mean is the image score."""

    @property
    def source_weights(self) -> tuple[float, float, float, float, float]:
        """Weights of the three scales, the memory and the evidence head; 0 for what there is not."""
        memory = self.memory_weight if self.memory_size else 0.0
        return (*self.scale_weights, memory, self.evidence_weight if self.evidence_width else 0.0)


class AugmentConfig(_Frozen):
    """What normal parts do on the line anyway; nothing is on by default."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    shift_pixels: float = Field(default=0.0, ge=0)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    """Relative spread of a random gain."""


class TrainingConfig(_Frozen):
    """The stages; each ends at a fixed step, never at the best one."""

    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=16, gt=0)
    stage1_steps: int = Field(default=200, gt=0)
    stage1_learning_rate: float = Field(default=1e-3, gt=0)
    stage2_steps: int = Field(default=500, gt=0)
    stage2_learning_rate: float = Field(default=2e-3, gt=0)
    stage3_steps: int = Field(default=2_000, gt=0)
    """Of the evidence head, which is small: four of them take as long as one of the student's."""
    stage3_learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    exposure_spread: float = Field(default=0.1, ge=0, lt=1)
    """Every training image is joined by a copy with another exposure, its grey levels times a random gain of this
    standard deviation (of the logarithm); 0 for no copies. Light varies on every line."""
    synthetic_images: int = Field(default=2_000, gt=0)
    """Training images with a pasted anomaly, made once, from which the evidence head learns; their features take 0.9 MB
    of memory each at 256x256."""
    hard_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the positions, those with the largest error, that the student's loss is taken over."""
    holdout_fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the normal images kept out of training, for the channel weights, quantiles and thresholds."""
    bfloat16: bool = True
    """Compute the frozen trunk and the student in bfloat16 where that is faster; weights and losses stay float32."""
    checkpoint_every: int = Field(default=200, gt=0)
    cache_megabytes: int = Field(default=4_096, ge=0)
    """Memory for the frozen trunk's features of all training images and copies, 0.9 MB each at 256x256 in bfloat16;
    where they do not fit, or augmentation changes the pixels, the trunk computes them anew in every step."""


class CalibrationConfig(_Frozen):
    """How thresholds are drawn from held-out normal images."""

    target_false_reject_rate: float = Field(default=0.01, gt=0, lt=1)
    """Share of the good parts that may fail."""
    target_review_rate: float | None = Field(default=None, gt=0, lt=1)
    """Share of the good parts that may fail or be for a person to review; no review by default, since a line that has
    nobody for it must treat these parts as rejects."""

    @model_validator(mode="after")
    def _review_comes_before_failing(self) -> "CalibrationConfig":
        review, fail = self.target_review_rate, self.target_false_reject_rate
        if review is not None and review <= fail:
            raise ValueError(f"target_review_rate = {review:g} must be above target_false_reject_rate = {fail:g}")
        return self


class Config(_Frozen):
    """Everything that a training run depends on, beside its images and the backbone's weights."""

    input: InputGeometry = InputGeometry()
    network: NetworkConfig = NetworkConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="after")
    def _attention_fits(self) -> "Config":
        if not sum(self.network.source_weights) > 0:
            raise ValueError(
                "network.scale_weights, memory_weight and evidence_weight need a positive number among them"
            )
        if self.network.student_sees == "prototypes" and not self.network.memory_size:
            raise ValueError("network.student_sees = 'prototypes' needs a memory: network.memory_size is 0")
        for width in (self.network.student_width, self.network.student_width // 2):
            if width % self.network.heads:
                raise ValueError(f"network.heads = {self.network.heads} does not divide the student's {width} channels")
        for stride in (8, 16):
            for name, size in (("height", self.input.height), ("width", self.input.width)):
                for key, side in (("window", self.network.window), ("grid", self.network.grid)):
                    if size // stride % side:
                        raise ValueError(
                            f"network.{key} = {side} does not divide the {size // stride} positions that "
                            f"input.{name} = {size} has at 1/{stride}"
                        )
        return self


class PretrainingConfig(_Frozen):
    """What to pretrain on, with which objective and for how long."""

    objective: Literal["formula", "vicreg"] = "formula"
    """`formula`: label every cell of procedural scenes; at the end, layer2 and layer3 are set to hand on what layer1
    learned. `vicreg`: agree on two views; the one for unlabelled images."""
    steps: int = Field(default=3_000, gt=0)
    batch_size: int = Field(default=32, gt=1)
    size: int = Field(default=128, ge=64, multiple_of=16)
    """Side of the training images in pixels."""
    textures: int = Field(default=96, gt=4)
    """Number of formulas."""
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    seed: int = Field(default=0, ge=0)
    bfloat16: bool = True
    """Compute in bfloat16 where the processor has instructions for it; weights and statistics stay float32."""
    workers: int = Field(default=1, ge=0)
    """Processes that render or load images."""

    @model_validator(mode="after")
    def _warmup_is_shorter(self) -> "PretrainingConfig":
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} must be less than steps = {self.steps}")
        return self


def load_config(path: Path | None = None, assignments: Iterable[str] = ()) -> Config:
    """Read a TOML file and change single keys of it; keys that are in neither have their defaults.

    Args:
        path: The file; none by default.
        assignments: `network.student_width=160`, the value in TOML; text without quotes is taken as it is.

    Raises:
        ConfigError: The file cannot be read, an assignment is none, a key is unknown or its value wrong.
    """
    content = {} if path is None else _read_toml(path)
    assigned = [_assign(content, assignment) for assignment in assignments]
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        of_file = path is not None and not all(
            _key_of(problem).startswith(tuple(assigned)) for problem in error.errors()
        )
        raise ConfigError(f"{path}: {describe(error, Config)}" if of_file else describe(error, Config)) from error


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with the values for a model, by their keys alone; for an unknown key, which one may be meant."""
    return "; ".join(_describe_one(problem, model) for problem in error.errors())


def _describe_one(problem: ErrorDetails, model: type[BaseModel]) -> str:
    key = _key_of(problem)
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(key, _keys_of(model), n=1)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}".lstrip(": ")


def _key_of(problem: ErrorDetails) -> str:
    return ".".join(map(str, problem["loc"]))


def _keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all keys, those of tables included."""
    found = []
    for name, field in model.model_fields.items():
        found.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _keys_of(field.annotation, f"{prefix}{name}.")
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _assign(content: dict[str, Any], assignment: str) -> str:
    """Put in the value of one key, and return the key."""
    key, equals, text = assignment.partition("=")
    *tables, name = key.strip().split(".")
    if not equals or not name:
        raise ConfigError(f"{assignment!r} is no assignment; write it as network.student_width=160")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{assignment}: {table} is a value, not a table")
    content[name] = value
    return key.strip()
