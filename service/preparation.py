"""From a submitted image to the network's frame; what runs in the decoding threads."""

import hashlib
from dataclasses import dataclass

from atsnet.imaging import Frame, ImageError, InputGeometry, UInt8Array, to_frame
from service.picture import ImageFile, Measured, measure
from service.recipes import Recipe
from service.submission import Submission


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submitted image, ready for the network; its pixels at full size are gone, since many may wait."""

    file: ImageFile
    sha256: str
    """Of the image as it was sent."""
    height: int
    width: int
    frame: Frame

    @property
    def image(self) -> UInt8Array:
        """The pixels at full size, decoded afresh: `uint8 [H, W]` or `uint8 [H, W, 3]` (BGR)."""
        return Measured(self.file, self.width, self.height).decode(self.width * self.height)


def prepare(submission: Submission, recipe: Recipe, geometry: InputGeometry, max_pixels: int) -> Prepared:
    """Check, decode, crop and scale.

    Raises:
        ImageTooLargeError: More pixels than allowed, by its header.
        NotAnImageError: No image, or a damaged one.
        ImageError: Not usable with the recipe; the message names the gate and the figures.
    """
    measured = measure(submission.image, submission.fields.raw_layout, max_pixels)
    if min(measured.width, measured.height) < recipe.min_side:
        raise ImageError(
            f"size gate of recipe {recipe.name!r}: the image is {measured.width}x{measured.height} pixels, "
            f"each side needs at least {recipe.min_side}"
        )
    image = measured.decode(max_pixels)
    height, width = image.shape[:2]
    return Prepared(measured.file, sha256_of(submission), height, width, to_frame(image, geometry, recipe.roi))


def sha256_of(submission: Submission) -> str:
    """sha256 of the image as it was sent, hexadecimal."""
    return hashlib.sha256(submission.image).hexdigest()
