"""Scores of frames that are no inspections: nothing is recorded, but room and deadline are those of every request."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from atsnet.imaging import Float32Array, ImageError, InputGeometry, UInt8Array
from service import problems
from service.decoding import Decoding
from service.fields import Fields
from service.problems import Problem
from service.recipes import Recipe, RecipeBook, UnknownRecipeError
from service.refusals import RETRY_AFTER_S, as_problem
from service.scheduler import DeadlinePassedError, EngineError, QueueFullError, SchedulerClosedError
from service.setups import Edition, Plan, Setup
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

    def at_one_time(self) -> AbstractContextManager[object]:
        """Keep the bundle until the block ends, whatever is activated meanwhile."""

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
        book: What requests may ask for.
        decoding: Makes frames of images.
    """

    def __init__(self, book: RecipeBook[Plan], decoding: Decoding) -> None:
        self._book = book
        self._decoding = decoding

    def recipe(self, name: str | None) -> Recipe:
        """See `Scoring`."""
        try:
            return self._book.get(name).recipe
        except UnknownRecipeError as error:
            raise as_problem(error) from error

    async def frame(self, image: bytes, recipe: Recipe, deadline: float) -> UInt8Array:
        """See `Scoring`."""
        # Decoded as the recipe says, for the bundle that scores.
        plan = self._book.default.model_copy(update={"recipe": recipe})
        try:
            prepared, _ = await self._decoding.prepare(Submission(image, Fields(), time.monotonic(), deadline), plan)
        except ImageError as error:
            raise as_problem(error) from error
        except TimeoutError:
            raise Problem(problems.DEADLINE_PASSED, TOO_LATE) from None
        return prepared.frame.pixels


class BundleScoring(Frames):
    """Scores in this process, with the default recipe's bundle; see `Scoring`.

    Args:
        edition: What inspects.
        decoding: Makes frames of images.
    """

    def __init__(self, edition: Edition, decoding: Decoding) -> None:
        plans = {name: setup.plan for name, setup in edition}
        super().__init__(RecipeBook(edition.number, plans, edition.default_name), decoding)
        self.model = served_by(edition.default.plan)
        self._setup = edition.default

    @contextmanager
    def at_one_time(self) -> Iterator[None]:
        """See `Scoring`."""
        loaded = self._setup.loaded
        loaded.hold()
        try:
            yield
        finally:
            loaded.release()

    async def score(self, frame: UInt8Array, deadline: float) -> FrameScore:
        """See `Scoring`."""
        return await score(self._setup, frame, deadline)


def served_by(plan: Plan) -> ServedModel:
    """The bundle of a plan."""
    name, _, version = plan.recipe.bundle.partition("/")
    return ServedModel(name, version, plan.geometry, (plan.map_height, plan.map_width))


async def score(setup: Setup, frame: UInt8Array, deadline: float) -> FrameScore:
    """Score one frame with a setup's bundle; see `Scoring.score`."""
    loaded = setup.loaded
    if loaded.unfit is not None:
        raise Problem(problems.NOT_READY, loaded.unfit, retry_after_s=RETRY_AFTER_S)
    loaded.hold()
    try:
        scored = await loaded.scheduler.submit(frame, deadline)
    except DeadlinePassedError:
        raise Problem(problems.DEADLINE_PASSED, TOO_LATE) from None
    except (QueueFullError, SchedulerClosedError) as error:
        raise as_problem(error) from error
    except EngineError as error:
        raise Problem(problems.FAILED, str(error)) from error
    finally:
        loaded.release()
    greatest, least = float(scored.anomaly_map.max()), float(scored.anomaly_map.min())
    if not all(map(math.isfinite, (scored.score, greatest, least))):
        raise Problem(problems.FAILED, "the network answered a score or a map that is not finite")
    threshold = setup.bundle.manifest.calibration.score_threshold
    return FrameScore(scored.score, scored.score / threshold, scored.anomaly_map)
