"""Bounded queue and greedy batches between the requests and the runtime.

There is no batching timer: a lone frame leaves at once, and a batch is what arrived while the last one ran. Each lane
is a thread that takes its batches from the queue itself and calls the runtime; requests wait on the event loop, and are
answered there, a batch at a time.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from atsnet.imaging import Float32Array, UInt8Array
from service.runtimes.protocol import Runtime

log = structlog.get_logger(__name__)

_SHUT_DOWN: Final = "the service shut down before the image was inspected"


class QueueFullError(Exception):
    """As many frames wait as may; nothing was queued."""


class DeadlinePassedError(Exception):
    """The deadline passed while the frame waited; it was not computed."""


class EngineError(Exception):
    """The runtime failed on the frame's batch."""


class SchedulerClosedError(EngineError):
    """The scheduler was closed before the frame was computed."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The runtime's answer to one frame."""

    score: float
    """Raw score."""
    anomaly_map: Float32Array
    """Calibrated, `float32 [h, w]`."""
    queue_s: float
    inference_s: float


_Answer = tuple[Float32Array, Float32Array]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    frame: UInt8Array
    deadline: float
    submitted: float
    answer: asyncio.Future[Scored]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    jobs: list[_Job]
    started: float


class Scheduler:
    """Feeds a loaded runtime from a queue of at most `queue_size` waiting frames.

    Args:
        runtime: What runs the network; told how to feed it by its description.
        queue_size: Frames that may wait; those being computed, and as many as idle lanes will take, do not count.
        on_batch: Told the number of frames of every batch that is computed.
    """

    def __init__(self, runtime: Runtime, queue_size: int, on_batch: Callable[[int], None] = lambda _: None) -> None:
        description = runtime.describe()
        self._runtime = runtime
        self._queue_size = queue_size
        self._on_batch = on_batch
        self._max_batch = description.max_batch
        self._work = threading.Condition()
        # Insertion-ordered, and a request that gives up leaves from the middle at once.
        self._waiting: dict[_Job, None] = {}
        self._running: set[_Batch] = set()
        self._idle_lanes = 0
        self._closed = False
        self._lanes = description.lanes
        self._waking = False

    @property
    def depth(self) -> int:
        """Frames that wait for a lane."""
        return len(self._waiting)

    @property
    def longest_call_s(self) -> float:
        """How long the oldest call of the runtime that has not returned has taken so far; 0 when none runs."""
        with self._work:
            oldest = min((batch.started for batch in self._running), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def start(self) -> None:
        """Start the lanes; everything but their calls of the runtime happens on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._idle_lanes = self._lanes
        for number in range(self._lanes):
            threading.Thread(target=self._run_lane, name=f"lane-{number}", daemon=True).start()

    async def submit(self, frame: UInt8Array, deadline: float) -> Scored:
        """Queue one frame, `uint8 [H, W, C]`, and wait for its answer.

        Cancelling the caller takes the frame out of the queue; a batch that already runs is not interrupted.

        Args:
            frame: What to score.
            deadline: On the clock of `time.monotonic`; a frame that waits longer is not computed.

        Raises:
            QueueFullError: The queue is full; try again later.
            DeadlinePassedError: There was no answer by then; a batch that already runs is not interrupted.
            EngineError: The runtime failed, or the scheduler was closed.
        """
        if self._closed:
            raise SchedulerClosedError("the service is shutting down")
        job = _Job(frame, deadline, time.monotonic(), self._loop.create_future())
        with self._work:
            # A burst is there before the idle lanes have taken any of it.
            if len(self._waiting) >= self._queue_size + self._idle_lanes * self._max_batch:
                raise QueueFullError(f"{len(self._waiting)} inspections are waiting already")
            self._waiting[job] = None
        if self._idle_lanes and not self._waking:
            # At the end of this turn of the event loop: what arrives in one turn goes into one batch.
            self._waking = True
            self._loop.call_soon(self._wake)
        expiry = self._loop.call_at(deadline, _expire, job)
        try:
            return await job.answer
        finally:
            expiry.cancel()
            with self._work:
                self._waiting.pop(job, None)
            if job.answer.done() and not job.answer.cancelled():
                # Cancelled in the very tick in which it failed: seen, so that asyncio does not report it as forgotten.
                job.answer.exception()

    def abandon(self) -> None:
        """Refuse further frames and give up those that wait and those whose batch still runs."""
        with self._work:
            running = [job for batch in self._running for job in batch.jobs]
        self._refuse()
        _fail(running, SchedulerClosedError(_SHUT_DOWN))

    async def close(self) -> None:
        """Refuse further frames, give up those that wait, let running batches end, stop the lanes."""
        self._refuse()
        await self._ended.wait()

    def _refuse(self) -> None:
        with self._work:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._work.notify_all()
        _fail(waiting, SchedulerClosedError(_SHUT_DOWN))

    def _wake(self) -> None:
        self._waking = False
        with self._work:
            self._work.notify(-(-len(self._waiting) // self._max_batch))

    def _run_lane(self) -> None:
        # The next batch is taken here and not handed over by the event loop, which may be long in coming to it.
        while (batch := self._next_batch()) is not None:
            self._on_batch(len(batch.jobs))
            try:
                answer: _Answer | Exception = self._run([job.frame for job in batch.jobs])
            except Exception as error:  # whatever a runtime raises must answer these requests and spare the next ones
                answer = error
            inference_s = time.monotonic() - batch.started
            with self._work:
                self._running.remove(batch)
                self._idle_lanes += 1
            self._tell(_finish, batch, answer, inference_s)
            del batch, answer  # frames and maps must not stay while this lane waits
        self._tell(self._lane_ended)

    def _next_batch(self) -> _Batch | None:
        """Wait for frames; `None` once the scheduler is closed."""
        with self._work:
            while not self._closed:
                jobs = self._take_jobs()
                if jobs:
                    batch = _Batch(jobs, time.monotonic())
                    self._running.add(batch)
                    self._idle_lanes -= 1
                    return batch
                self._work.wait()
            return None

    def _take_jobs(self) -> list[_Job]:
        now = time.monotonic()
        jobs: list[_Job] = []
        while self._waiting and len(jobs) < self._max_batch:
            job = next(iter(self._waiting))
            del self._waiting[job]
            # What is too late is answered by its own timer.
            if not job.answer.done() and job.deadline > now:
                jobs.append(job)
        return jobs

    def _run(self, frames: Sequence[UInt8Array]) -> _Answer:
        scores, maps = self._runtime.run(np.stack(frames) if len(frames) > 1 else frames[0][np.newaxis])
        if scores.shape != (len(frames),) or maps.ndim != 3 or len(maps) != len(frames):
            raise ValueError(
                f"the runtime answered scores {scores.shape} and maps {maps.shape} to {len(frames)} frames"
            )
        return scores, maps

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop was closed before a hung runtime came back
            self._loop.call_soon_threadsafe(call, *arguments)

    def _lane_ended(self) -> None:
        self._lanes -= 1
        if self._lanes == 0:
            self._ended.set()


def _finish(batch: _Batch, answer: _Answer | Exception, inference_s: float) -> None:
    """Answer the requests of a batch."""
    if isinstance(answer, Exception):
        log.error("engine_failed", batch=len(batch.jobs), exc_info=answer)
        _fail(batch.jobs, EngineError(f"the engine failed: {type(answer).__name__}"))
        return
    scores, maps = answer
    for job, score, anomaly_map in zip(batch.jobs, scores.tolist(), maps, strict=True):
        if not job.answer.done():
            job.answer.set_result(Scored(score, anomaly_map, batch.started - job.submitted, inference_s))


def _expire(job: _Job) -> None:
    if not job.answer.done():
        job.answer.set_exception(DeadlinePassedError("the deadline passed before the image was inspected"))


def _fail(jobs: Iterable[_Job], error: EngineError) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error)
