"""Pictures of an anomaly map, on one scale for all images: black is 0, the brightest colour is twice the threshold.

A scale of its own for each image would light up the noise of good parts, so there is none.
"""

from typing import Final

import cv2
import numpy as np

from atsnet.imaging import Float32Array, InputGeometry, Placement, Roi, UInt8Array, map_to_image

SCALE_TOP: Final = 2.0
"""Calibrated value shown in the brightest colour; 1.0 is the threshold."""
MAX_SIDE: Final = 1024
"""Longer side of a picture, at most; it is for people, and larger images are scaled down."""

_CONTOUR_BGR: Final = (80, 255, 80)
_OVERLAY_OPACITY: Final = 0.65


def heatmap_png(
    anomaly_map: Float32Array, placement: Placement, geometry: InputGeometry, image_height: int, image_width: int
) -> bytes:
    """The map in colours, laid out as the original image; what was not inspected is black.

    Args:
        anomaly_map: Calibrated, `float32 [h, w]`, covering the frame.
        placement: Where in frame and image the content lies.
        geometry: The frame's size.
        image_height: Height of the original image in pixels.
        image_width: Width of the original image in pixels.
    """
    height, width = _picture_size(image_height, image_width)
    return _png(_colorize(_at_size(anomaly_map, placement, geometry, image_height, image_width, height, width)))


def overlay_png(image: UInt8Array, anomaly_map: Float32Array, placement: Placement, geometry: InputGeometry) -> bytes:
    """The image with the map over it, the stronger the more anomalous, and the threshold's contour.

    Args:
        image: `uint8 [H, W]` or `uint8 [H, W, 3]` (BGR), as decoded.
        anomaly_map: Calibrated, `float32 [h, w]`, covering the frame.
        placement: Where in frame and image the content lies.
        geometry: The frame's size.
    """
    image_height, image_width = image.shape[:2]
    height, width = _picture_size(image_height, image_width)
    values = _at_size(anomaly_map, placement, geometry, image_height, image_width, height, width)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    background = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR) if small.ndim == 2 else small
    opacity = (np.clip(values, 0, 1) * _OVERLAY_OPACITY)[:, :, np.newaxis]
    blended = background * (1 - opacity) + _colorize(values) * opacity
    picture = np.ascontiguousarray(np.rint(blended).astype(np.uint8))
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


def _colorize(values: Float32Array) -> UInt8Array:
    levels = np.rint(np.clip(values, 0, SCALE_TOP) * (255 / SCALE_TOP)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8)


def _png(picture: UInt8Array) -> bytes:
    encoded, data = cv2.imencode(".png", picture)
    if not encoded:
        raise RuntimeError(f"OpenCV cannot encode a picture of shape {picture.shape} as PNG")
    return data.tobytes()
