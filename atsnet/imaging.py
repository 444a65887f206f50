"""From image bytes to the network's frame, and from its anomaly map back to the image.

Training and serving both go through this module, so that they cannot drift apart. It needs NumPy, OpenCV and
Pillow only.

A *frame* is a `uint8 [H, W, C]` array: the image's channels (one for `mono`, three for `rgb`) followed by one mask
channel that says which pixels are to be inspected (255) and which are padding (0). The aspect ratio is kept: the
image is scaled to fit and the rest is filled by reflection, so that no artificial edge appears beside the part.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from atsnet.limits import DEFAULT_MAX_PIXELS, MAX_SIDE

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

Color = Literal["mono", "rgb"]
RawFormat = Literal["mono8", "mono16le", "bgr8", "rgb8"]

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
"""File name endings (lower case) that a data folder's images may have."""

_PILLOW_FORMATS: Final = ("JPEG", "PNG", "BMP", "TIFF")

# This module enforces its own limit, from the header, with an error that says what to do.
Image.MAX_IMAGE_PIXELS = None
# A damaged upload is answered to its sender; OpenCV need not print it on our standard error as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class ImageError(ValueError):
    """The bytes cannot be used as an image; the message says why, for a person."""


class NotAnImageError(ImageError):
    """Empty, not one of the known formats, cut short, or damaged."""


class ImageTooLargeError(ImageError):
    """More pixels than allowed, known from the header before anything was decoded."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of an image file say."""

    format: str
    width: int
    height: int


class Roi(BaseModel):
    """Region of interest, in pixels of the original image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: int = Field(ge=0, le=MAX_SIDE)
    y: int = Field(ge=0, le=MAX_SIDE)
    width: int = Field(gt=0, le=MAX_SIDE)
    height: int = Field(gt=0, le=MAX_SIDE)


class InputGeometry(BaseModel):
    """Size and channels of the frames that a network takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(default=256, ge=64, multiple_of=32)
    width: int = Field(default=256, ge=64, multiple_of=32)
    color: Color = "rgb"

    @property
    def channels(self) -> int:
        """Channels of a frame: those of the image and the mask."""
        return 2 if self.color == "mono" else 4

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape of one frame, `(height, width, channels)`."""
        return (self.height, self.width, self.channels)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame's content came from (`roi`, image pixels) and where it lies (`left` ... , frame pixels)."""

    roi: Roi
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A network-ready image: `pixels` is `uint8 [H, W, C]` as the module says, and where it came from."""

    pixels: UInt8Array
    placement: Placement


def read_header(data: bytes) -> ImageHeader:
    """Read format and size from an image file's header, decoding no pixels.

    Raises:
        NotAnImageError: The bytes are empty or no JPEG, PNG, BMP or TIFF.
    """
    if not data:
        raise NotAnImageError("the image is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    except Exception as error:  # hostile bytes make the parsers raise nearly anything
        raise NotAnImageError(
            f"the {len(data)} bytes are not a JPEG, PNG, BMP or TIFF image, or their header is damaged"
        ) from error
    return ImageHeader(format=str(image.format), width=image.width, height=image.height)


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Decode a JPEG, PNG, BMP or TIFF file, 8 or 16 bits a channel, grey, colour, CMYK or with alpha.

    The orientation tag of a JPEG or PNG is ignored: a camera over a line has none, and a part must not turn with its
    metadata. OpenCV applies that of a TIFF, whatever it is told.

    Returns:
        `uint8 [H, W]` for a grey file, `uint8 [H, W, 3]` in BGR order for a coloured one. 16-bit values are scaled
        by 1/257; an alpha channel is dropped.

    Raises:
        NotAnImageError: Not such a file, cut short or damaged.
        ImageTooLargeError: More than `max_pixels`, by the header.
    """
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise ImageTooLargeError(
            f"the {header.format} image has {header.width}x{header.height} pixels; at most {max_pixels} are allowed"
        )
    return decode_known(data, header)


