"""From a submitted image to the network's frame; what runs in the decoding threads."""

import hashlib
from dataclasses import dataclass

from atsnet.imaging import Frame, ImageError, InputGeometry, to_frame
from atsnet.quality import Quality, measure
from service.picture import ImageFile, Measured
from service.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submitted image, ready for the network; its pixels at full size are gone, since many may wait."""

    file: ImageFile
    sha256: str
    """Of the image as it was sent."""
    height: int
    width: int
    frame: Frame
    quality: Quality | None
    """Of the frame, where it was asked for."""


def prepare(measured: Measured, recipe: Recipe, geometry: InputGeometry, *, with_quality: bool = True) -> Prepared:
    """Check, decode, crop and scale.

    Args:
        measured: The image with its size.
        recipe: What is made of it.
        geometry: The frame's.
        with_quality: Whether brightness, contrast, sharpness and exposure are measured, and held against the gates.

    Raises:
        NotAnImageError: The image is damaged.
        ImageError: Not usable with the recipe; the message names the gate and the figures.
    """
    _check_size(measured, recipe)
    image = measured.decode()
    height, width = image.shape[:2]
    frame = to_frame(image, geometry, recipe.roi)
    quality = _check_quality(frame, recipe) if with_quality else None
    return Prepared(measured.file, sha256_of(measured.file.data), height, width, frame, quality)


def _check_quality(frame: Frame, recipe: Recipe) -> Quality:
    quality = measure(frame.pixels)
    failure = recipe.gates.check(quality)
    if failure is not None:
        raise ImageError(f"{failure.name} gate of recipe {recipe.name!r}: {failure}")
    return quality


def _check_size(measured: Measured, recipe: Recipe) -> None:
    size, sides = f"the image is {measured.width}x{measured.height} pixels", (measured.width, measured.height)
    if min(sides) < recipe.min_side:
        wanted = f"each side needs at least {recipe.min_side}"
    elif recipe.max_side is not None and max(sides) > recipe.max_side:
        wanted = f"each side may have at most {recipe.max_side}"
    else:
        return
    raise ImageError(f"size gate of recipe {recipe.name!r}: {size}, {wanted}")


def sha256_of(image: bytes) -> str:
    """sha256 of an image as it was sent, hexadecimal."""
    return hashlib.sha256(image).hexdigest()
