"""Scores of frames that are no inspections: nothing is recorded, but room and deadline are those of every request."""

import math
import time
from dataclasses import dataclass
from typing import Protocol

from atsnet.imaging import Float32Array, ImageError, InputGeometry, UInt8Array
from model_export.bundle import Bundle
from service import problems
from service.decoding import Decoding
from service.fields import Fields
from service.inspector import as_problem
from service.problems import Problem
from service.recipes import Recipe, RecipeBook, UnknownRecipeError
from service.scheduler import DeadlinePassedError, EngineError, QueueFullError, Scheduler, SchedulerClosedError
from service.submission import Submission

TOO_LATE = "the deadline passed before there was a score"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The bundle that scores, as far as a client has to know it."""

    name: str
    version: str
    geometry: InputGeometry
    map_size: tuple[int, int]
    """`(height, width)` of a map."""


@dataclass(frozen=True, slots=True)
class FrameScore:
    """What the network makes of one frame; every number is finite."""

    score: float
    """Raw score."""
    calibrated: float
    """1.0 is the shipped threshold."""
    anomaly_map: Float32Array
    """Calibrated, `float32 [h, w]`."""


class Scoring(Protocol):
    """Scores frames with one bundle."""

    @property
    def model(self) -> ServedModel:
        """The bundle."""

    def recipe(self, name: str | None) -> Recipe:
        """The recipe of that name, the default one for none.

        Raises:
            Problem: Code 20: there is none.
        """

    async def frame(self, image: bytes, recipe: Recipe, deadline: float) -> UInt8Array:
        """Decode an image file, `uint8 [H, W, C]`.

        Raises:
            Problem: Codes 10, 11, 12: the image cannot be inspected. Code 41: the deadline passed.
        """

    async def score(self, frame: UInt8Array, deadline: float) -> FrameScore:
        """Score one frame, `uint8 [H, W, C]`.

        Args:
            frame: What to score.
            deadline: On the clock of `time.monotonic`.

        Raises:
            Problem: Codes 40, 41, 50: there is no score, and why.
        """


class Frames:
    """Makes frames as an inspection does.

    Args:
        recipes: What requests may ask for.
        decoding: Makes frames of images.
    """

    def __init__(self, recipes: RecipeBook, decoding: Decoding) -> None:
        self._recipes = recipes
        self._decoding = decoding

    def recipe(self, name: str | None) -> Recipe:
        """See `Scoring`."""
        try:
            return self._recipes.get(name)
        except UnknownRecipeError as error:
            raise as_problem(error) from error

    async def frame(self, image: bytes, recipe: Recipe, deadline: float) -> UInt8Array:
        """See `Scoring`."""
        try:
            prepared, _ = await self._decoding.prepare(Submission(image, Fields(), time.monotonic(), deadline), recipe)
        except ImageError as error:
            raise as_problem(error) from error
        except TimeoutError:
            raise Problem(problems.DEADLINE_PASSED, TOO_LATE) from None
        return prepared.frame.pixels


class BundleScoring(Frames):
    """Scores in this process; see `Scoring`.

    Args:
        bundle: What scores.
        recipes: What requests may ask for.
        decoding: Makes frames of images.
        scheduler: Runs the bundle's network.
    """

    def __init__(self, bundle: Bundle, recipes: RecipeBook, decoding: Decoding, scheduler: Scheduler) -> None:
        super().__init__(recipes, decoding)
        manifest = bundle.manifest
        size = (manifest.map_height, manifest.map_width)
        self.model = ServedModel(manifest.name, manifest.version, manifest.input, size)
        self._threshold = manifest.calibration.score_threshold
        self._scheduler = scheduler

    async def score(self, frame: UInt8Array, deadline: float) -> FrameScore:
        """See `Scoring`."""
        try:
            scored = await self._scheduler.submit(frame, deadline)
        except DeadlinePassedError:
            raise Problem(problems.DEADLINE_PASSED, TOO_LATE) from None
        except (QueueFullError, SchedulerClosedError) as error:
            raise as_problem(error) from error
        except EngineError as error:
            raise Problem(problems.FAILED, str(error)) from error
        greatest, least = float(scored.anomaly_map.max()), float(scored.anomaly_map.min())
        if not all(map(math.isfinite, (scored.score, greatest, least))):
            raise Problem(problems.FAILED, "the network answered a score or a map that is not finite")
        return FrameScore(scored.score, scored.score / self._threshold, scored.anomaly_map)
