"""Limits that hold wherever an image is read; apart from what reads it, so that naming one loads no OpenCV."""

from typing import Final

DEFAULT_MAX_PIXELS: Final = 40_000_000
MAX_SIDE: Final = 100_000
"""No image, and no part of one, is said to be wider or higher, in pixels."""
