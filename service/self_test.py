"""The golden samples: images with known answers, inspected the way of every request before any is accepted."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from atsnet.imaging import ImageError, read_image, to_frame
from model_export.bundle import Bundle, GoldenSample
from service.recipes import Recipe, default_recipe
from service.runtimes.protocol import Runtime
from service.verdict import NotFiniteError, judge

_FLOAT16_ROUNDING: Final = 2.0**-10
"""Relative: the expected maps are stored in half precision."""
_TINY: Final = 1e-12


class SelfTestError(Exception):
    """The runtime does not answer what the bundle was validated with; the message names sample and figures."""


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """A passed self-test."""

    samples: int
    largest_score_difference: float
    """Relative to the expected score."""


def run_self_test(bundle: Bundle, runtime: Runtime) -> SelfTestReport:
    """Inspect every golden sample of a bundle with a loaded runtime.

    Raises:
        SelfTestError: A score is off by more than the manifest's tolerance, a map differs, or a verdict is another.
    """
    recipe = default_recipe(bundle.manifest)
    differences = [_check(bundle, runtime, recipe, sample) for sample in bundle.manifest.golden_samples]
    return SelfTestReport(len(differences), max(differences))


def _check(bundle: Bundle, runtime: Runtime, recipe: Recipe, sample: GoldenSample) -> float:
    manifest = bundle.manifest
    where = f"golden sample {sample.image} of {manifest.name}/{manifest.version}"
    try:
        frame = to_frame(read_image(bundle.file(sample.image)), manifest.input)
        scores, maps = runtime.run(frame.pixels[np.newaxis])
        score = float(scores[0])
        verdict = judge(score, manifest.calibration.score_threshold, recipe).verdict
    except (ImageError, NotFiniteError) as error:
        raise SelfTestError(f"{where}: {error}") from error
    except Exception as error:  # a runtime may raise anything
        raise SelfTestError(f"{where}: the runtime failed: {error}") from error
    difference = abs(score - sample.score) / max(abs(sample.score), _TINY)
    if difference > manifest.score_tolerance:
        raise SelfTestError(
            f"{where}: score {score:.6g}, expected {sample.score:.6g}: off by {difference:.2g} relative, "
            f"{manifest.score_tolerance:.2g} is allowed"
        )
    if verdict != sample.verdict:
        raise SelfTestError(f"{where}: verdict {verdict}, expected {sample.verdict}")
    expected = bundle.golden_map(sample)
    if maps[0].shape != expected.shape:
        raise SelfTestError(f"{where}: map of shape {maps[0].shape}, expected {expected.shape}")
    # The tolerance is that of the score, in units of the map's threshold (1.0) or of its peak where that is greater.
    allowed = manifest.score_tolerance * max(1.0, float(np.abs(expected).max())) + _FLOAT16_ROUNDING * np.abs(expected)
    excess = np.nan_to_num(np.abs(maps[0] - expected) - allowed, nan=np.inf)
    if excess.max() > 0:
        worst = np.unravel_index(int(excess.argmax()), expected.shape)
        raise SelfTestError(
            f"{where}: the anomaly map differs, most at row {worst[0]}, column {worst[1]}: "
            f"{maps[0][worst]:.6g}, expected {expected[worst]:.6g}"
        )
    return difference
