"""A worker's stand-in for the station: it decodes and answers, the engine in its own process does the rest."""

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from socket import socket
from typing import Any, Final, TypeVar

import numpy as np
import structlog
from prometheus_client.registry import CollectorRegistry

from atsnet.imaging import Float32Array, ImageError
from service import problems
from service.decoding import Decoder
from service.engine.management import RemoteManagement
from service.engine.messages import Drawing, Kind, Welcome, decode_problem, encode_request
from service.engine.remote_scoring import RemoteScoring
from service.engine.session import EngineLostError, Session
from service.engine.slots import SlotsFullError
from service.front import Front
from service.inspector import Inspect
from service.metrics import OTHER_STATIONS, Exposition, Restarts, expose, ready_gauge
from service.picture import ImageFile
from service.preparation import Prepared
from service.problems import Problem
from service.recipes import RecipeBook, UnknownRecipeError
from service.records.database import database_url
from service.records.store import RecordReader
from service.refusals import RETRY_AFTER_S, as_problem, check_in_time, late
from service.reply import Reply
from service.settings import Settings
from service.setups import Plan
from service.submission import Submission

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_PATIENCE_S: Final = 0.5
"""The engine watches deadlines itself; this much later the worker answers without it."""
_COUNTS_S: Final = 0.1
_CALL_S: Final = 30.0
_MAX_LOST: Final = 10_000
_MAX_KINDS: Final = 64


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


