"""How bright, rich in contrast, sharp and well exposed a frame is, and the gates that turn unusable ones away.

All four are measured inside the frame's inspection mask only, on its grey values.

**Sharpness** is the mean squared Laplacian over the variance, after Pech-Pacheco, Cristobal, Chamorro-Martinez and
Fernandez-Valdivia (Diatom autofocusing in brightfield microscopy, ICPR 2000); the division makes it the same under a
brighter lamp. It is taken at a fixed scale, the frame's longer side made 128 pixels: there, the camera's noise has
averaged out, which at full resolution looks like detail and hides a loss of focus.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atsnet.imaging import UInt8Array

GateName = Literal["brightness", "contrast", "sharpness", "clipped"]

MIN_IMAGES: Final = 15
"""With fewer, the far tail of the good images is a guess."""

_SHARPNESS_SIDE: Final = 128
_CROSS: Final = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_TAIL_SHARE: Final = 0.1
_TAIL_LEAST: Final = 5
_LIMITS: Final = 7
"""Two for brightness, contrast and sharpness each, one for the clipped share."""
_EVEN: Final = 1e-6
"""Contrast and sharpness of an even grey area are 0, which has no logarithm."""
_BRIGHTNESS_SLACK: Final = 10.0
_LOGARITHM_SLACK: Final = 0.2
_CLIPPED_SLACK: Final = 0.1
"""Beyond the prediction limits: gates are for images that cannot be used, not for a lamp that ages."""


class QualityError(ValueError):
    """There is nothing to measure, or too little to learn from; the message says what."""


class Quality(NamedTuple):
    """What an image is like, apart from its part."""

    brightness: float
    """Mean grey value, 0 to 255."""
    contrast: float
    """Standard deviation of the grey values."""
    sharpness: float
    """0 for an even area; the smaller, the further out of focus."""
    clipped: float
    """Share of the pixels that are black (0) or white (255), 0 to 1."""


def measure(frame: UInt8Array) -> Quality:
    """Measure a frame, `uint8 [h, w, 2]` (grey and mask) or `uint8 [h, w, 4]` (red, green, blue and mask).

    Raises:
        QualityError: Its mask is empty.
    """
    channels = frame.shape[2]
    mask = cv2.extractChannel(frame, channels - 1)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        raise QualityError("no pixel of the frame is to be inspected")
    box = (slice(top, top + height), slice(left, left + width))
    grey = (cv2.extractChannel(frame, 0) if channels == 2 else cv2.cvtColor(frame, cv2.COLOR_RGBA2GRAY))[box]
    # A full box, which every frame of `to_frame` is, needs no mask: that is ten times as fast.
    inside = None if cv2.countNonZero(mask) == width * height else mask[box]
    mean, deviation = cv2.meanStdDev(grey, mask=inside)
    between = cv2.inRange(grey, 1, 254)
    if inside is None:
        clipped = 1 - cv2.countNonZero(between) / (width * height)
    else:
        clipped = 1 - cv2.countNonZero(cv2.bitwise_and(between, inside)) / cv2.countNonZero(inside)
    return Quality(
        mean.item(), deviation.item(), _sharpness(grey, inside, _SHARPNESS_SIDE / max(frame.shape[:2])), clipped
    )


def _sharpness(grey: cv2.typing.MatLike, inside: cv2.typing.MatLike | None, scale: float) -> float:
    if scale < 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        if inside is not None:
            inside = cv2.inRange(cv2.resize(inside, size, interpolation=cv2.INTER_AREA), 255, 255)
    pixels = grey.size
    if inside is not None:
        # A pixel's Laplacian takes in its neighbours, which must be inside as well.
        inside = cv2.erode(inside, _CROSS)
        pixels = cv2.countNonZero(inside)
    deviation = cv2.meanStdDev(grey, mask=inside)[1].item()
    if not deviation:
        return 0.0
    return cv2.norm(cv2.Laplacian(grey, cv2.CV_16S), cv2.NORM_L2SQR, mask=inside) / pixels / deviation**2


class Limits(BaseModel):
    """What a quantity may be, both ends included; None for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


