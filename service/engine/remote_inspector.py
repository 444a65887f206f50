"""A worker's inspections: decoded here, handed to the engine, answered."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from atsnet.imaging import ImageError
from service import problems
from service.decoding import Decoder
from service.engine.messages import Drawing, Kind, decode_problem, encode_request
from service.engine.session import EngineLostError, Session
from service.engine.slots import SlotsFullError
from service.inspector import Inspect
from service.preparation import Prepared
from service.problems import Problem
from service.recipes import RecipeBook, UnknownRecipeError
from service.refusals import RETRY_AFTER_S, as_problem, check_in_time, late
from service.reply import Reply
from service.setups import Plan
from service.submission import Submission

_PATIENCE_S: Final = 0.5
"""The engine watches deadlines itself; this much later the worker answers without it."""
_MAX_LOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Lost:
    """An inspection that was answered an error because its engine ended, and that is not recorded yet."""

    header: bytes
    """As `encode_request` made it."""
    why: str


class RemoteInspector:
    """Takes submissions to verdicts with an engine in another process; see `inspector.Inspector`.

    Args:
        session: The connection to the engine.
        book: What images are decoded by: the plans of one of the engine's editions.
        decoder: Makes frames, and pictures of maps.
        lost: Takes what an engine took along, for the next one to record.
        keeps_images: Whether the engine has use for the image itself.
    """

    def __init__(
        self, session: Session, book: RecipeBook[Plan], decoder: Decoder, lost: list[Lost], *, keeps_images: bool
    ) -> None:
        self._session = session
        self._book = book
        self._decoder = decoder
        self._lost = lost
        self._keeps_images = keeps_images
        self._under_way = 0
        self._successor: RemoteInspector | None = None

    def retire(self, successor: "RemoteInspector") -> None:
        """Leave requests to come to another one; the engine keeps the edition until those under way are answered."""
        self._successor = successor
        self._let_go_if_idle()

    def _let_go_if_idle(self) -> None:
        if self._successor is not None and not self._under_way:
            self._session.let_go(self._book.number)

    async def inspect(self, submission: Submission, client: AbstractAsyncContextManager[None]) -> Reply:
        """Inspect one image, or replay the verdict that the same request got before.

        Args:
            submission: The image and what was said of it.
            client: A context that stops the work in it when the client has gone.

        Raises:
            Problem: There is no verdict, and why.
            ClientDisconnect: The client left before there was one.
        """
        if self._successor is not None and not self._under_way:  # the engine has been told that nobody comes any more
            return await self._successor.inspect(submission, client)
        self._under_way += 1
        try:
            async with asyncio.timeout_at(submission.deadline) as limit, client:
                prepared, sha256, decode_ms = await self._prepare(submission)
                limit.reschedule(submission.deadline + _PATIENCE_S)
                reply = await self._ask(submission, prepared, sha256, decode_ms)
        except TimeoutError:
            raise late(submission) from None
        finally:
            self._under_way -= 1
            self._let_go_if_idle()
        check_in_time(submission, reply)
        return reply

    @contextmanager
    def at_one_time(self) -> Iterator[Inspect]:
        """See `front.Inspects`."""
        if self._successor is not None and not self._under_way:
            with self._successor.at_one_time() as inspect:
                yield inspect
            return
        self._under_way += 1
        try:
            yield self.inspect
        finally:
            self._under_way -= 1
            self._let_go_if_idle()

    async def _prepare(self, submission: Submission) -> tuple[Prepared | Problem, str, float]:
        try:
            plan = self._book.get(submission.fields.recipe)
            prepared, decode_ms = await self._decoder.prepare(submission, plan)
        except (ImageError, UnknownRecipeError) as error:
            problem = as_problem(error)
            if submission.fields.request_key is None:
                raise problem from error
            # An earlier verdict on the same request goes before whatever is wrong with this one.
            return problem, await self._decoder.sha256(submission), 0.0
        return prepared, prepared.sha256, decode_ms

    async def _ask(self, submission: Submission, outcome: Prepared | Problem, sha256: str, decode_ms: float) -> Reply:
        frame = outcome.frame.pixels if isinstance(outcome, Prepared) else None
        image = submission.image if self._keeps_images and frame is not None else None
        header = encode_request(submission, self._book.number, sha256, decode_ms, outcome)
        try:
            answered = await self._session.inspect(header, frame, image, wants_map=submission.fields.heatmap != "none")
        except SlotsFullError as error:
            raise Problem(problems.OVERLOADED, f"{error}; try again", retry_after_s=RETRY_AFTER_S) from error
        except EngineLostError as error:
            if frame is not None and len(self._lost) < _MAX_LOST:
                self._lost.append(Lost(header, str(error)))
            detail = f"{error}; a retry with the same key gets the verdict if there was one, else a new inspection"
            raise Problem(problems.FAILED, detail) from error
        if answered.kind is not Kind.REPLY:
            raise decode_problem(answered.header)
        reply = Reply.model_validate_json(answered.header)
        if reply.heatmap is not None and answered.anomaly_map is not None:
            drawing = Drawing.model_validate_json(reply.heatmap)
            size = (drawing.height, drawing.width)
            anomaly_map = answered.anomaly_map[: math.prod(size)].reshape(size)
            picture = await self._decoder.picture(submission, drawing.layout, anomaly_map)
            reply = reply.model_copy(update={"heatmap": picture})
        return reply
