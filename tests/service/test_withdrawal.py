import asyncio

import pytest
from starlette.requests import ClientDisconnect

from service.withdrawal import Withdrawal


def test_block_is_cancelled_as_if_the_client_had_left() -> None:
    async def scenario() -> None:
        withdrawal = Withdrawal()
        reached: list[str] = []

        async def work() -> None:
            async with withdrawal:
                reached.append("inside")
                await asyncio.sleep(60)
                reached.append("too far")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        withdrawal.withdraw()
        with pytest.raises(ClientDisconnect):
            await task
        assert reached == ["inside"]

    asyncio.run(scenario())


def test_what_follows_the_block_is_left_alone() -> None:
    async def scenario() -> None:
        withdrawal = Withdrawal()
        inside = asyncio.Event()

        async def work() -> str:
            async with withdrawal:
                pass
            inside.set()
            await asyncio.sleep(0.01)
            return "recorded"

        task = asyncio.create_task(work())
        await inside.wait()
        withdrawal.withdraw()
        assert await task == "recorded"

    asyncio.run(scenario())


def test_block_is_not_begun_for_nobody() -> None:
    async def scenario() -> None:
        withdrawal = Withdrawal()
        withdrawal.withdraw()
        with pytest.raises(ClientDisconnect):
            async with withdrawal:
                pytest.fail("the block was begun")

    asyncio.run(scenario())


def test_deadline_that_passes_as_the_client_leaves_is_one_end_and_not_two() -> None:
    async def scenario() -> None:
        withdrawal = Withdrawal()
        asyncio.get_running_loop().call_soon(withdrawal.withdraw)
        with pytest.raises((TimeoutError, ClientDisconnect)):
            async with asyncio.timeout(0), withdrawal:
                await asyncio.sleep(60)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(scenario())