@dataclass(frozen=True, slots=True)
class GateFailure:
    """An image that a gate turned away."""

    name: GateName
    value: float
    limit: float

    def __str__(self) -> str:
        beyond = "below" if self.value < self.limit else "above"
        return f"image unusable: its {_MEANINGS[self.name]} is {self.value:.4g}, {beyond} the gate's {self.limit:.4g}"


_MEANINGS: Final[dict[GateName, str]] = {
    "brightness": "brightness (mean grey value, 0 to 255)",
    "contrast": "contrast (standard deviation of the grey values)",
    "sharpness": "sharpness",
    "clipped": "clipped share (black and white pixels, 0 to 1)",
}


class Gates(BaseModel):
    """What an image must be like to be inspected at all; without limits every image passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    brightness: Limits = Limits()
    contrast: Limits = Limits()
    sharpness: Limits = Limits()
    clipped: Limits = Limits()

    def check(self, quality: Quality) -> GateFailure | None:
        """The first gate that an image does not pass, in the order of the fields; None where it passes all."""
        for name in _MEANINGS:
            value, limits = getattr(quality, name), getattr(self, name)
            # Written so that NaN passes no limit.
            if limits.min is not None and not value >= limits.min:
                return GateFailure(name, value, limits.min)
            if limits.max is not None and not value <= limits.max:
                return GateFailure(name, value, limits.max)
        return None


def learn_gates(qualities: Sequence[Quality], false_alarm_rate: float = 1e-3) -> Gates:
    """Gates that further good images, like these, pass but for the given share.

    Each of seven limits is the upper or lower prediction limit for a seventh of the rate, under the
    assumption that the outermost tenth of the values falls off exponentially (as for scores:
    `atsnet.prediction_limits`), and some way beyond: images hardly differ where a line was calibrated on one evening.
    Contrast and sharpness are taken by their logarithms, so that an even area passes only where good images are even.
    One bad image among the good ones moves a limit, but is not the limit.

    Args:
        qualities: Of good images, at least `MIN_IMAGES`.
        false_alarm_rate: Share of the good images that may be turned away, all gates together.

    Raises:
        QualityError: Too few, or a value is not finite.
    """
    values = np.asarray(qualities, np.float64)
    if len(values) < MIN_IMAGES:
        raise QualityError(f"{len(values)} good images are too few to learn gates from; {MIN_IMAGES} are the least")
    if not np.isfinite(values).all():
        raise QualityError("a brightness, contrast, sharpness or clipped share of a good image is not finite")
    brightness, contrast, sharpness, clipped = values.T
    rate = false_alarm_rate / _LIMITS

    def by_logarithm(column: NDArray[np.float64]) -> Limits:
        logarithms = np.log(np.maximum(column, _EVEN))
        low, high = (math.exp(limit) for limit in _outermost(logarithms, rate, _LOGARITHM_SLACK))
        return Limits(min=_rounded(low if low > _EVEN else 0.0, math.floor), max=_rounded(high, math.ceil))

    dark, bright = _outermost(brightness, rate, _BRIGHTNESS_SLACK)
    most_clipped = _upper(clipped, rate) + _CLIPPED_SLACK
    return Gates(
        brightness=Limits(min=_rounded(max(0.0, dark), math.floor), max=_rounded(min(255.0, bright), math.ceil)),
        contrast=by_logarithm(contrast),
        sharpness=by_logarithm(sharpness),
        clipped=Limits(max=_rounded(min(1.0, most_clipped), math.ceil)),
    )


def _outermost(values: NDArray[np.float64], rate: float, slack: float) -> tuple[float, float]:
    return -_upper(-values, rate) - slack, _upper(values, rate) + slack


def _upper(values: NDArray[np.float64], rate: float) -> float:
    """The upper prediction limit of an exponential tail."""
    count = len(values)
    size = max(_TAIL_LEAST, round(_TAIL_SHARE * count))
    ordered = np.sort(values)
    start = ordered[-size - 1]
    reach = max(0.0, size * (((size + 1) / ((count + 1) * rate)) ** (1 / size) - 1))
    return float(start + reach * (ordered[-size:].mean() - start))


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """To four digits, away from the good images: a person reads and edits these."""
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{towards(value / digit) * digit:.6g}")
