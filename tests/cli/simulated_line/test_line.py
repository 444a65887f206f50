import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import httpx
import pytest
from made_parts import part

from cli.simulated_line import Controller, Line, Part, Summary, Tally, stopped_by_signals
from service.client import AsyncInspectionClient, Retries
from service.examples import PROBLEMS, REPLY

Answering = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Service(httpx.AsyncBaseTransport):
    """Answers requests as a test wants it."""

    def __init__(self, answer: Answering | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer or say

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self._answer(request)


async def say(request: httpx.Request, **changes: Any) -> httpx.Response:
    fields = dict(request.url.params)
    named = {name: fields[name] for name in ("station", "lot", "serial")}
    changes = {"score": 1.5, "trigger": int(fields["trigger"]), **named, **changes}
    return httpx.Response(200, json={**REPLY, **changes})


async def refuse(problem: str) -> httpx.Response:
    document = PROBLEMS[problem]
    return httpx.Response(document["status"], json=document, headers={"Content-Type": "application/problem+json"})


def driven(
    service: Service,
    parts: list[Part],
    meanwhile: Callable[[Line], Coroutine[Any, Any, None]] | None = None,
    **how: Any,
) -> tuple[Summary, Line]:
    """Run a line of one station until it ends."""

    async def drive() -> tuple[Summary, Line]:
        client = AsyncInspectionClient("http://station", transport=service, retries=Retries(most=0))
        async with client:
            line = Line(
                {"sim-1": Controller(client, recipe="tec-grain", deadline_ms=30_000)}, Tally("SIM", 1.0, ("sim-1",), 1)
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(line.run(parts, **how))
                if meanwhile is not None:
                    group.create_task(meanwhile(line))
            return line.summary(), line

    return asyncio.run(drive())


def test_fields_arrive() -> None:
    service = Service()
    driven(service, [part("crack", number=7)])
    fields = dict(service.requests[0].url.params)
    assert int(fields.pop("deadline_ms")) <= 30_000
    assert fields == {
        "recipe": "tec-grain", "station": "sim-1", "lot": "SIM-L001", "serial": "SIM-000007", "trigger": "7",
    }  # fmt: skip
    assert service.requests[0].content == b"a picture"


def test_a_service_that_stands_still_does_not_stop_the_line() -> None:
    released = asyncio.Event()
    service = Service()

    async def answer(request: httpx.Request) -> httpx.Response:
        if len(service.requests) == 50:
            released.set()
        await released.wait()
        return await say(request)

    service._answer = answer
    summary, _ = driven(service, [part(number=number) for number in range(50)])
    assert (summary.posted, summary.truth["good"].fail, summary.under_way) == (50, 50, 0)


def test_time_counts_from_when_the_part_was_due() -> None:
    service = Service()
    late = Part(-100.0, "sim-1", "L", "S", 1, part().specimen, None)
    summary, _ = driven(service, [late])
    assert summary.latency_ms.longest > 100_000
    assert summary.longest_delay_ms > 100_000


@pytest.mark.parametrize("repeat", ["meanwhile", "afterwards"])
def test_repeat_is_the_very_same_request(repeat: Any) -> None:
    service = Service()

    async def answer(request: httpx.Request) -> httpx.Response:
        return await say(request, replayed=len(service.requests) == 2)

    service._answer = answer
    summary, _ = driven(service, [part(repeat=repeat)])
    assert (summary.repeats.checked, summary.repeats.contradicted) == (1, 0)
    first, second = service.requests
    assert first.content == second.content
    assert {**first.url.params, "deadline_ms": ""} == {**second.url.params, "deadline_ms": ""}


def test_repeat_meanwhile_does_not_wait_for_the_answer() -> None:
    both = asyncio.Event()
    service = Service()

    async def answer(request: httpx.Request) -> httpx.Response:
        is_second = len(service.requests) == 2
        if is_second:
            both.set()
        await both.wait()
        return await say(request, replayed=is_second)

    service._answer = answer
    summary, _ = driven(service, [part(repeat="meanwhile")])
    assert summary.repeats.checked == 1


def test_answer_that_changes_is_found() -> None:
    service = Service()

    async def answer(request: httpx.Request) -> httpx.Response:
        return await say(request, score=1.0 + len(service.requests) / 4, replayed=len(service.requests) > 1)

    service._answer = answer
    summary, _ = driven(service, [part(repeat="afterwards")])
    assert (summary.repeats.contradicted, summary.faults) == (1, 1)


@pytest.mark.parametrize("problem", ["no key", "unknown recipe", "wrong field"])
def test_what_is_refused_of_every_part_stops_the_line(problem: str) -> None:
    service = Service(lambda _: refuse(problem))
    later = Part(3600.0, "sim-1", "L", "S", 2, part().specimen, None)
    summary, line = driven(service, [part(), later])
    assert line.refusal is not None
    assert line.refusal.code == PROBLEMS[problem]["code"]
    assert (summary.posted, len(service.requests)) == (1, 1)


@pytest.mark.parametrize("problem", ["overloaded", "text", "deadline passed"])
def test_what_is_refused_of_one_part_does_not(problem: str) -> None:
    summary, line = driven(Service(lambda _: refuse(problem)), [part(number=1), part(number=2)])
    assert (line.refusal, summary.posted) == (None, 2)
    assert summary.refused == {str(PROBLEMS[problem]["code"]): 2}


def test_stopped_line_waits_for_what_is_under_way() -> None:
    stopped = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        await stopped.wait()
        return await say(request)

    async def stop(line: Line) -> None:
        while not service.requests:
            await asyncio.sleep(0)
        line.stop()
        stopped.set()

    service = Service(answer)
    later = Part(3600.0, "sim-1", "L", "S", 2, part().specimen, None)
    summary, _ = driven(service, [part(), later], stop)
    assert (summary.posted, summary.under_way, summary.truth["good"].fail) == (1, 0, 1)


def test_limits() -> None:
    parts = [Part(number / 1000, "sim-1", "L", f"S{number}", number, part().specimen, None) for number in range(100)]
    assert driven(Service(), parts, count=3)[0].posted == 3
    assert driven(Service(), parts, duration_s=0.005)[0].posted == 5


def test_second_signal_gives_up_what_is_under_way() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario() -> Summary:
        service = Service(never)
        async with AsyncInspectionClient("http://station", transport=service, retries=Retries(most=0)) as client:
            line = Line(
                {"sim-1": Controller(client, recipe=None, deadline_ms=30_000)}, Tally("SIM", 1.0, ("sim-1",), 1)
            )
            later = Part(3600.0, "sim-1", "L", "S", 2, part().specimen, None)
            running = asyncio.create_task(line.run([part(), later]))
            with stopped_by_signals(line, running):
                while not service.requests:
                    await asyncio.sleep(0)
                os.kill(os.getpid(), signal.SIGTERM)
                while not line.is_stopping:
                    await asyncio.sleep(0)
                assert not running.done()
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.wait({running})
            assert running.cancelled()
            return line.summary()

    before = signal.getsignal(signal.SIGTERM)
    summary = asyncio.run(scenario())
    assert (summary.posted, summary.under_way) == (1, 1)
    assert signal.getsignal(signal.SIGTERM) == before
