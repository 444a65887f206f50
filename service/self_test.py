"""The golden samples: images with known answers, inspected the way of every request.

They are inspected before a bundle serves anyone, and again, through the queue and beside the requests, on demand and
on a schedule.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from atsnet.imaging import Float32Array, Frame, ImageError
from atsnet.limits import DEFAULT_MAX_PIXELS
from atsnet.quality import Gates
from model_export.bundle import Bundle, BundleError, GoldenSample, Precision
from service.picture import measure
from service.preparation import prepare
from service.recipes import Recipe, default_recipe
from service.runtimes.protocol import Runtime
from service.scheduler import DeadlinePassedError, QueueFullError, SchedulerClosedError, Scored
from service.setups import LoadedBundle
from service.verdict import NotFiniteError, judge

_PATIENCE_S: Final = 600.0
"""How long a sample may wait for a place in the queue, and in it; requests go on meanwhile."""
_RETRY_S: Final = 0.05


class SelfTestError(Exception):
    """The runtime does not answer what the bundle was validated with; the message names sample and figures."""


class SelfTestImpossibleError(Exception):
    """The samples could not be inspected, which says nothing about the bundle: the service is too busy, or stops."""


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
    recipe = _recipe(bundle)
    precision = runtime.describe().precision
    differences = []
    for sample in bundle.manifest.golden_samples:
        with _named(bundle, sample):
            frame = _frame(bundle, recipe, sample)
            scores, maps = runtime.run(frame.pixels[np.newaxis])
            differences.append(_compare(bundle, recipe, sample, precision, float(scores[0]), maps[0]))
    return SelfTestReport(len(differences), max(differences))


async def run_self_test_in_service(loaded: LoadedBundle) -> SelfTestReport:
    """Inspect every golden sample of a bundle that serves, through its queue.

    Raises:
        SelfTestError: As `run_self_test`.
        SelfTestImpossibleError: There was no place for them.
    """
    bundle, precision = loaded.bundle, loaded.description.precision
    recipe = _recipe(bundle)
    differences = []
    for sample in bundle.manifest.golden_samples:
        with _named(bundle, sample):
            frame = await asyncio.to_thread(_frame, bundle, recipe, sample)
            scored = await _score(loaded, frame)
            differences.append(_compare(bundle, recipe, sample, precision, scored.score, scored.anomaly_map))
    return SelfTestReport(len(differences), max(differences))


async def _score(loaded: LoadedBundle, frame: Frame) -> Scored:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await loaded.scheduler.submit(frame.pixels, deadline)
        except QueueFullError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_RETRY_S)


def _recipe(bundle: Bundle) -> Recipe:
    # A defect may well look unlike the good parts that gates were learned from.
    return default_recipe(bundle.manifest).model_copy(update={"gates": Gates()})


def _frame(bundle: Bundle, recipe: Recipe, sample: GoldenSample) -> Frame:
    measured = measure(bundle.file(sample.image).read_bytes(), None, DEFAULT_MAX_PIXELS)
    return prepare(measured, recipe, bundle.manifest.input).frame


def _compare(
    bundle: Bundle, recipe: Recipe, sample: GoldenSample, precision: Precision, score: float, anomaly_map: Float32Array
) -> float:
    verdict = judge(score, bundle.manifest.calibration.score_threshold, recipe).verdict
    expected = bundle.golden_answer(sample, precision).verdict
    difference = bundle.check_answer(sample, score, anomaly_map, precision)
    if verdict != expected:
        raise BundleError(f"{sample.image}: verdict {verdict}, expected {expected}")
    return difference


@contextmanager
def _named(bundle: Bundle, sample: GoldenSample) -> Iterator[None]:
    """Turn whatever goes wrong with a sample into a failure that names it."""
    where = f"golden sample of {bundle.manifest.name}/{bundle.manifest.version}"
    try:
        yield
    except (QueueFullError, DeadlinePassedError, SchedulerClosedError) as error:
        raise SelfTestImpossibleError(f"{where}: {sample.image}: {error}") from error
    except (ImageError, NotFiniteError, OSError) as error:
        raise SelfTestError(f"{where}: {sample.image}: {error}") from error
    except BundleError as error:  # a mismatch is one of them
        raise SelfTestError(f"{where}: {error}") from error
    except Exception as error:  # a runtime may raise anything
        raise SelfTestError(f"{where}: {sample.image}: the runtime failed: {error}") from error
