import weakref

import numpy as np
import pytest
from serving import GEOMETRY, encode

from atsnet.imaging import Frame, InputGeometry, Roi, UInt8Array, to_frame
from service import preparation
from service.picture import measure
from service.recipes import Recipe


def test_what_waits_for_a_session_is_the_frame_and_not_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[weakref.ref[UInt8Array]] = []

    def watched(image: UInt8Array, geometry: InputGeometry, roi: Roi | None) -> Frame:
        images.append(weakref.ref(image))
        return to_frame(image, geometry, roi)

    monkeypatch.setattr(preparation, "to_frame", watched)
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 2000), np.uint8)
    recipe = Recipe(name="r", version=1, bundle="b/1")
    prepared = preparation.prepare(measure(encode(pixels), None, 10**7), recipe, GEOMETRY)
    assert (prepared.height, prepared.width, prepared.frame.pixels.shape) == (1000, 2000, (256, 256, 2))
    assert [image() for image in images] == [None]
