"""Limits that hold wherever an image is read; apart from what reads it, so that naming one loads no OpenCV."""

from typing import Final

DEFAULT_MAX_PIXELS: Final = 40_000_000
