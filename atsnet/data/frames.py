"""Decode a data set's images into frames, and its masks; every unusable file is named, not only the first one."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from atsnet.data.layout import DataError, Sample, list_problems
from atsnet.imaging import (
    Color,
    ImageError,
    InputGeometry,
    Placement,
    Roi,
    UInt8Array,
    read_image,
    to_frame,
)
from atsnet.limits import DEFAULT_MAX_PIXELS

Progress = Callable[[int, int], None]
"""Told how many are done and how many there are, after each one, in the calling thread."""

BoolArray = NDArray[np.bool_]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FrameSet:
    """Frames of N images: a 256x256 mono frame takes 128 KiB, an rgb one 256 KiB."""

    pixels: UInt8Array
    """`uint8 [N, H, W, C]`, as `atsnet.imaging` says."""
    placements: tuple[Placement, ...]
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each original image, in pixels."""


def load_frames(
    samples: Sequence[Sample],
    geometry: InputGeometry,
    *,
    roi: Roi | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress | None = None,
) -> FrameSet:
    """Read images and make them frames, in the order given.

    Args:
        samples: The images.
        geometry: Size and channels of the frames.
        roi: Part of each image to inspect; all of it by default.
        max_pixels: Larger images are refused.
        progress: Told after each image.

    Raises:
        DataError: Images cannot be read, decoded or cropped; all of them are listed.
    """
    pixels = np.empty((len(samples), *geometry.frame_shape), np.uint8)

    def load(index: int) -> tuple[Placement, tuple[int, int]]:
        image = read_image(samples[index].path, max_pixels=max_pixels)
        try:
            frame = to_frame(image, geometry, roi)
        except ImageError as error:
            raise ImageError(f"{samples[index].path}: {error}") from error
        pixels[index] = frame.pixels
        return frame.placement, (image.shape[0], image.shape[1])

    loaded = _for_each(load, len(samples), progress)
    return FrameSet(pixels, tuple(placement for placement, _ in loaded), tuple(size for _, size in loaded))


def without_contrast(pixels: UInt8Array) -> list[int]:
    """Indices of the frames, `uint8 [N, H, W, C]`, whose inspected pixels all have one value."""
    return [index for index, frame in enumerate(pixels) if np.ptp(frame[..., :-1][frame[..., -1] > 0]) == 0]


def load_masks(samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]) -> list[BoolArray | None]:
    """Read the masks of samples, `bool [H, W]` at the size of the original image, True on the defect.

    A good image without a mask has an empty one. A defective image without one gives None: where its defect is, is
    not known.

    Args:
        samples: The images.
        sizes: Height and width of each image in pixels; its mask's must be the same.

    Raises:
        DataError: Masks cannot be read, or have another size than their image; all of them are listed.
    """

    def load(index: int) -> BoolArray | None:
        sample, size = samples[index], sizes[index]
        if sample.mask is None:
            return None if sample.defective else np.zeros(size, np.bool_)
        picture = read_image(sample.mask)
        height, width = picture.shape[:2]
        if (height, width) != size:
            raise ImageError(
                f"{sample.mask}: the mask has {width}x{height} pixels, but its image {sample.name} "
                f"has {size[1]}x{size[0]}"
            )
        on_defect: BoolArray = (picture if picture.ndim == 2 else picture.max(axis=2)) > 0
        return on_defect

    return _for_each(load, len(samples), None)


def detect_color(samples: Sequence[Sample], limit: int = 50) -> Color:
    """`mono` when each of up to `limit` images, evenly spread over `samples`, is grey, whatever its file's channels.

    Images that cannot be read are passed over: `load_frames` lists them all.

    Raises:
        DataError: No image can be read.
    """
    chosen = [samples[index] for index in np.linspace(0, len(samples) - 1, min(limit, len(samples))).astype(int)]
    problems = []
    for sample in chosen:
        try:
            image = read_image(sample.path)
        except ImageError as error:
            problems.append(str(error))
            continue
        if image.ndim == 3 and bool((image[:, :, 1:] != image[:, :, :1]).any()):
            return "rgb"
    if len(problems) == len(chosen):
        raise DataError(list_problems(problems, "cannot be used") if problems else "there are no images")
    return "mono"


def _for_each(load: Callable[[int], T], count: int, progress: Progress | None) -> list[T]:
    """Call `load` with 0 to `count` - 1 in threads; collect the `ImageError`s of all before raising."""
    results: list[T] = []
    problems: list[str] = []
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        futures = [pool.submit(load, index) for index in range(count)]
        for done, future in enumerate(futures, start=1):
            try:
                results.append(future.result())
            except ImageError as error:
                problems.append(str(error))
            if progress is not None:
                progress(done, count)
    finally:
        pool.shutdown(cancel_futures=True)
    if problems:
        raise DataError(list_problems(problems, "cannot be used"))
    return results
