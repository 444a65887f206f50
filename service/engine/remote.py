"""A worker's stand-in for the station: it decodes and answers, the engine in its own process does the rest."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from socket import socket
from typing import Any, Final, TypeVar

import numpy as np
import structlog
from prometheus_client.registry import CollectorRegistry

from atsnet.imaging import Float32Array
from service import problems
from service.decoding import Decoder
from service.engine.management import RemoteManagement
from service.engine.messages import Welcome
from service.engine.remote_counts import RemoteCounts
from service.engine.remote_inspector import Lost, RemoteInspector
from service.engine.remote_scoring import RemoteScoring
from service.engine.session import EngineLostError, Session
from service.front import Front
from service.metrics import Exposition, Restarts, expose, ready_gauge
from service.picture import ImageFile
from service.problems import Problem
from service.records.database import database_url
from service.records.store import RecordReader
from service.refusals import RETRY_AFTER_S
from service.settings import Settings

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_CALL_S: Final = 30.0


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