class RemoteArchive:
    """Reads what the engine keeps; see `archive.Archive`. To be called from threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()

    def has(self, inspection_id: str) -> bool:
        """Whether the image of that inspection is kept."""
        return bool(self._wait(self._session.call("has", id=inspection_id)).answer["has"])

    def image(self, inspection_id: str) -> ImageFile | None:
        """The kept image, `None` if it was not kept or had to make room."""
        blob = self._wait(self._session.call("image", id=inspection_id))
        return None if blob.data is None else ImageFile(blob.answer["suffix"], blob.data)

    def anomaly_map(self, inspection_id: str) -> Float32Array | None:
        """The kept map, calibrated, `float32 [h, w]`; `None` if it was not kept or had to make room."""
        blob = self._wait(self._session.call("map", id=inspection_id))
        return None if blob.data is None else np.frombuffer(blob.data, np.float32).reshape(blob.answer["shape"])

    def _wait(self, call: Coroutine[Any, Any, _T]) -> _T:
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result(_CALL_S)
        except (EngineLostError, TimeoutError) as error:
            raise Problem(problems.NOT_READY, str(error), retry_after_s=RETRY_AFTER_S) from error


class RemoteCounts:
    """Gathers what this worker counts; the engine keeps the sums, so that they outlive the worker."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str | None, str]] = Counter()
        self._missed = 0
        self._session: Session | None = None
        self._sending: asyncio.TimerHandle | None = None

    def attach(self, session: Session | None) -> None:
        """Send to this engine from now on; to none, they gather."""
        self._session = session
        self._schedule()

    def request(self, station: str | None, outcome: str) -> None:
        """Count a request; where too many kinds gather, for one note and while there is no engine, stations merge."""
        if (station, outcome) not in self._requests and len(self._requests) >= _MAX_KINDS:
            self.send()
            if self._requests:
                station = OTHER_STATIONS
        self._requests[station, outcome] += 1
        self._schedule()

    def deadline_missed(self) -> None:
        """Count a request whose deadline passed."""
        self._missed += 1
        self._schedule()

    def send(self) -> None:
        """Send what has gathered."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._session is None or not (self._requests or self._missed):
            return
        counts = [(station, outcome, times) for (station, outcome), times in self._requests.items()]
        self._session.count(counts, self._missed)
        self._requests.clear()
        self._missed = 0

    def _schedule(self) -> None:
        if self._sending is None and self._session is not None:
            self._sending = asyncio.get_running_loop().call_later(_COUNTS_S, self.send)


@dataclass(frozen=True, slots=True)
class RemoteEquipment:
    """What a worker works with while it is connected to an engine."""

    inspector: RemoteInspector
    records: RecordReader
    archive: RemoteArchive
    scoring: RemoteScoring
    management: RemoteManagement
    bundle_name: str
    digest: str


class RemoteStation(Front):
    """The station as a worker has it: ready while an engine is.

    Args:
        settings: How it is set up.
        decode_threads: Images that are decoded at the same time.
    """

    def __init__(self, settings: Settings, decode_threads: int) -> None:
        super().__init__(settings)
        self.restarts = Restarts()
        self._registry = CollectorRegistry()
        self._registry.register(self.restarts)
        ready_gauge(self._registry)
        self._decode_threads = decode_threads
        self._counts = RemoteCounts()
        self._session: Session | None = None
        self._equipment: RemoteEquipment | None = None
        self._edition = 0
        """Number of what the engine said last."""
        self._decoder: Decoder | None = None
        self._records: RecordReader | None = None
        self._lost: list[Lost] = []
        self.bell.on_listening = self._listen

    @property
    def equipment(self) -> RemoteEquipment:
        """What it works with.

        Raises:
            Problem: Code 40: there is no engine.
        """
        if self._equipment is None:
            raise self._not_ready()
        return self._equipment

    @property
    def metrics(self) -> RemoteCounts:
        """Where requests are counted."""
        return self._counts

    def connect(self, sock: socket) -> None:
        """Take over the connection to an engine; its welcome makes the station ready."""
        if self._session is not None:
            self._session.close()
            self._lose(self._session)
        self._session = Session(sock, self._welcome, self._lose, self.bell.ring, self.tell_drift)

    async def exposition(self, accept: str) -> Exposition:
        """All metrics of the service, from the engine; those that are known here while there is none."""
        if self._session is not None and self._equipment is not None:
            self._counts.send()
            try:
                async with asyncio.timeout(_CALL_S):
                    told = await self._session.call("metrics", accept=accept)
                return Exposition(told.data or b"", told.answer["content_type"])
            except (EngineLostError, TimeoutError):
                pass
        return expose(self._registry, accept)

    async def start(self) -> None:
        """Nothing to do: the engine starts by itself."""

    def abandon(self) -> None:
        """See `Front.abandon`."""
        if self._session is not None:
            detail = "the service shut down before the image was inspected"
            self._session.give_up(Problem(problems.NOT_READY, detail, retry_after_s=RETRY_AFTER_S))

    async def stop(self) -> None:
        """Leave the engine."""
        session, self._session, self._equipment = self._session, None, None
        if session is not None:
            self._counts.send()
            session.close()
        if self._decoder is not None:
            await asyncio.to_thread(self._decoder.close)
        if self._records is not None:
            await asyncio.to_thread(self._records.close)
        log.info("stopped")

    def _welcome(self, session: Session, welcome: Welcome) -> None:
        settings = self.settings
        if self._records is None:
            self._records = RecordReader(database_url(settings.database_url, settings.var))
        if self._decoder is None:
            self._decoder = Decoder(self._decode_threads, settings.max_pixels)
        self.unfit, self._max_in_flight = welcome.unfit, welcome.max_in_flight
        before, self._edition = self._edition, welcome.edition
        if self._equipment is not None and before == welcome.edition:
            return
        inspector = RemoteInspector(
            session, welcome.book, self._decoder, self._lost, keeps_images=settings.archive_max_bytes > 0
        )
        scoring = RemoteScoring(session, welcome.book, self._decoder, inspector.at_one_time)
        for lost in self._lost:
            session.report_lost(lost.header, lost.why)
        self._lost.clear()
        if self._equipment is not None:
            self._equipment.inspector.retire(inspector)
        self._equipment = RemoteEquipment(
            inspector,
            self._records,
            RemoteArchive(session),
            scoring,
            RemoteManagement(session),
            welcome.bundle,
            welcome.digest,
        )
        self._counts.attach(session)
        self._listen(self.bell.heard)
        self.bell.ring()  # what an earlier engine recorded last may not have been told
        if self.state in ("starting", "restarting"):
            self.state, self.failure = "ready", None
        log.info("ready", bundle=welcome.bundle, slots=welcome.max_in_flight)

    def _listen(self, listening: bool) -> None:
        if self._session is not None:
            self._session.listen(listening)

    def _lose(self, session: Session) -> None:
        if session is not self._session:
            return
        log.error("engine_lost", in_flight=self._in_flight)
        self._session, self._equipment = None, None
        self._counts.attach(None)
        if self.state == "ready":
            self.state = "restarting"
