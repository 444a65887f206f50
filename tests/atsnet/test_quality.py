import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atsnet.imaging import InputGeometry, UInt8Array, to_frame
from atsnet.quality import Gates, Limits, Quality, QualityError, learn_gates, measure

MONO = InputGeometry(height=256, width=256, color="mono")


def scene(height: int = 512, width: int = 512) -> UInt8Array:
    """Grey blobs of all sizes, the same at every resolution."""
    rng = np.random.default_rng(0)
    grey = sum(
        cv2.resize(rng.normal(0, 20, (size, size)), (width, height), interpolation=cv2.INTER_CUBIC)
        for size in (4, 8, 16, 32, 64)
    )
    return np.clip(120 + grey, 0, 255).astype(np.uint8)


def of_image(image: UInt8Array, geometry: InputGeometry = MONO) -> Quality:
    return measure(to_frame(image, geometry).pixels)


def typical(count: int = 200, seed: int = 0) -> list[Quality]:
    rng = np.random.default_rng(seed)
    columns = (rng.normal(110, 4, count), rng.lognormal(3, 0.1, count), rng.lognormal(-1, 0.2, count))
    return [Quality(*values) for values in zip(*columns, rng.beta(1, 200, count), strict=True)]


def test_by_hand() -> None:
    frame = np.full((64, 64, 2), 255, np.uint8)
    frame[:, :32, 0], frame[:, 32:, 0] = 50, 150
    quality = measure(frame)
    assert quality.brightness == 100
    assert quality.contrast == 50
    assert quality.clipped == 0
    # Both sides of the one edge differ by 100, which is squared in two of 64 columns.
    assert quality.sharpness == pytest.approx(2 / 64 * 100**2 / 50**2)


def test_only_the_inspected_pixels_count() -> None:
    wide = scene()[:200]
    frame = to_frame(wide, MONO)
    assert frame.placement.height < 256
    expected = measure(frame.pixels)
    painted = frame.pixels.copy()
    painted[painted[:, :, 1] == 0, 0] = 255
    found = measure(painted)
    assert found == expected
    assert found.brightness == pytest.approx(wide.mean(), abs=0.5)


def test_a_mask_of_any_shape() -> None:
    frame = to_frame(scene(), MONO).pixels
    inside = cv2.circle(np.zeros((256, 256), np.uint8), (120, 140), 90, 255, -1)
    frame[:, :, 1] = inside
    frame[inside == 0, 0] = 0
    frame[140, 120, 0] = 255
    quality = measure(frame)
    grey = frame[inside == 255, 0]
    assert quality.brightness == pytest.approx(grey.mean())
    assert quality.contrast == pytest.approx(grey.std())
    assert quality.clipped == pytest.approx(((grey == 0) | (grey == 255)).mean())
    # Part of the scene is as sharp as all of it, whatever lies around.
    assert quality.sharpness == pytest.approx(of_image(scene()).sharpness, rel=0.2)
    frame[:, :, 1] = cv2.circle(np.zeros((256, 256), np.uint8), (120, 140), 2, 255, -1)
    assert measure(frame).sharpness == 0


def test_colour_is_measured_as_grey() -> None:
    grey = of_image(scene())
    rgb = of_image(cv2.cvtColor(scene(), cv2.COLOR_GRAY2BGR), MONO.model_copy(update={"color": "rgb"}))
    assert rgb == pytest.approx(grey, rel=1e-6)
    red = np.zeros((64, 64, 3), np.uint8)
    red[:, :, 2] = 200
    assert of_image(red, MONO.model_copy(update={"color": "rgb"})).brightness == pytest.approx(0.299 * 200, abs=1)


