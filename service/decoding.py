"""The images' side of an inspection: decoding, hashing and drawing, in threads of its own."""

import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, Protocol, TypeVar

from atsnet.imaging import Float32Array
from service.heatmap import heatmap_png, overlay_png
from service.picture import Measured, measure
from service.preparation import Prepared, prepare, sha256_of
from service.records.inspection import FrameLayout
from service.setups import Plan
from service.submission import Submission, elapsed_ms

_SMALL_PIXELS: Final = 256 * 256
"""Decoded within a millisecond, which costs others less than the way to a thread and back costs all."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Decoding(Protocol):
    """What an inspection asks of its image."""

    async def sha256(self, submission: Submission) -> str:
        """Of the image as it was sent, hexadecimal."""

    async def prepare(self, submission: Submission, plan: Plan) -> tuple[Prepared, float]:
        """Check, decode, crop and scale; and the ms that it took, with the wait for a thread.

        Raises:
            ImageError: The image cannot be inspected; see `preparation.prepare`.
            TimeoutError: The deadline passed meanwhile.
        """

    async def picture(self, submission: Submission, layout: FrameLayout, anomaly_map: Float32Array) -> str | None:
        """The picture that the submission asks for, base64 PNG; `None` where it asks for none."""


class Decoder:
    """Decodes in this process.

    Args:
        threads: Images that are decoded at the same time.
        max_pixels: Most pixels of an image.
    """

    def __init__(self, threads: int, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def sha256(self, submission: Submission) -> str:
        """See `Decoding`."""
        return await self._in_thread(sha256_of, submission.image)

    async def prepare(self, submission: Submission, plan: Plan) -> tuple[Prepared, float]:
        """See `Decoding`."""
        started = time.monotonic()
        measured = measure(submission.image, submission.fields.raw_layout, self._max_pixels)
        if measured.width * measured.height <= _SMALL_PIXELS:
            prepared = _prepare(measured, plan)
        else:
            async with asyncio.timeout_at(submission.deadline):
                prepared = await self._in_thread(_prepare, measured, plan)
        return prepared, elapsed_ms(started)

    async def picture(self, submission: Submission, layout: FrameLayout, anomaly_map: Float32Array) -> str | None:
        """See `Decoding`."""
        if submission.fields.heatmap == "none":
            return None
        png = await self._in_thread(self._draw, submission, layout, anomaly_map)
        return base64.b64encode(png).decode("ascii")

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown()

    def _draw(self, submission: Submission, layout: FrameLayout, anomaly_map: Float32Array) -> bytes:
        placement, geometry = layout.placement, layout.geometry
        measured = measure(submission.image, submission.fields.raw_layout, self._max_pixels)
        if submission.fields.heatmap == "png":
            return heatmap_png(anomaly_map, placement, geometry, measured.height, measured.width, layout.style)
        return overlay_png(measured.decode(), anomaly_map, placement, geometry, layout.style)

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))


def _prepare(measured: Measured, plan: Plan) -> Prepared:
    return prepare(measured, plan.recipe, plan.geometry, with_quality=plan.with_quality)
