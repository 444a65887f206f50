"""Pictures of an anomaly map, on one scale for all images: by default, the brightest colour is twice the threshold.

A scale of its own for each image would light up the noise of good parts, so there is none.
"""

from typing import Final

import cv2
import numpy as np

from atsnet.imaging import Float32Array, InputGeometry, Placement, Roi, UInt8Array, map_to_image
from service.recipes import HeatmapStyle

MAX_SIDE: Final = 1024
"""Longer side of a picture, at most; it is for people, and larger images are scaled down."""

_CONTOUR_BGR: Final = (80, 255, 80)
_COLORS: Final = {
    "inferno": cv2.COLORMAP_INFERNO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "turbo": cv2.COLORMAP_TURBO,
    "hot": cv2.COLORMAP_HOT,
    "bone": cv2.COLORMAP_BONE,
}
_DEFAULT: Final = HeatmapStyle()


def heatmap_png(
    anomaly_map: Float32Array,
    placement: Placement,
    geometry: InputGeometry,
    image_height: int,
    image_width: int,
    style: HeatmapStyle | None = None,
) -> bytes:
    """The map in colours, laid out as the original image; what was not inspected is black.

    Args:
        anomaly_map: Calibrated, `float32 [h, w]`, covering the frame.
        placement: Where in frame and image the content lies.
        geometry: The frame's size.
        image_height: Height of the original image in pixels.
        image_width: Width of the original image in pixels.
        style: The recipe's, where it is not the default one.
    """
    height, width = _picture_size(image_height, image_width)
    values = _at_size(anomaly_map, placement, geometry, image_height, image_width, height, width)
    return _png(_colorize(values, style or _DEFAULT))


def overlay_png(
    image: UInt8Array,
    anomaly_map: Float32Array,
    placement: Placement,
    geometry: InputGeometry,
    style: HeatmapStyle | None = None,
) -> bytes:
    """The image with the map over it, the stronger the more anomalous, and the threshold's contour.

    Args:
        image: `uint8 [H, W]` or `uint8 [H, W, 3]` (BGR), as decoded.
        anomaly_map: Calibrated, `float32 [h, w]`, covering the frame.
        placement: Where in frame and image the content lies.
        geometry: The frame's size.
        style: The recipe's, where it is not the default one.
    """
    style = style or _DEFAULT
    image_height, image_width = image.shape[:2]
    height, width = _picture_size(image_height, image_width)
    values = _at_size(anomaly_map, placement, geometry, image_height, image_width, height, width)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    background = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR) if small.ndim == 2 else small
    opacity = (np.clip(values, 0, 1) * style.opacity)[:, :, np.newaxis]
    blended = background * (1 - opacity) + _colorize(values, style) * opacity
    picture = np.ascontiguousarray(np.rint(blended).astype(np.uint8))
    if not style.contour:
        return _png(picture)
    contours, _ = cv2.findContours((values >= 1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, _CONTOUR_BGR, thickness=1, lineType=cv2.LINE_AA)
    return _png(picture)


def _picture_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _at_size(
    anomaly_map: Float32Array,
    placement: Placement,
    geometry: InputGeometry,
    image_height: int,
    image_width: int,
    height: int,
    width: int,
) -> Float32Array:
    """The map at the picture's size, never at that of a camera with many megapixels."""
    scale_x, scale_y = width / image_width, height / image_height
    roi = placement.roi
    left, top = min(width - 1, round(roi.x * scale_x)), min(height - 1, round(roi.y * scale_y))
    scaled = Roi(
        x=left,
        y=top,
        width=max(1, min(width - left, round(roi.width * scale_x))),
        height=max(1, min(height - top, round(roi.height * scale_y))),
    )
    shown = Placement(scaled, placement.left, placement.top, placement.width, placement.height)
    return map_to_image(anomaly_map, shown, geometry, height, width)


def _colorize(values: Float32Array, style: HeatmapStyle) -> UInt8Array:
    levels = np.rint(np.clip(values, 0, style.top) * (255 / style.top)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, _COLORS[style.colors]), np.uint8)


def _png(picture: UInt8Array) -> bytes:
    encoded, data = cv2.imencode(".png", picture)
    if not encoded:
        raise RuntimeError(f"OpenCV cannot encode a picture of shape {picture.shape} as PNG")
    return data.tobytes()
