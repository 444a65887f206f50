"""The engine's side: a station that is asked by workers instead of by routes."""

import asyncio
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import orjson
import structlog
from starlette.requests import ClientDisconnect

from atsnet.imaging import Float32Array
from service.engine import blobs
from service.engine.channel import Channel, HandOff
from service.engine.messages import Kind, Received, Welcome, decode_lost, decode_request, encode_problem
from service.engine.slots import SlotMemory
from service.preparation import Prepared
from service.problems import FAILED, Problem
from service.recipes import Recipe
from service.records.inspection import FrameLayout
from service.station import Station
from service.submission import Submission
from service.withdrawal import Withdrawal

log = structlog.get_logger(__name__)

_TELLING_S: Final = 0.02
"""Workers whose clients listen to the events are told once of all that was recorded in so long a time."""

_READERS: Final = 4
"""Threads that read kept images and maps for all workers."""


class DecodedByWorkers:
    """What an inspection asks of an image that a worker has decoded; see `decoding.Decoding`."""

    async def sha256(self, submission: Submission) -> str:
        """See `Decoding`."""
        return cast("Received", submission).sha256

    async def prepare(self, submission: Submission, recipe: Recipe) -> tuple[Prepared, float]:  # noqa: ARG002
        """What the worker made of it.

        Raises:
            Problem: The worker could not.
        """
        received = cast("Received", submission)
        if received.prepared is None:
            assert received.refused is not None
            raise received.refused
        return received.prepared, received.decode_ms

    async def picture(self, submission: Submission, layout: FrameLayout, anomaly_map: Float32Array) -> str | None:
        """Leave the drawing to the worker: the map goes into the slot, its layout stands for the picture."""
        if submission.fields.heatmap == "none":
            return None
        cast("Received", submission).map_room[...] = anomaly_map
        return layout.model_dump_json()


class Host:
    """Connects workers to a station; those that come before it has started wait.

    Args:
        station: What inspects; it has been made with `DecodedByWorkers`.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._waiting: list[socket.socket] | None = []
        self._links: set[_Link] = set()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="archive-reader")

    def connect(self, sock: socket.socket) -> None:
        """Take a worker's connection over."""
        if self._waiting is None:
            self._links.add(_Link(self._station, sock, self._links, self._readers))
        else:
            self._waiting.append(sock)

    def open(self) -> None:
        """Welcome workers from now on: the station has started."""
        waiting, self._waiting = self._waiting or [], None
        for sock in waiting:
            self.connect(sock)

    def close(self) -> None:
        """Close every connection."""
        for link in list(self._links):
            link.close()
        for sock in self._waiting or []:
            sock.close()
        self._readers.shutdown(wait=False)


