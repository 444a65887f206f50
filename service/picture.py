"""The image of a request: an encoded file or bare pixels, brought to the array that the rest works on."""

from dataclasses import dataclass
from typing import ClassVar, Final

import cv2
import numpy as np

from atsnet.imaging import (
    ImageHeader,
    ImageTooLargeError,
    NotAnImageError,
    RawFormat,
    UInt8Array,
    decode_known,
    decode_raw,
    read_header,
)

_SUFFIXES: Final = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif"}


@dataclass(frozen=True, slots=True)
class RawLayout:
    """What the bytes of bare pixels mean."""

    width: int
    height: int
    format: RawFormat


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image as bytes: a file of the type that its suffix says, or bare pixels where a layout is given."""

    MEDIA_TYPES: ClassVar = {".png": "image/png", ".jpg": "image/jpeg", ".bmp": "image/bmp", ".tif": "image/tiff"}

    suffix: str
    data: bytes
    layout: RawLayout | None = None

    @property
    def media_type(self) -> str:
        """Media type of the file."""
        return self.MEDIA_TYPES[self.suffix]

    def as_file(self) -> "ImageFile":
        """Itself, or bare pixels as a PNG with every bit of theirs."""
        if self.layout is None:
            return self
        pixels = np.frombuffer(self.data, "<u2" if self.layout.format == "mono16le" else np.uint8)
        shape = (self.layout.height, self.layout.width)
        image = pixels.reshape(shape if self.layout.format.startswith("mono") else (*shape, 3))
        if self.layout.format == "rgb8":
            image = image[:, :, ::-1]
        encoded, data = cv2.imencode(".png", np.ascontiguousarray(image))
        if not encoded:
            raise RuntimeError(f"OpenCV cannot encode {self.layout} as PNG")
        return ImageFile(".png", data.tobytes())


@dataclass(frozen=True, slots=True)
class Measured:
    """An image whose size is known and allowed, but whose pixels have not been looked at."""

    file: ImageFile
    width: int
    height: int
    header: ImageHeader | None
    """Of a file; bare pixels have none."""

    def decode(self) -> UInt8Array:
        """The pixels, `uint8 [H, W]` or `uint8 [H, W, 3]` (BGR).

        Raises:
            NotAnImageError: The file is cut short or damaged.
        """
        layout = self.file.layout
        if layout is not None:
            return decode_raw(self.file.data, layout.width, layout.height, layout.format)
        assert self.header is not None
        try:
            return decode_known(self.file.data, self.header)
        except cv2.error as error:  # OpenCV raises on some damaged files where it answers None to others
            raise NotAnImageError("the image is cut short or damaged") from error


def measure(data: bytes, layout: RawLayout | None, max_pixels: int) -> Measured:
    """Find out what kind of image it is and how large, decoding nothing.

    Raises:
        NotAnImageError: It is empty or no image that is understood.
        ImageTooLargeError: It says that it has more pixels than `max_pixels`.
    """
    if not data:
        raise NotAnImageError("the image is empty (0 bytes)")
    header = None
    if layout is None:
        header = read_header(data)
        what, width, height, suffix = f"{header.format} image", header.width, header.height, _SUFFIXES[header.format]
    else:
        what, width, height, suffix = f"{layout.format} image", layout.width, layout.height, ".png"
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the {what} has {width}x{height} pixels; at most {max_pixels} are allowed")
    return Measured(ImageFile(suffix, data, layout), width, height, header)
