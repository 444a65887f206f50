"""From a submitted image to the network's frame; what runs in the decoding threads."""

import hashlib
from dataclasses import dataclass

from atsnet.imaging import Frame, ImageError, InputGeometry, to_frame
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


def prepare(measured: Measured, recipe: Recipe, geometry: InputGeometry) -> Prepared:
    """Check, decode, crop and scale.

    Raises:
        NotAnImageError: The image is damaged.
        ImageError: Not usable with the recipe; the message names the gate and the figures.
    """
    if min(measured.width, measured.height) < recipe.min_side:
        raise ImageError(
            f"size gate of recipe {recipe.name!r}: the image is {measured.width}x{measured.height} pixels, "
            f"each side needs at least {recipe.min_side}"
        )
    image = measured.decode()
    height, width = image.shape[:2]
    return Prepared(measured.file, sha256_of(measured.file.data), height, width, to_frame(image, geometry, recipe.roi))


def sha256_of(image: bytes) -> str:
    """sha256 of an image as it was sent, hexadecimal."""
    return hashlib.sha256(image).hexdigest()
