"""The engine's side: a station that is asked by workers instead of by routes."""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import orjson
import structlog
from starlette.requests import ClientDisconnect

from atsnet.imaging import Float32Array
from service.engine import blobs
from service.engine.channel import Channel, HandOff
from service.engine.management import carry_out
from service.engine.messages import (
    Drawing,
    Kind,
    Received,
    Slot,
    Welcome,
    decode_request,
    encode_problem,
    problem_parts,
)
from service.engine.slots import SlotLayout, SlotMemory
from service.monitoring.documents import DriftNews
from service.preparation import Prepared
from service.problems import NOT_READY, Problem, unexpected
from service.recipes import UnknownRecipeError
from service.records.inspection import FrameLayout
from service.refusals import RETRY_AFTER_S
from service.scoring import score
from service.setups import Edition, Plan, hold, release
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

    async def prepare(self, submission: Submission, plan: Plan) -> tuple[Prepared, float]:  # noqa: ARG002
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
        """Leave the drawing to the worker: the map goes into the slot, and what it is stands for the picture."""
        slot = cast("Received", submission).slot
        if submission.fields.heatmap == "none" or slot is None:
            return None
        try:
            slot.memory.anomaly_map(slot.number, anomaly_map.shape)[...] = anomaly_map
        except ValueError:  # kept by an earlier bundle, whose maps were larger
            return None
        return Drawing(layout=layout, height=anomaly_map.shape[0], width=anomaly_map.shape[1]).model_dump_json()


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
        """Welcome workers from now on: the station has started. They are told whenever something else inspects."""
        self._station.on_edition = self._tell
        self._station.on_drift = self._tell_drift
        waiting, self._waiting = self._waiting or [], None
        for sock in waiting:
            self.connect(sock)

    def _tell(self) -> None:
        for link in self._links:
            link.welcome()

    def _tell_drift(self, news: DriftNews) -> None:
        for link in self._links:
            link.tell_drift(news)

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
        self._memories: dict[int, SlotMemory] = {}
        self._editions: dict[int, Edition] = {}
        """Those that the worker may have decoded images by; their bundles stay open for it."""
        self._under_way: dict[tuple[int, int, int], Withdrawal] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: asyncio.TimerHandle | None = None
        self._channel = Channel(sock, on_batch=self._on_batch, on_note=self._on_note, on_end=self._on_end)
        self.welcome()

    def welcome(self) -> None:
        """Tell the worker what inspects."""
        edition = self._station.equipment.edition
        if edition.number not in self._editions:
            hold(edition)
            self._editions = {**self._editions, edition.number: edition}
        welcome = _welcome(self._station).model_dump_json().encode()
        self._channel.note({"welcome": edition.number}, [blobs.put(welcome)])

    def tell_drift(self, news: DriftNews) -> None:
        """Have the worker tell its clients."""
        self._channel.note({"drift": news.model_dump_json()})

    def close(self) -> None:
        """Close the connection; what is under way is recorded, but nobody is told."""
        self._links.discard(self)
        self._listen(False)
        self._channel.close()
        self._memories.clear()
        editions, self._editions = self._editions, {}
        for edition in editions.values():
            release(edition)

    def _on_end(self) -> None:
        # Nobody waits for what has no outcome yet. What has one is recorded, and the memory stays until then.
        if self._under_way:
            log.warning("worker_lost", under_way=len(self._under_way))
        for withdrawal in self._under_way.values():
            withdrawal.withdraw()
        self.close()

    def _on_note(self, note: dict[str, Any], descriptors: list[int]) -> None:
        if "memory" in note:
            self._memories[note["memory"]] = SlotMemory(SlotLayout(*note["layout"]), descriptors[0])
            os.close(descriptors[0])
        elif "dropped" in note:
            del self._memories[note["dropped"]]
        elif "let_go" in note:
            # Replaced, not changed: a request that was withdrawn may still look its edition up.
            let_go = self._editions[note["let_go"]]
            self._editions = {number: one for number, one in self._editions.items() if one is not let_go}
            release(let_go)
        elif "counts" in note:
            for station, outcome, times in note["counts"]:
                self._station.metrics.request(station, outcome, times)
            self._station.metrics.deadline_missed(note["missed"])
        elif "listen" in note:
            self._listen(note["listen"])
        elif "call" in note:
            self._start(self._answer(note))
        elif "lost" in note:
            self._start(self._record_lost(note["lost"].encode(), note["why"]))

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
        for hand_off in batch:
            use = (hand_off.memory, hand_off.slot, hand_off.generation)
            if hand_off.kind in (Kind.INSPECT, Kind.SCORE):
                withdrawal = self._under_way[use] = Withdrawal()
                slot = Slot(self._memories[hand_off.memory], hand_off.slot)
                self._start(self._serve(hand_off, slot, self._editions, withdrawal))
            elif hand_off.kind == Kind.WITHDRAW:
                # It may have been answered while this was on its way.
                under_way = self._under_way.get(use)
                if under_way is not None:
                    under_way.withdraw()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _inspect(
        self, asked: HandOff, slot: Slot, editions: Mapping[int, Edition], withdrawal: Withdrawal
    ) -> bytes:
        image = b"" if asked.descriptor is None else await self._image(asked.descriptor)
        header = slot.memory.header(asked.slot, asked.length)
        received = decode_request(header, image, slot, editions.__getitem__)
        with self._station.admitted():
            reply = await self._station.equipment.inspector.inspect(received, withdrawal, received.edition)
        return reply.model_dump_json().encode()

    async def _score(
        self, asked: HandOff, slot: Slot, editions: Mapping[int, Edition], withdrawal: Withdrawal
    ) -> bytes:
        request = orjson.loads(slot.memory.header(asked.slot, asked.length))
        equipment = self._station.equipment
        setup = editions.get(request["edition"], equipment.edition).default
        if setup.loaded.name != request["bundle"]:
            detail = f"{setup.loaded.name} has taken the place of {request['bundle']} meanwhile; try again"
            raise Problem(NOT_READY, detail, retry_after_s=RETRY_AFTER_S)
        frame = slot.memory.frame(slot.number, setup.plan.geometry.frame_shape)
        with self._station.admitted():
            async with withdrawal:
                scored = await score(setup, frame, request["deadline"])
        slot.memory.anomaly_map(slot.number, scored.anomaly_map.shape)[...] = scored.anomaly_map
        return orjson.dumps({"score": scored.score, "calibrated": scored.calibrated})

    async def _serve(self, asked: HandOff, slot: Slot, editions: Mapping[int, Edition], withdrawal: Withdrawal) -> None:
        memory = slot.memory
        try:
            if asked.kind == Kind.SCORE:
                kind, header = Kind.SCORED, await self._score(asked, slot, editions, withdrawal)
            else:
                kind, header = Kind.REPLY, await self._inspect(asked, slot, editions, withdrawal)
            memory.put_header(asked.slot, header)
        except Problem as problem:
            kind, header = Kind.PROBLEM, encode_problem(problem)
            memory.put_header(asked.slot, header)
        except ClientDisconnect:
            kind, header = Kind.WITHDRAWN, b""
        except Exception:  # whatever it is, this request must be answered and the next ones spared
            log.exception("inspection_failed")
            kind, header = Kind.PROBLEM, encode_problem(unexpected())
            memory.put_header(asked.slot, header)
        del self._under_way[asked.memory, asked.slot, asked.generation]
        self._channel.hand_off(HandOff(kind, asked.slot, asked.generation, len(header), None, asked.memory))

    async def _record_lost(self, header: bytes, why: str) -> None:
        """Record what an earlier engine took along, with what inspects now: that one had no outcome of its own."""
        equipment = self._station.equipment
        try:
            lost = decode_request(header, b"", None, lambda _: equipment.edition)
        except UnknownRecipeError:
            return
        await equipment.inspector.record_failure(lost, why)

    async def _image(self, descriptor: int) -> bytes:
        if os.fstat(descriptor).st_size < blobs.LARGE:
            return blobs.take(descriptor)
        return await asyncio.get_running_loop().run_in_executor(self._readers, blobs.take, descriptor)

    async def _answer(self, note: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"answer": note["call"]}
        try:
            told, blob = await self._carry_out(note["what"], note["arguments"])
            answer |= told
            descriptors = [] if blob is None else [blobs.put(blob)]
        except Problem as problem:
            answer["problem"], descriptors = problem_parts(problem), []
        except Exception:  # the worker must not wait for ever
            log.exception("call_failed", what=note["what"])
            answer["failed"], descriptors = True, []
        self._channel.note(answer, descriptors)

    async def _carry_out(self, what: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], bytes | None]:
        """What a worker asks for, as members of the answer and as bytes beside it."""
        archive, loop = self._station.equipment.archive, asyncio.get_running_loop()
        match what:
            case "metrics":
                exposed = await self._station.exposition(arguments["accept"])
                return {"content_type": exposed.content_type}, exposed.data
            case "manage":
                document = await carry_out(self._station.equipment.management, **arguments)
                return {}, document.model_dump_json().encode()
            case "has":
                return {"has": await loop.run_in_executor(self._readers, archive.has, arguments["id"])}, None
            case "image":
                file = await loop.run_in_executor(self._readers, archive.image, arguments["id"])
                return ({}, None) if file is None else ({"suffix": file.suffix}, file.data)
            case "map":
                kept = await loop.run_in_executor(self._readers, archive.anomaly_map, arguments["id"])
                return ({}, None) if kept is None else ({"shape": kept.shape}, kept.tobytes())
        raise ValueError(f"a worker asks for {what!r}")


def _welcome(station: Station) -> Welcome:
    edition = station.equipment.edition
    return Welcome(
        edition=edition.number,
        bundle=edition.default.loaded.name,
        digest=edition.default.bundle.digest,
        max_in_flight=station.max_in_flight,
        plans={name: setup.plan for name, setup in edition},
        default=edition.default_name,
        unfit=station.unfit,
    )
