import numpy as np
import pytest

from atsnet.config import AugmentConfig
from atsnet.data.augment import augment, expose
from atsnet.imaging import UInt8Array


def frames(count: int = 6, channels: int = 4) -> UInt8Array:
    pixels = np.random.default_rng(0).integers(60, 120, (count, 64, 96, channels), np.uint8)
    pixels[..., -1] = 0
    pixels[:, 8:56, 20:90, -1] = 255
    return pixels


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_is_on_by_default() -> None:
    before = frames()
    assert np.array_equal(augment(before, AugmentConfig(), rng()), before)


@pytest.mark.parametrize(("key", "axis"), [("horizontal_flip", 1), ("vertical_flip", 0)])
def test_flips_turn_image_and_mask_alike_on_some_frames(key: str, axis: int) -> None:
    before = frames(16)
    after = augment(before, AugmentConfig.model_validate({key: True}), rng())
    turned = 0
    for old, new in zip(before, after, strict=True):
        if np.array_equal(new, np.flip(old, axis)):
            turned += 1
        else:
            assert np.array_equal(new, old)
    assert 0 < turned < 16


@pytest.mark.parametrize("channels", [2, 4])
def test_rotation_moves_image_and_mask_alike(channels: int) -> None:
    """A bright square under a mask of its own shape stays under it."""
    before = np.zeros((4, 64, 64, channels), np.uint8)
    before[:, 20:40, 24:50] = 255
    after = augment(before, AugmentConfig(rotation_degrees=30, shift_pixels=5), rng(1))
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    for frame in after:
        assert np.array_equal(frame[..., 0], frame[..., -1])
    assert all(not np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    areas = (after[..., -1] > 127).sum(axis=(1, 2))
    assert np.abs(areas - 20 * 26).max() < 25


def test_shifts_stay_within_their_limit_and_reflect_the_border() -> None:
    before = np.zeros((20, 64, 64, 2), np.uint8)
    before[:, 31, 31, 0] = 255
    before[..., -1] = 255
    after = augment(before, AugmentConfig(shift_pixels=3), rng())
    positions = np.array([np.unravel_index(frame[..., 0].argmax(), (64, 64)) for frame in after]) - 31
    assert np.abs(positions).max() <= 3
    assert len({tuple(position) for position in positions.tolist()}) > 5
    assert (after[..., -1] == 255).all()


def test_brightness_leaves_the_mask_and_saturates() -> None:
    before = frames(20)
    before[..., 0] = 250
    after = augment(before, AugmentConfig(brightness=0.3), rng())
    assert np.array_equal(after[..., -1], before[..., -1])
    assert after[..., 0].max() == 255  # no overflow to dark
    gains = after[..., 1].mean(axis=(1, 2)) / before[..., 1].mean(axis=(1, 2))
    assert gains.min() > 0.69
    assert gains.max() < 1.31
    assert gains.max() - gains.min() > 0.2


def test_the_input_stays_and_the_generator_decides() -> None:
    before = frames()
    untouched = before.copy()
    config = AugmentConfig(horizontal_flip=True, rotation_degrees=10, shift_pixels=2, brightness=0.1)
    first = augment(before, config, rng(3))
    assert np.array_equal(before, untouched)
    assert np.array_equal(augment(before, config, rng(3)), first)
    assert not np.array_equal(augment(before, config, rng(4)), first)
    assert first.flags.c_contiguous


def test_one_key_does_not_change_what_another_one_draws() -> None:
    before = frames()
    flipped = augment(before, AugmentConfig(horizontal_flip=True), rng(5))
    both = augment(before, AugmentConfig(horizontal_flip=True, brightness=0.2), rng(5))
    assert np.array_equal(both[..., -1], flipped[..., -1])


@pytest.mark.parametrize("channels", [2, 4])
def test_another_exposure_is_one_gain_a_frame_and_leaves_the_mask(channels: int) -> None:
    before = frames(channels=channels)
    untouched = before.copy()
    after = expose(before, 0.2, rng())
    assert np.array_equal(before, untouched)
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    assert np.array_equal(after[..., -1], before[..., -1])
    images, exposed = (pixels[..., :-1].astype(float) for pixels in (before, after))
    gains = (exposed * images).sum(axis=(1, 2, 3)) / (images**2).sum(axis=(1, 2, 3))
    assert np.abs(exposed - gains[:, None, None, None] * images).max() < 0.6  # but for rounding
    assert len(np.unique(gains.round(3))) == len(before)


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_gains_spread_as_asked_for(spread: float) -> None:
    before = np.full((4_000, 2, 2, 2), 80, np.uint8)
    gains = np.log(expose(before, spread, rng())[:, 0, 0, 0] / 80)
    assert gains.std() == pytest.approx(spread, rel=0.05)
    assert gains.mean() == pytest.approx(0, abs=0.05 * spread + 0.01)
    assert np.array_equal(expose(before, 0, rng()), before)


def test_what_is_too_bright_for_a_byte_is_white() -> None:
    before = np.full((50, 4, 4, 2), 250, np.uint8)
    levels = expose(before, 0.5, rng())[..., 0]
    gains = np.exp(rng().normal(0, 0.5, 50))
    assert 10 < (gains > 1.02).sum() < 40
    assert (levels[gains > 1.02] == 255).all()
    assert (levels[gains < 0.98] < 250).all()


def test_exposures_follow_from_the_generator() -> None:
    before = frames()
    assert np.array_equal(expose(before, 0.1, rng(3)), expose(before, 0.1, rng(3)))
    assert not np.array_equal(expose(before, 0.1, rng(3)), expose(before, 0.1, rng(4)))