def test_blur_lowers_sharpness_and_noise_hardly_hides_it() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 8, (512, 512))
    found = [
        of_image(np.clip(cv2.GaussianBlur(scene(), (0, 0), sigma) + noise, 0, 255).astype(np.uint8)).sharpness
        for sigma in (0.5, 2.0, 4.0, 8.0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * found[2]


@pytest.mark.parametrize("gain", [0.5, 0.8])
def test_the_lamp_does_not_change_sharpness(gain: float) -> None:
    dark = of_image((scene() * gain).astype(np.uint8))
    assert dark.sharpness == pytest.approx(of_image(scene()).sharpness, rel=0.03)
    assert dark.brightness == pytest.approx(gain * of_image(scene()).brightness, rel=0.01)


@pytest.mark.parametrize("side", [128, 384, 512])
def test_the_frames_size_does_not_change_sharpness(side: int) -> None:
    geometry = InputGeometry(height=side, width=side, color="mono")
    assert of_image(scene(), geometry).sharpness == pytest.approx(of_image(scene()).sharpness, rel=0.1)


def test_even_and_empty_frames() -> None:
    assert of_image(np.zeros((100, 80), np.uint8)) == (0, 0, 0, 1)
    assert of_image(np.full((100, 80), 77, np.uint8)) == (77, 0, 0, 0)
    with pytest.raises(QualityError, match="no pixel"):
        measure(np.zeros((64, 64, 2), np.uint8))


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([2, 4]), st.integers(0, 2**32 - 1))
def test_any_frame_has_finite_figures(width: int, height: int, channels: int, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (64, 64, channels), dtype=np.uint8)
    frame[:, :, -1] = 0
    frame[64 - height :, 64 - width :, -1] = 255
    quality = measure(frame)
    assert all(map(math.isfinite, quality))
    assert 0 <= quality.brightness <= 255
    assert 0 <= quality.clipped <= 1
    assert quality.sharpness >= 0


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (Gates(brightness=Limits(min=80)), "brightness (mean grey value, 0 to 255) is 70, below the gate's 80"),
        (Gates(brightness=Limits(max=60)), "brightness (mean grey value, 0 to 255) is 70, above the gate's 60"),
        (Gates(contrast=Limits(min=30)), "contrast (standard deviation of the grey values) is 20, below the gate's 30"),
        (Gates(sharpness=Limits(min=0.6)), "sharpness is 0.5, below the gate's 0.6"),
        (
            Gates(clipped=Limits(max=0.02)),
            "clipped share (black and white pixels, 0 to 1) is 0.03, above the gate's 0.02",
        ),
    ],
)
def test_names_the_gate_and_the_figures(gates: Gates, message: str) -> None:
    failure = gates.check(Quality(70.0, 20.0, 0.5, 0.03))
    assert str(failure) == f"image unusable: its {message}"
    assert failure is not None
    assert failure.value in (70.0, 20.0, 0.5, 0.03)


def test_limits_include_their_ends() -> None:
    gates = Gates(brightness=Limits(min=70, max=70), clipped=Limits(max=0))
    assert gates.check(Quality(70.0, 0.0, 0.0, 0.0)) is None
    assert Gates().check(Quality(math.nan, 0.0, 0.0, 1.0)) is None
    for limits in (Limits(min=70), Limits(max=70)):
        failure = Gates(brightness=limits).check(Quality(math.nan, 0.0, 0.0, 0.0))
        assert failure is not None
        assert failure.name == "brightness"


@pytest.mark.parametrize(
    "limits", [{"min": 2, "max": 1}, {"min": -1}, {"max": math.nan}, {"max": math.inf}, {"most": 1}]
)
def test_refuses_limits_that_make_no_sense(limits: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(limits)


@pytest.mark.parametrize(("rate", "least", "most"), [(1e-3, 0.0, 1e-3), (0.3, 0.002, 0.3)])
def test_learned_gates_turn_away_as_few_as_promised(rate: float, least: float, most: float) -> None:
    failures = []
    for seed in range(40):
        gates = learn_gates(typical(100, seed), rate)
        failures += [gates.check(quality) for quality in typical(500, seed + 99)]
    assert least <= np.mean([failure is not None for failure in failures]) <= most


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ((scene() * 0.2).astype(np.uint8), ["brightness", "contrast"]),
        (np.clip(scene() * 2.5, 0, 255).astype(np.uint8), ["brightness", "clipped"]),
        (np.full((512, 512), 120, np.uint8), ["contrast", "sharpness"]),
        (cv2.GaussianBlur(scene(), (0, 0), 4), ["sharpness"]),
    ],
)
def test_learned_gates_turn_away_what_cannot_be_inspected(image: UInt8Array, names: list[str]) -> None:
    gates = learn_gates([of_image(np.roll(scene(), shift, (0, 1))) for shift in range(0, 400, 20)])
    assert gates.check(of_image(scene())) is None
    alone = {name: Gates.model_validate({name: limits}) for name, limits in gates}
    failing = [name for name, gate in alone.items() if gate.check(of_image(image))]
    assert set(failing) >= set(names)
    failure = gates.check(of_image(image))
    assert failure is not None
    assert failure.name == failing[0]


def test_one_bad_image_among_the_good_is_not_the_limit() -> None:
    spoilt = learn_gates([*typical(199), Quality(110.0, 20.0, 0.4, 0.5)], 0.01)
    assert spoilt.check(Quality(110.0, 20.0, 0.4, 0.5)) is not None


def test_images_all_alike_leave_some_room() -> None:
    gates = learn_gates([Quality(100.0, 20.0, 0.5, 0.0)] * 30)
    assert gates.brightness == Limits(min=90, max=110)
    assert gates.clipped == Limits(max=0.1)
    assert gates.check(Quality(109.0, 22.0, 0.45, 0.1)) is None
    failure = gates.check(Quality(100.0, 20.0, 0.40, 0.0))
    assert failure is not None
    assert failure.name == "sharpness"
    even = learn_gates([Quality(100.0, 0.0, 0.0, 0.0)] * 30)
    assert even.check(Quality(100.0, 0.0, 0.0, 0.0)) is None


def test_refuses_to_learn_from_too_little() -> None:
    with pytest.raises(QualityError, match="14 good images are too few"):
        learn_gates(typical(14))
    with pytest.raises(QualityError, match="not finite"):
        learn_gates([*typical(20), Quality(math.nan, 1.0, 1.0, 0.0)])
