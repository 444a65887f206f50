import cv2
import numpy as np
import pytest

from atsnet.data.synthetic import (
    BORDER_PIXELS,
    BORDER_SHARE,
    KINDS,
    MIN_CHANGE,
    MIN_PIXELS,
    SyntheticSet,
    paste_anomalies,
)
from atsnet.imaging import UInt8Array


def normal_frames(count: int, *, channels: int = 4, height: int = 64, width: int = 96, seed: int = 0) -> UInt8Array:
    """Smooth grey texture on a part that ends within the frame, padding around it."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((count, height, width, channels), np.uint8)
    for frame in frames:
        texture = cv2.GaussianBlur(rng.normal(0, 1, (height, width, channels - 1)), (0, 0), 2)
        frame[..., :-1] = (128 + 25 * texture.reshape(height, width, -1) / texture.std()).clip(0, 255)
        frame[6 : height - 6, 10 : width - 20, -1] = 255
    return frames


def paste(frames: UInt8Array, seed: int = 0, kinds: tuple[str, ...] | None = None) -> SyntheticSet:
    return paste_anomalies(frames, np.random.default_rng(seed), kinds)


def change(before: UInt8Array, after: UInt8Array) -> np.ndarray:
    """Largest change of a channel of the image, `[N, H, W]`."""
    return np.abs(after[..., :-1].astype(int) - before[..., :-1]).max(axis=3)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_the_image_changed_visibly(kind: str, channels: int) -> None:
    before = normal_frames(12, channels=channels)
    kept = before.copy()
    found = paste(before, kinds=(kind,))
    assert np.array_equal(before, kept)
    assert found.kinds == (kind,) * 12
    assert found.pixels.shape == before.shape
    assert found.pixels.dtype == np.uint8
    assert found.masks.dtype == np.bool_
    changed = change(before, found.pixels)
    assert np.array_equal(found.masks, changed >= MIN_CHANGE)
    assert (found.masks.sum(axis=(1, 2)) >= MIN_PIXELS).all()
    # Most of a part stays as it was; what changes it elsewhere is less than what counts.
    assert np.median(found.masks.mean(axis=(1, 2))) < 0.3
    assert changed.max() > 2 * MIN_CHANGE


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_where_nothing_is_inspected(kind: str) -> None:
    """On a part so small that most anomalies reach beyond it."""
    before = normal_frames(20)
    before[..., -1] = 0
    before[:, 20:38, 30:48, -1] = 255
    found = paste(before, kinds=(kind,))
    outside = before[..., -1] < 128
    assert np.array_equal(found.pixels[outside], before[outside])
    assert not found.masks[outside].any()
    assert np.array_equal(found.pixels[..., -1], before[..., -1])
    assert found.masks.any(axis=(1, 2)).all()


def test_every_kind_takes_its_turn() -> None:
    found = paste(normal_frames(2 * len(KINDS) + 1))
    assert found.kinds == (*KINDS, *KINDS, next(iter(KINDS)))
    assert paste(normal_frames(3), kinds=("chip", "spot")).kinds == ("chip", "spot", "chip")


def test_the_generator_decides_everything() -> None:
    before = normal_frames(16)
    first, again, other = paste(before, 3), paste(before, 3), paste(before, 4)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.masks, again.masks)
    assert all(not np.array_equal(a, b) for a, b in zip(first.pixels, other.pixels, strict=True))


def test_anomalies_lie_in_other_places_with_other_contrasts() -> None:
    before = np.repeat(normal_frames(1), 40, axis=0)
    found = paste(before, kinds=("spot",))
    signed = (found.pixels[..., 0].astype(int) - before[..., 0]).reshape(40, -1)
    strongest = signed[np.arange(40), np.abs(signed).argmax(axis=1)]
    assert 5 < (strongest > 0).sum() < 35
    assert np.abs(strongest).min() < 25
    assert np.abs(strongest).max() > 50
    rows, columns = np.divmod(np.abs(signed).argmax(axis=1), before.shape[2])
    assert rows.std() > 8
    assert columns.std() > 10


def test_a_third_of_the_anomalies_is_centred_near_the_border_on_purpose() -> None:
    """Spots on a flat part: a spot changes its own centre most, and so do a few pixels evenly around it.

    Where the part's border cuts them off, their mean moves inwards, but not by as much as `BORDER_PIXELS`.
    """
    count, height, width = 1500, 144, 120
    before = np.full((count, height + 20, width + 30, 2), 128, np.uint8)
    before[..., -1] = 0
    before[:, 10 : 10 + height, 20 : 20 + width, -1] = 255
    found = paste(before, kinds=("spot",))
    near = 0
    for changed in change(before, found.pixels):
        row, column = (axis.mean() for axis in np.nonzero(changed == changed.max()))
        depth = min(row - 10, 9 + height - row, column - 20, 19 + width - column)
        near += depth < BORDER_PIXELS
    # The others lie anywhere, and some of them near the border too.
    by_chance = 1 - (height - 2 * BORDER_PIXELS) * (width - 2 * BORDER_PIXELS) / (height * width)
    expected = BORDER_SHARE + (1 - BORDER_SHARE) * by_chance
    assert abs(near / count - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def test_foreign_texture_comes_from_the_sources() -> None:
    """Sources as bright as nothing on the frames: what is pasted is brighter than both frame and noise allow."""
    before, sources = normal_frames(10), normal_frames(3, seed=5)
    sources[..., :-1] = 255
    found = paste_anomalies(before, np.random.default_rng(0), ("foreign",), sources=sources)
    assert (found.pixels[..., 0].astype(int) - before[..., 0])[found.masks].min() > 0
    assert found.pixels[..., :-1][found.masks].mean() > before[..., :-1][found.masks].mean() + 20


def test_square_frames_can_be_turned() -> None:
    before = normal_frames(8, height=64, width=64)
    found = paste(before, kinds=("foreign",))
    assert np.array_equal(found.masks, change(before, found.pixels) >= MIN_CHANGE)


def test_a_frame_on_which_nothing_can_be_seen_is_an_error() -> None:
    """A black one: however far it is pushed aside, it looks as before."""
    frames = normal_frames(2)
    frames[1, ..., :-1] = 0
    with pytest.raises(ValueError, match="no visible warped could be drawn on frame 1"):
        paste(frames, kinds=("warped",))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_without_anything_to_inspect_is_an_error(kind: str) -> None:
    frames = normal_frames(2)
    frames[1, ..., -1] = 0
    with pytest.raises(ValueError, match=f"no visible {kind} could be drawn on frame 1"):
        paste(frames, kinds=(kind,))


def test_a_part_smaller_than_an_anomaly_may_be_is_an_error() -> None:
    frames = normal_frames(1)
    frames[..., -1] = 0
    frames[0, 20:23, 20:23, -1] = 255
    with pytest.raises(ValueError, match="no visible spot could be drawn on frame 0"):
        paste(frames, kinds=("spot",))
