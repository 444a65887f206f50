from collections import Counter

import cv2
import numpy as np
import pytest

from atsnet.data.grains import DEFECTS, render_grain
from cli.simulated_line import Specimens, draw_specimens


def drawn(count: int, share: float = 0.1, defects: tuple[str, ...] = DEFECTS, seed: int = 1) -> Specimens:
    return draw_specimens(count, share=share, defects=defects, seed=seed, size=64)


def test_half_are_good_and_the_kinds_are_even() -> None:
    specimens = drawn(21)
    assert Counter(specimen.defect for specimen in specimens.good) == {None: 10}
    assert sorted(Counter(specimen.defect for specimen in specimens.defective).values()) == [2, 2, 2, 2, 3]
    assert len({specimen.image for specimen in (*specimens.good, *specimens.defective)}) == 21


def test_picture_is_the_grain() -> None:
    picture = drawn(4, defects=("pit",)).defective[1].image
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (pixels == render_grain(1, "pit", 64, index=3).image).all()


def test_few_pictures_show_every_kind() -> None:
    specimens = drawn(6)
    assert (len(specimens.good), {specimen.defect for specimen in specimens.defective}) == (1, set(DEFECTS))


@pytest.mark.parametrize(("share", "good"), [(0.0, 5), (1.0, 0)])
def test_what_is_never_shown_is_not_drawn(share: float, good: int) -> None:
    specimens = drawn(5, share=share)
    assert (len(specimens.good), len(specimens)) == (good, 5)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="5 pictures cannot show 5 kinds"):
        drawn(5)
    with pytest.raises(ValueError, match="unknown grain defect 'dent'"):
        drawn(5, defects=("dent",))


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    draw_specimens(2, share=0, defects=(), seed=1, size=64, progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
