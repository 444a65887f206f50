"""Augmentation of frames: only what normal parts do on the line anyway."""

import cv2
import numpy as np

from atsnet.config import AugmentConfig
from atsnet.imaging import UInt8Array


def augment(frames: UInt8Array, config: AugmentConfig, rng: np.random.Generator) -> UInt8Array:
    """Vary frames, `uint8 [N, H, W, C]` with the inspect mask as last channel; returns an array of the same kind.

    Geometry moves image and mask alike (what comes in from outside is reflected); brightness leaves the mask alone.
    """
    if config == AugmentConfig():
        return frames
    return np.stack([_augment_one(frame, config, rng) for frame in frames])


def expose(frames: UInt8Array, spread: float, rng: np.random.Generator) -> UInt8Array:
    """The same parts under another light, `uint8 [N, H, W, C]`; the inspect mask stays.

    Args:
        frames: `uint8 [N, H, W, C]`.
        spread: Standard deviation of the logarithm of each frame's gain.
        rng: Of the gains.
    """
    exposed = frames.copy()
    for index, gain in enumerate(np.exp(rng.normal(0, spread, len(frames)))):
        exposed[index, :, :, :-1] = np.clip(np.rint(frames[index, :, :, :-1] * gain), 0, 255)
    return exposed


def _augment_one(frame: UInt8Array, config: AugmentConfig, rng: np.random.Generator) -> UInt8Array:
    # Every number is drawn whether it is used or not, so that one key does not change what another one does.
    flip_x, flip_y = rng.random(2) < 0.5
    angle = rng.uniform(-1, 1) * config.rotation_degrees
    shift = rng.uniform(-1, 1, 2) * config.shift_pixels
    gain = 1 + rng.uniform(-1, 1) * config.brightness
    if config.horizontal_flip and flip_x:
        frame = frame[:, ::-1]
    if config.vertical_flip and flip_y:
        frame = frame[::-1]
    if config.rotation_degrees or config.shift_pixels:
        height, width = frame.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        matrix[:, 2] = matrix[:, 2] + shift
        contiguous = np.ascontiguousarray(frame)
        moved = cv2.warpAffine(contiguous, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        frame = np.asarray(moved, np.uint8)
    if config.brightness:
        frame = frame.copy()
        frame[:, :, :-1] = np.clip(np.rint(frame[:, :, :-1] * gain), 0, 255).astype(np.uint8)
    return frame
