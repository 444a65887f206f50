"""The golden samples: images with known answers, inspected the way of every request before any is accepted."""

from dataclasses import dataclass

import numpy as np

from atsnet.imaging import ImageError, read_image, to_frame
from model_export.bundle import Bundle, BundleError, GoldenSample
from service.recipes import Recipe, default_recipe
from service.runtimes.protocol import Runtime
from service.verdict import NotFiniteError, judge


class SelfTestError(Exception):
    """The runtime does not answer what the bundle was validated with; the message names sample and figures."""


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """A passed self-test."""

    samples: int
    largest_score_difference: float
    """Relative, as `Bundle.check_answer` says."""


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
    where = f"golden sample of {manifest.name}/{manifest.version}"
    try:
        frame = to_frame(read_image(bundle.file(sample.image)), manifest.input)
        scores, maps = runtime.run(frame.pixels[np.newaxis])
        score = float(scores[0])
        verdict = judge(score, manifest.calibration.score_threshold, recipe).verdict
        precision = runtime.describe().precision
        expected = bundle.golden_answer(sample, precision).verdict
        difference = bundle.check_answer(sample, score, maps[0], precision)
    except (ImageError, NotFiniteError) as error:
        raise SelfTestError(f"{where}: {sample.image}: {error}") from error
    except BundleError as error:  # a mismatch is one of them
        raise SelfTestError(f"{where}: {error}") from error
    except Exception as error:  # a runtime may raise anything
        raise SelfTestError(f"{where}: {sample.image}: the runtime failed: {error}") from error
    if verdict != expected:
        raise SelfTestError(f"{where}: {sample.image}: verdict {verdict}, expected {expected}")
    return difference
