"""A worker's scores of frames that are no inspections, by the engine in its own process."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import orjson

from atsnet.imaging import UInt8Array
from service import problems
from service.decoding import Decoding
from service.engine.messages import Kind, decode_problem
from service.engine.session import EngineLostError, Session
from service.engine.slots import SlotsFullError
from service.problems import Problem
from service.recipes import RecipeBook
from service.refusals import RETRY_AFTER_S
from service.scoring import TOO_LATE, Frames, FrameScore, served_by
from service.setups import Plan

_PATIENCE_S = 0.5
"""The engine watches deadlines itself; this much later the worker answers without it."""


class RemoteScoring(Frames):
    """Scores with an engine in another process; see `scoring.Scoring`.

    Args:
        session: The connection to the engine.
        book: What images are decoded by: the plans of one of the engine's editions.
        decoding: Makes frames of images.
        at_one_time: Keeps the engine from closing that edition's bundles for a block; see `scoring.Scoring`.
    """

    def __init__(
        self,
        session: Session,
        book: RecipeBook[Plan],
        decoding: Decoding,
        at_one_time: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__(book, decoding)
        self.model = served_by(book.default)
        self._edition = book.number
        self._session = session
        self.at_one_time = at_one_time

    async def score(self, frame: UInt8Array, deadline: float) -> FrameScore:
        """See `Scoring`."""
        bundle = f"{self.model.name}/{self.model.version}"
        header = orjson.dumps({"deadline": deadline, "edition": self._edition, "bundle": bundle})
        try:
            async with asyncio.timeout_at(deadline + _PATIENCE_S):
                answered = await self._session.ask(Kind.SCORE, header, frame, None, wants_map=True)
        except TimeoutError:
            raise Problem(problems.DEADLINE_PASSED, TOO_LATE) from None
        except SlotsFullError as error:
            raise Problem(problems.OVERLOADED, f"{error}; try again", retry_after_s=RETRY_AFTER_S) from error
        except EngineLostError as error:
            raise Problem(problems.FAILED, str(error)) from error
        if answered.kind is not Kind.SCORED or answered.anomaly_map is None:
            raise decode_problem(answered.header)
        scored = orjson.loads(answered.header)
        height, width = self.model.map_size
        anomaly_map = answered.anomaly_map[: height * width].reshape(height, width)
        return FrameScore(scored["score"], scored["calibrated"], anomaly_map)