def decode_known(data: bytes, header: ImageHeader) -> UInt8Array:
    """Decode a file whose header was read, and its size allowed; otherwise like `decode`.

    Raises:
        NotAnImageError: It is cut short or damaged.
    """
    complete = header.format != "PNG" or _has_all_png_chunks(data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if complete else None
    if image is None:
        raise NotAnImageError(
            f"the {header.format} image of {header.width}x{header.height} pixels is cut short or damaged"
        )
    return _as_uint8(image, f"the {header.format} image")


def decode_raw(data: bytes, width: int, height: int, pixel_format: RawFormat) -> UInt8Array:
    """Interpret bare pixels, row by row without padding, as an image like `decode` returns.

    Raises:
        NotAnImageError: The number of bytes is not what size and format ask for.
    """
    bytes_per_pixel = {"mono8": 1, "mono16le": 2, "bgr8": 3, "rgb8": 3}[pixel_format]
    expected = width * height * bytes_per_pixel
    if len(data) != expected:
        raise NotAnImageError(f"{width}x{height} {pixel_format} takes {expected} bytes; the body has {len(data)}")
    if pixel_format == "mono8":
        return np.frombuffer(data, np.uint8).reshape(height, width)
    if pixel_format == "mono16le":
        return _as_uint8(np.frombuffer(data, "<u2").reshape(height, width), "the image")
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    return pixels if pixel_format == "bgr8" else np.ascontiguousarray(pixels[:, :, ::-1])


def read_image(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read and `decode` an image file; its errors name the path.

    Raises:
        ImageError: The file cannot be read or decoded.
    """
    try:
        return decode(path.read_bytes(), max_pixels=max_pixels)
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise NotAnImageError(f"{path}: cannot be read: {error.strerror}") from error


def to_frame(image: UInt8Array, geometry: InputGeometry, roi: Roi | None = None) -> Frame:
    """Crop the region of interest, convert the colours, scale to fit with the aspect ratio kept, pad by reflection.

    Args:
        image: `uint8 [H, W]` or `uint8 [H, W, 3]` (BGR), as `decode` returns it.
        geometry: What the network takes.
        roi: Part of the image to inspect; all of it by default.

    Raises:
        ImageError: The region of interest is not inside the image.
    """
    height, width = image.shape[:2]
    roi = roi or Roi(x=0, y=0, width=width, height=height)
    if roi.x + roi.width > width or roi.y + roi.height > height:
        raise ImageError(
            f"the region of interest {roi.width}x{roi.height} at ({roi.x}, {roi.y}) "
            f"reaches over the edge of the {width}x{height} image"
        )
    content = _convert_color(image[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width], geometry.color)
    scale = min(geometry.width / roi.width, geometry.height / roi.height)
    content_width = min(geometry.width, max(1, round(roi.width * scale)))
    content_height = min(geometry.height, max(1, round(roi.height * scale)))
    if (content_width, content_height) != (roi.width, roi.height):
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        content = np.asarray(
            cv2.resize(content, (content_width, content_height), interpolation=interpolation), np.uint8
        )
    left, top = (geometry.width - content_width) // 2, (geometry.height - content_height) // 2
    right, bottom = geometry.width - content_width - left, geometry.height - content_height - top
    if left or top or right or bottom:
        bordered = cv2.copyMakeBorder(content, top, bottom, left, right, cv2.BORDER_REFLECT_101)
        content = np.asarray(bordered, np.uint8)
    pixels = np.zeros(geometry.frame_shape, np.uint8)
    pixels[:, :, :-1] = content.reshape(geometry.height, geometry.width, geometry.channels - 1)
    pixels[top : top + content_height, left : left + content_width, -1] = 255
    return Frame(pixels, Placement(roi, left, top, content_width, content_height))


def map_to_image(
    anomaly_map: Float32Array,
    placement: Placement,
    geometry: InputGeometry,
    image_height: int,
    image_width: int,
) -> Float32Array:
    """Bring a frame's anomaly map back to the original image; what was not inspected is 0.

    Args:
        anomaly_map: `float32 [h, w]`, covering the whole frame at any resolution.
        placement: Where the frame's content came from.
        geometry: The frame's size.
        image_height: Height of the original image in pixels.
        image_width: Width of the original image in pixels.

    Returns:
        `float32 [image_height, image_width]`, bilinearly enlarged.
    """
    at_frame_size = cv2.resize(anomaly_map, (geometry.width, geometry.height), interpolation=cv2.INTER_LINEAR)
    content = at_frame_size[
        placement.top : placement.top + placement.height, placement.left : placement.left + placement.width
    ]
    roi = placement.roi
    full: Float32Array = np.zeros((image_height, image_width), np.float32)
    full[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width] = cv2.resize(
        content, (roi.width, roi.height), interpolation=cv2.INTER_LINEAR
    )
    return full


def _has_all_png_chunks(data: bytes) -> bool:
    # OpenCV allocates what a chunk claims to hold before it looks: seconds and gigabytes for a damaged file of a few
    # hundred bytes.
    position = 8
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False


def _as_uint8(image: np.ndarray, what: str) -> UInt8Array:
    if image.dtype == np.uint16:
        scaled = np.empty(image.shape, np.uint8)
        cv2.convertScaleAbs(image, scaled, alpha=1 / 257)
        image = scaled
    if image.dtype != np.uint8:
        raise NotAnImageError(f"{what} has {image.dtype} pixels; 8 and 16 bits a channel are understood")
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[:, :, :3]
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 3 and image.shape[2] != 3:
        raise NotAnImageError(f"{what} has {image.shape[2]} channels; grey and colour images are understood")
    return np.ascontiguousarray(image)


def _convert_color(image: UInt8Array, color: Color) -> UInt8Array:
    if color == "mono":
        converted = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    else:
        converted = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
    return np.asarray(converted, np.uint8)
