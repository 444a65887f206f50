"""Bounded queue and greedy batches between the requests and the runtime.

There is no batching timer: a lone frame leaves at once, and a batch is what arrived while the last one ran. All
state belongs to the event loop; only the runtime's own call leaves it, to one thread a lane. `Scheduler.submit` is the
whole of what the rest of the service knows, so an engine in another process can take its place.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import structlog

from atsnet.imaging import Float32Array, UInt8Array
from service.runtimes.protocol import Runtime

log = structlog.get_logger(__name__)


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


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    frame: UInt8Array
    deadline: float
    submitted: float
    answer: asyncio.Future[Scored]


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
        self._lane_count = description.lanes
        self._max_batch = description.max_batch
        # Insertion-ordered, and a request that gives up leaves from the middle at once.
        self._waiting: dict[_Job, None] = {}
        self._running: set[_Job] = set()
        self._calls: list[float] = []
        self._idle_lanes = description.lanes
        self._arrived = asyncio.Condition()
        self._lanes: list[asyncio.Task[None]] = []
        self._threads = ThreadPoolExecutor(description.lanes, thread_name_prefix="lane")
        self._closed = False

    @property
    def depth(self) -> int:
        """Frames that wait for a lane."""
        return len(self._waiting)

    @property
    def longest_call_s(self) -> float:
        """How long the oldest call of the runtime that has not returned has taken so far; 0 when none runs."""
        return time.monotonic() - min(self._calls) if self._calls else 0.0

    def start(self) -> None:
        """Start the lanes on the running event loop."""
        self._lanes = [asyncio.create_task(self._run_lane(), name=f"lane-{n}") for n in range(self._lane_count)]

    async def submit(self, frame: UInt8Array, deadline: float) -> Scored:
        """Queue one frame, `uint8 [H, W, C]`, and wait for its answer.

        Cancelling the caller takes the frame out of the queue; a batch that already runs is not interrupted.

        Args:
            frame: What to score.
            deadline: On the clock of `time.monotonic`; a frame that waits longer is not computed.

        Raises:
            QueueFullError: The queue is full; try again later.
            DeadlinePassedError: It waited too long.
            EngineError: The runtime failed, or the scheduler was closed.
        """
        if self._closed:
            raise SchedulerClosedError("the service is shutting down")
        # A burst is there before the idle lanes have taken any of it.
        if len(self._waiting) >= self._queue_size + self._idle_lanes * self._max_batch:
            raise QueueFullError(f"{len(self._waiting)} inspections are waiting already")
        job = _Job(frame, deadline, time.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting[job] = None
        try:
            async with self._arrived:
                self._arrived.notify()
            return await job.answer
        finally:
            self._waiting.pop(job, None)
            if job.answer.done() and not job.answer.cancelled():
                # Cancelled in the very tick in which it failed: seen, so that asyncio does not report it as forgotten.
                job.answer.exception()

    def abandon(self) -> None:
        """Refuse further frames and give up those that wait and those whose batch still runs."""
        self._refuse([*self._waiting, *self._running])

    async def close(self) -> None:
        """Refuse further frames, give up those that wait, let running batches end, stop the lanes."""
        self._refuse(self._waiting)
        async with self._arrived:
            self._arrived.notify_all()
        await asyncio.gather(*self._lanes)
        self._threads.shutdown()

    def _refuse(self, jobs: Iterable[_Job]) -> None:
        self._closed = True
        for job in jobs:
            _fail(job, SchedulerClosedError("the service shut down before the image was inspected"))
        self._waiting.clear()

    async def _run_lane(self) -> None:
        while True:
            async with self._arrived:
                await self._arrived.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return
            batch = self._take_batch()
            if batch:
                await self._compute(batch)

    def _take_batch(self) -> list[_Job]:
        now = time.monotonic()
        batch: list[_Job] = []
        while self._waiting and len(batch) < self._max_batch:
            job = next(iter(self._waiting))
            del self._waiting[job]
            if job.answer.done():
                continue
            if job.deadline <= now:
                job.answer.set_exception(DeadlinePassedError("the deadline passed while the image waited for its turn"))
                continue
            batch.append(job)
        return batch

    async def _compute(self, batch: Sequence[_Job]) -> None:
        self._on_batch(len(batch))
        self._running.update(batch)
        self._idle_lanes -= 1
        started = time.monotonic()
        self._calls.append(started)
        try:
            scores, maps = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._run, [job.frame for job in batch]
            )
        except Exception as error:  # whatever a runtime raises must answer these requests and spare the next ones
            log.exception("engine_failed", batch=len(batch))
            for job in batch:
                _fail(job, EngineError(f"the engine failed: {type(error).__name__}"))
            return
        finally:
            self._running.difference_update(batch)
            self._calls.remove(started)
            self._idle_lanes += 1
        inference_s = time.monotonic() - started
        for job, score, anomaly_map in zip(batch, scores, maps, strict=True):
            if not job.answer.done():
                job.answer.set_result(Scored(float(score), anomaly_map, started - job.submitted, inference_s))

    def _run(self, frames: Sequence[UInt8Array]) -> tuple[Float32Array, Float32Array]:
        scores, maps = self._runtime.run(np.stack(frames))
        if scores.shape != (len(frames),) or maps.ndim != 3 or len(maps) != len(frames):
            raise ValueError(
                f"the runtime answered scores {scores.shape} and maps {maps.shape} to {len(frames)} frames"
            )
        return scores, maps


def _fail(job: _Job, error: EngineError) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
