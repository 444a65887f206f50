import pytest
from made_results import made_cell

from atsnet.benchmark.summary import (
    ALL,
    AUPRO,
    FIGURES,
    IMAGE_AUROC,
    by_defect,
    by_part_and_variant,
    difference,
    difference_text,
    over_seeds,
    spread,
)


def test_spread_is_the_sample_standard_deviation() -> None:
    found = spread([0.9, 0.8, None, 1.0])
    assert found is not None
    assert (found.mean, found.deviation, found.seeds) == (pytest.approx(0.9), pytest.approx(0.1), 3)
    assert spread([0.9]) is not None
    assert spread([0.9]).deviation is None  # type: ignore[union-attr]
    assert spread([None]) is None
    assert spread([]) is None


def test_parts_are_averaged_before_the_spread_is_taken() -> None:
    # Seed 0 is good on one part and bad on the other, seed 1 the other way round: over all parts they agree.
    cells = [
        made_cell("a", "m", 0, 0.9),
        made_cell("a", "m", 1, 0.7),
        made_cell("b", "m", 0, 0.7),
        made_cell("b", "m", 1, 0.9),
    ]
    found = over_seeds(cells, IMAGE_AUROC.of)
    assert found is not None
    assert (found.mean, found.deviation) == (pytest.approx(0.8), pytest.approx(0.0))
    groups = by_part_and_variant(cells)
    assert {key: len(group) for key, group in groups.items()} == {("a", "m"): 2, ("b", "m"): 2, (ALL, "m"): 4}
    assert (ALL, "m") not in by_part_and_variant(cells[:2])


def test_differences_are_of_the_same_parts_and_seeds() -> None:
    cells = [
        made_cell("a", "ours", 0, 0.95),
        made_cell("a", "ours", 1, 0.85, aupro=None),
        made_cell("a", "ours", 2, 0.10),
        made_cell("a", "theirs", 0, 0.90, aupro=0.4),
        made_cell("a", "theirs", 1, 0.78),
        made_cell("b", "theirs", 0, 0.10),
    ]
    found = difference(cells, "ours", "theirs")
    assert found.parts == 1
    assert found.image_auroc is not None
    assert found.aupro is not None
    assert (found.image_auroc.mean, found.image_auroc.seeds) == (pytest.approx(0.06), 2)
    assert found.image_auroc.deviation == pytest.approx(0.014142, abs=1e-5)
    assert (found.aupro.mean, found.aupro.deviation) == (pytest.approx(0.1), None)
    titles = {"ours": "ATS-Net", "theirs": "MKD"}
    assert difference_text(found, titles) == (
        "ATS-Net minus MKD: +6.0 ± 1.4 points of image AUROC, +10.0 points of AUPRO@0.3"
    )
    steps = {"ours": "+ coupling", "theirs": "MKD"}
    assert difference_text(found, steps).startswith("up to coupling minus MKD: +6.0")
    assert difference_text(difference(cells, "ours", "none"), titles | {"none": "x"}).endswith("nothing to compare")


def test_defects_are_compared_by_variant() -> None:
    cells = [
        made_cell("a", "m", 0, 0.9, dent=0.8),
        made_cell("a", "m", 1, 0.9, dent=0.6),
        made_cell("a", "n", 0, 0.9, dent=None),
    ]
    found = by_defect(cells)
    assert list(found) == [("a", "dent")]
    of_m = found["a", "dent"]["m"]
    assert of_m is not None
    assert of_m.mean == pytest.approx(0.7)
    assert found["a", "dent"]["n"] is None


def test_figures_as_text() -> None:
    text = {
        figure.heading: figure.text(
            over_seeds([made_cell("a", "m", seed, 0.9 + seed / 50) for seed in (0, 1)], figure.of)
        )
        for figure in FIGURES
    }
    assert text["image AUROC"] == "91.0 ± 1.4"
    assert text["image AP"] == "-"
    assert text["false rejects"] == "2.0 ± 0.0"
    assert text["escapes"] == "25.0 ± 0.0"
    assert text["ms a frame"] == "12.5 ± 0.7"
    assert text["M numbers"] == "2.50"
    assert AUPRO.text(over_seeds([made_cell("a", "m", 0, None)], AUPRO.of)) == "50.0"
