"""The usual first service: a FastAPI application that runs the network in a pool of threads. No batches."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.contestants.inspecting import Inspection, options


def make_app() -> FastAPI:
    """One process's application."""
    chosen = options()
    inspection = Inspection(chosen)
    threads = ThreadPoolExecutor(max(1, chosen.sessions // chosen.workers))
    app = FastAPI()

    @app.post("/v1/inspections")
    async def inspect(request: Request) -> dict[str, float | str]:
        return await asyncio.get_running_loop().run_in_executor(threads, inspection.inspect, await request.body())

    return app


def main() -> None:
    """Serve as the variables say."""
    chosen = options()
    uvicorn.run(
        "benchmarks.contestants.plain_fastapi:make_app",
        factory=True,
        port=chosen.port,
        workers=chosen.workers,
        access_log=False,
        log_level="error",
    )


if __name__ == "__main__":
    main()
