import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atsnet.reference import MAX_BINS, MIN_IMAGES, Edges, Reference, TooFewImagesError, gaps


def edges_of(values: list[float], seed: int = 0) -> Edges:
    return Reference.of(values, values, values, seed=seed).score


@settings(deadline=None)
@given(st.integers(MIN_IMAGES, 3000))
def test_bins_are_even(images: int) -> None:
    masses = gaps(images)
    assert sum(masses) == images + 1
    assert 2 <= len(masses) <= MAX_BINS
    assert max(masses) - min(masses) <= 1
    assert min(masses) >= 8


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=MIN_IMAGES + 1, max_size=120, unique=True))
def test_a_further_value_falls_into_each_bin_with_its_chance(values: list[float]) -> None:
    # Whichever of m + 1 exchangeable values comes last: each is as likely.
    found = [0] * len(gaps(len(values) - 1))
    for last in range(len(values)):
        found[edges_of(values[:last] + values[last + 1 :]).bin(values[last])] += 1
    assert tuple(found) == gaps(len(values) - 1)


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_values_alike_are_shared_out(levels: int) -> None:
    rng = np.random.default_rng(0)
    found = np.zeros(4)
    for seed in range(400):
        values = rng.integers(0, levels, 31 + 10).astype(float).tolist()
        edges = edges_of(values[:31], seed)
        for value in values[31:]:
            found[edges.bin(value, rng.random)] += 1
    # Values of one run share its edges, so that their number varies more than a binomial one.
    assert found / found.sum() == pytest.approx(np.full(4, 0.25), abs=0.03)


def test_beyond_all_edges() -> None:
    edges = Edges(values=(1.0, 2.0, 3.0), tie_breaks=(0.5, 0.5, 0.5))
    assert [edges.bin(value) for value in (-math.inf, 0.5, 1.5, 2.5, 3.5, math.inf, math.nan)] == [0, 0, 1, 2, 3, 3, 3]


def test_a_value_on_an_edge_is_put_by_lot() -> None:
    edges = Edges(values=(1.0, 2.0, 2.0, 3.0), tie_breaks=(0.5, 0.2, 0.7, 0.5))
    assert [edges.bin(2.0, lambda chance=chance: chance) for chance in (0.1, 0.3, 0.9)] == [1, 2, 3]


def test_survives_the_manifest() -> None:
    values = np.random.default_rng(1).normal(size=(3, 200))
    reference = Reference.of(*values)
    assert Reference.model_validate_json(reference.model_dump_json()) == reference
    assert len(reference.model_dump_json()) < 2500
    assert reference.score.values[0] == np.sort(values[0])[15]


@pytest.mark.parametrize(
    "edges",
    [
        {"values": (1.0, 3.0, 2.0), "tie_breaks": (0.1, 0.1, 0.1)},
        {"values": (1.0, 2.0, 2.0), "tie_breaks": (0.1, 0.3, 0.2)},
        {"values": (1.0, 2.0), "tie_breaks": (0.1,)},
        {"values": (1.0,), "tie_breaks": (1.0,)},
        {"values": (math.nan,), "tie_breaks": (0.1,)},
        {"values": (1.0, math.inf), "tie_breaks": (0.1, 0.1)},
        {"values": (), "tie_breaks": ()},
    ],
)
def test_refuses_edges_out_of_order(edges: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError):
        Edges.model_validate(edges)


def test_refuses_edges_of_another_number_of_images() -> None:
    values = Reference.of(*np.random.default_rng(1).normal(size=(3, 60))).model_dump()
    with pytest.raises(ValidationError, match="200 images make 12"):
        Reference.model_validate({**values, "images": 200})


def test_refuses_too_few_and_what_is_no_number() -> None:
    with pytest.raises(TooFewImagesError, match="14 images are too few"):
        Reference.of([1.0] * 14, [1.0] * 14, [1.0] * 14)
    with pytest.raises(TooFewImagesError, match="not finite"):
        Reference.of([1.0] * 20, [math.nan, *[1.0] * 19], [1.0] * 20)
    with pytest.raises(ValueError, match="one each"):
        Reference.of([1.0] * 20, [1.0] * 21, [1.0] * 20)