class _Link:
    """One worker's connection."""

    def __init__(self, station: Station, sock: socket.socket, links: "set[_Link]", readers: ThreadPoolExecutor) -> None:
        self._station = station
        self._links = links
        self._readers = readers
        self._welcome = _welcome(station)
        self._memory: SlotMemory | None = None
        self._under_way: dict[tuple[int, int], Withdrawal] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: asyncio.TimerHandle | None = None
        self._channel = Channel(sock, on_batch=self._on_batch, on_note=self._on_note, on_end=self._on_end)
        self._channel.note({"welcome": self._welcome.model_dump(mode="json")})

    def close(self) -> None:
        """Close the connection; what is under way is recorded, but nobody is told."""
        self._links.discard(self)
        self._listen(False)
        self._channel.close()
        self._memory = None

    def _on_end(self) -> None:
        # Nobody waits for what has no outcome yet. What has one is recorded, and the memory stays until then.
        if self._under_way:
            log.warning("worker_lost", under_way=len(self._under_way))
        for withdrawal in self._under_way.values():
            withdrawal.withdraw()
        self.close()

    def _on_note(self, note: dict[str, Any], descriptors: list[int]) -> None:
        if "slots" in note:
            self._memory = SlotMemory(self._welcome.layout, descriptors[0])
            os.close(descriptors[0])
        elif "counts" in note:
            for station, outcome, times in note["counts"]:
                self._station.metrics.request(station, outcome, times)
            self._station.metrics.deadline_missed(note["missed"])
        elif "listen" in note:
            self._listen(note["listen"])
        elif "call" in note:
            self._start(self._answer(note))
        elif "lost" in note:
            lost = decode_lost(note["lost"].encode(), self._welcome.layout)
            self._start(self._station.equipment.inspector.record_failure(lost, note["why"]))

    def _listen(self, listening: bool) -> None:
        if listening:
            self._station.bell.add(self._rung)
        else:
            self._station.bell.remove(self._rung)

    def _rung(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_TELLING_S, self._tell_recorded)

    def _tell_recorded(self) -> None:
        self._telling = None
        self._channel.note({"recorded": None})

    def _on_batch(self, batch: Sequence[HandOff]) -> None:
        memory = self._memory
        assert memory is not None, "a worker sends its memory first"
        for hand_off in batch:
            if hand_off.kind in (Kind.INSPECT, Kind.SCORE):
                withdrawal = self._under_way[hand_off.slot, hand_off.generation] = Withdrawal()
                self._start(self._serve(hand_off, memory, withdrawal))
            elif hand_off.kind == Kind.WITHDRAW:
                # It may have been answered while this was on its way.
                under_way = self._under_way.get((hand_off.slot, hand_off.generation))
                if under_way is not None:
                    under_way.withdraw()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _inspect(self, asked: HandOff, memory: SlotMemory, withdrawal: Withdrawal) -> bytes:
        image = b"" if asked.descriptor is None else await self._image(asked.descriptor)
        received = decode_request(
            memory.header(asked.slot, asked.length), image, memory.frame(asked.slot), memory.anomaly_map(asked.slot)
        )
        with self._station.admitted():
            reply = await self._station.equipment.inspector.inspect(received, withdrawal)
        return reply.model_dump_json().encode()

    async def _score(self, asked: HandOff, memory: SlotMemory, withdrawal: Withdrawal) -> bytes:
        deadline = orjson.loads(memory.header(asked.slot, asked.length))["deadline"]
        with self._station.admitted():
            async with withdrawal:
                scored = await self._station.equipment.scoring.score(memory.frame(asked.slot), deadline)
        memory.anomaly_map(asked.slot)[...] = scored.anomaly_map
        return orjson.dumps({"score": scored.score, "calibrated": scored.calibrated})

    async def _serve(self, asked: HandOff, memory: SlotMemory, withdrawal: Withdrawal) -> None:
        try:
            if asked.kind == Kind.SCORE:
                kind, header = Kind.SCORED, await self._score(asked, memory, withdrawal)
            else:
                kind, header = Kind.REPLY, await self._inspect(asked, memory, withdrawal)
            memory.put_header(asked.slot, header)
        except Problem as problem:
            kind, header = Kind.PROBLEM, encode_problem(problem)
            memory.put_header(asked.slot, header)
        except ClientDisconnect:
            kind, header = Kind.WITHDRAWN, b""
        except Exception:  # whatever it is, this request must be answered and the next ones spared
            log.exception("inspection_failed")
            unexpected = Problem(FAILED, "an unexpected error; the service's log has it in full")
            kind, header = Kind.PROBLEM, encode_problem(unexpected)
            memory.put_header(asked.slot, header)
        del self._under_way[asked.slot, asked.generation]
        self._channel.hand_off(HandOff(kind, asked.slot, asked.generation, len(header)))

    async def _image(self, descriptor: int) -> bytes:
        if os.fstat(descriptor).st_size < blobs.LARGE:
            return blobs.take(descriptor)
        return await asyncio.get_running_loop().run_in_executor(self._readers, blobs.take, descriptor)

    async def _answer(self, note: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"answer": note["call"]}
        blob: bytes | None = None
        try:
            archive, loop = self._station.equipment.archive, asyncio.get_running_loop()
            match note["what"]:
                case "metrics":
                    blob = await self._station.exposition()
                case "has":
                    answer["has"] = await loop.run_in_executor(self._readers, archive.has, note["id"])
                case "image":
                    file = await loop.run_in_executor(self._readers, archive.image, note["id"])
                    if file is not None:
                        answer["suffix"], blob = file.suffix, file.data
                case "map":
                    anomaly_map = await loop.run_in_executor(self._readers, archive.anomaly_map, note["id"])
                    if anomaly_map is not None:
                        answer["shape"], blob = anomaly_map.shape, anomaly_map.tobytes()
            descriptors = [] if blob is None else [blobs.put(blob)]
        except Exception:  # the worker must not wait for ever
            log.exception("call_failed", what=note["what"])
            answer, descriptors = {"answer": note["call"], "failed": True}, []
        self._channel.note(answer, descriptors)


def _welcome(station: Station) -> Welcome:
    equipment = station.equipment
    manifest = equipment.bundle.manifest
    return Welcome(
        digest=equipment.digest,
        geometry=manifest.input,
        map_height=manifest.map_height,
        map_width=manifest.map_width,
        max_in_flight=station.max_in_flight,
        recipe=equipment.recipes.default,
    )
