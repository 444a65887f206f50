"""LitServe: API processes and inference workers with batches, connected by queues."""

import os
from typing import Annotated, Any, Final

import litserve  # type: ignore[import-not-found, unused-ignore]  # in an environment of its own
import numpy as np
from fastapi import Body

from atsnet.imaging import Float32Array, UInt8Array
from benchmarks.contestants.inspecting import Inspection, options

_BATCH_TIMEOUT_S: Final = 0.002
"""It waits so long for a batch to fill; without it the worker would look for requests without a pause."""


class InspectionApi(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """Decodes in the inference worker, as LitServe does."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the network, in each worker."""
        self._inspection = Inspection(options())

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/png")]) -> UInt8Array:
        """One frame, `uint8 [H, W, C]`."""
        return self._inspection.frame(request)

    def batch(self, inputs: list[UInt8Array]) -> UInt8Array:
        """Frames of one size as one array."""
        return np.stack(inputs)

    def predict(self, x: UInt8Array) -> Float32Array:
        """Raw scores, of one frame where batches are off."""
        return self._inspection.scores(x if x.ndim == 4 else x[np.newaxis])

    def unbatch(self, output: Float32Array) -> list[Any]:
        """One score for each request."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, float | str]:
        """What is answered."""
        return self._inspection.reply(float(np.ravel(output)[0]))


def main() -> None:
    """Serve as the variables say."""
    chosen = options()
    batches: dict[str, Any] = {}
    if chosen.max_batch > 1:
        batches = {"max_batch_size": chosen.max_batch, "batch_timeout": _BATCH_TIMEOUT_S}
    server = litserve.LitServer(
        InspectionApi(api_path="/v1/inspections", **batches),
        accelerator="cpu",
        workers_per_device=chosen.sessions,
        fast_queue="BENCHMARK_FAST_QUEUE" in os.environ,
    )
    server.run(
        host="127.0.0.1",
        port=chosen.port,
        num_api_servers=chosen.workers,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
