"""The service of this repository; every verdict is on disk before it is answered."""

import sys
from dataclasses import replace

from atsnet.imaging import Float32Array, UInt8Array
from benchmarks.contestants.inspecting import options
from model_export.bundle import Bundle
from service.runtimes.choice import make_runtime
from service.runtimes.protocol import Runtime, RuntimeDescription
from service.server import serve
from service.settings import Settings, load_settings


class BatchingRuntime:
    """A runtime that is given batches although it would rather have single frames. See `Runtime`."""

    def __init__(self, runtime: Runtime, max_batch: int) -> None:
        self._runtime = runtime
        self._max_batch = max_batch

    def load(self, bundle: Bundle) -> None:
        """See `Runtime.load`."""
        self._runtime.load(bundle)

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See `Runtime.run`."""
        return self._runtime.run(frames)

    def describe(self) -> RuntimeDescription:
        """See `Runtime.describe`."""
        return replace(self._runtime.describe(), max_batch=self._max_batch)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._runtime.close()


def make_batching_runtime(settings: Settings) -> Runtime:
    """What the settings ask for, in batches."""
    return BatchingRuntime(make_runtime(settings), options().max_batch)


def main() -> None:
    """Serve as the variables say."""
    chosen = options()
    settings = load_settings(
        weights=chosen.weights,
        bundle=chosen.bundle,
        var=chosen.var,
        port=chosen.port,
        workers=chosen.workers,
        sessions=chosen.sessions,
        log_level="error",
    )
    if chosen.max_batch == 1:
        sys.exit(serve(settings))
    runtime = make_batching_runtime(settings) if settings.worker_count == 1 else None
    sys.exit(serve(settings, runtime, engine_runtime="benchmarks.contestants.ours:make_batching_runtime"))


if __name__ == "__main__":
    main()
