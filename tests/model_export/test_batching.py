import numpy as np
import pytest

from model_export.batching import bucket_for, pad


@pytest.mark.parametrize(("count", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (17, 32), (32, 32)])
def test_the_next_bucket(count: int, bucket: int) -> None:
    assert bucket_for(count) == bucket


@pytest.mark.parametrize("count", [0, 33])
def test_what_fits_in_no_bucket(count: int) -> None:
    with pytest.raises(ValueError, match=r"at least one|at most 32"):
        bucket_for(count)


def test_padding_comes_last_and_is_empty() -> None:
    frames = np.full((3, 2, 2, 2), 7, np.uint8)
    padded = pad(frames, 4)
    np.testing.assert_array_equal(padded[:3], frames)
    assert not padded[3].any()
    assert pad(frames, 3).flags.c_contiguous
    with pytest.raises(ValueError, match="3 frames do not fit into a batch of 2"):
        pad(frames, 2)
