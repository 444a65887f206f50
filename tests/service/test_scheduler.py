import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from model_export.bundle import Bundle
from service.runtimes.fake import FakeRuntime
from service.scheduler import DeadlinePassedError, EngineError, QueueFullError, Scheduler, SchedulerClosedError, Scored

NEVER = float("inf")


def frame(brightness: int = 64) -> np.ndarray:
    pixels = np.full((256, 256, 2), 255, np.uint8)
    pixels[:, :, 0] = brightness
    return pixels


def run(
    bundle: Bundle,
    scenario: Callable[[Scheduler, FakeRuntime], Awaitable[None]],
    *,
    lanes: int = 1,
    max_batch: int = 1,
    queue_size: int = 64,
) -> None:
    """Run a scenario on a started scheduler, and close it whatever came out."""

    async def main() -> None:
        runtime = FakeRuntime(lanes=lanes, max_batch=max_batch)
        runtime.load(bundle)
        scheduler = Scheduler(runtime, queue_size)
        scheduler.start()
        try:
            async with asyncio.timeout(60):
                await scenario(scheduler, runtime)
        finally:
            runtime.release()
            await scheduler.close()

    asyncio.run(main())


async def submitted(scheduler: Scheduler, count: int) -> list[asyncio.Task[Scored]]:
    """Submit frames of brightness 0, 1, 2 ... in this order."""
    tasks = [asyncio.create_task(scheduler.submit(frame(n), NEVER)) for n in range(count)]
    await asyncio.sleep(0)
    return tasks


async def until_running(runtime: FakeRuntime) -> None:
    await asyncio.to_thread(runtime.wait_until_running)


def test_every_frame_gets_its_own_answer(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, _: FakeRuntime) -> None:
        answers = await asyncio.gather(*await submitted(scheduler, 20))
        assert [round(answer.score / 4 * 128) for answer in answers] == list(range(20))
        assert all(answer.anomaly_map.shape == (32, 32) for answer in answers)

    run(bundle, scenario, lanes=2, max_batch=3)


def test_batch_is_what_arrived_while_the_last_one_ran(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, runtime: FakeRuntime) -> None:
        runtime.block()
        lone = asyncio.create_task(scheduler.submit(frame(), NEVER))
        await until_running(runtime)
        rest = await submitted(scheduler, 11)
        runtime.release()
        await asyncio.gather(lone, *rest)
        assert runtime.batches == [1, 8, 3]

    run(bundle, scenario, max_batch=8)


def test_lanes_run_side_by_side(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, runtime: FakeRuntime) -> None:
        runtime.block()
        tasks = await submitted(scheduler, 5)
        for _ in range(3):
            await until_running(runtime)
        assert (runtime.batches, scheduler.depth) == ([1, 1, 1], 2)
        runtime.release()
        await asyncio.gather(*tasks)

    run(bundle, scenario, lanes=3)


def test_full_queue_refuses_and_recovers(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, runtime: FakeRuntime) -> None:
        runtime.block()
        tasks = await submitted(scheduler, 1)
        await until_running(runtime)
        tasks += await submitted(scheduler, 2)
        with pytest.raises(QueueFullError, match="2 inspections are waiting"):
            await scheduler.submit(frame(), NEVER)
        tasks[1].cancel()
        await asyncio.sleep(0)
        tasks += await submitted(scheduler, 1)
        runtime.release()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, Scored) for answer in answers] == [True, False, True, True]
        assert runtime.batches == [1, 1, 1]

    run(bundle, scenario, queue_size=2)


def test_burst_on_idle_lanes_is_not_refused(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, _: FakeRuntime) -> None:
        tasks = await submitted(scheduler, 4)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Scored, Scored, Scored, QueueFullError]

    run(bundle, scenario, lanes=2, queue_size=1)


def test_expired_and_cancelled_frames_are_not_computed(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, runtime: FakeRuntime) -> None:
        runtime.block()
        first = asyncio.create_task(scheduler.submit(frame(), NEVER))
        await until_running(runtime)
        expired = asyncio.create_task(scheduler.submit(frame(), time.monotonic()))
        cancelled = asyncio.create_task(scheduler.submit(frame(), NEVER))
        last = asyncio.create_task(scheduler.submit(frame(), NEVER))
        await asyncio.sleep(0)
        cancelled.cancel()
        runtime.release()
        await asyncio.gather(first, last)
        with pytest.raises(DeadlinePassedError):
            await expired
        assert runtime.batches == [1, 1]

    run(bundle, scenario, max_batch=8)


def test_failing_batch_spares_the_next(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, runtime: FakeRuntime) -> None:
        runtime.block()
        lone = asyncio.create_task(scheduler.submit(frame(), NEVER))
        await until_running(runtime)
        runtime.fail_next(RuntimeError("once"))
        rest = await submitted(scheduler, 4)
        runtime.release()
        outcomes = await asyncio.gather(lone, *rest, return_exceptions=True)
        assert isinstance(outcomes[0], EngineError)
        assert all(isinstance(outcome, Scored) for outcome in outcomes[1:])

    run(bundle, scenario, max_batch=8)


def test_closing_answers_everyone(bundle: Bundle) -> None:
    async def scenario(scheduler: Scheduler, runtime: FakeRuntime) -> None:
        runtime.block()
        under_way = await submitted(scheduler, 1)
        await until_running(runtime)
        waiting = await submitted(scheduler, 3)
        closing = asyncio.create_task(scheduler.close())
        await asyncio.sleep(0)
        runtime.release()
        outcomes = await asyncio.gather(*under_way, *waiting, closing, return_exceptions=True)
        assert isinstance(outcomes[0], Scored)
        assert all(isinstance(outcome, SchedulerClosedError) for outcome in outcomes[1:4])
        with pytest.raises(SchedulerClosedError):
            await scheduler.submit(frame(), NEVER)

    run(bundle, scenario)
