import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from atsnet.data.layout import Sample
from model_export.bundle import Calibration
from model_export.parity import ParityError, ParityLimits, compare, evenly, require_parity

CALIBRATION = Calibration(
    score_threshold=2.0, map_threshold=2.0, target_false_reject_rate=0.01, normal_images=10, method="none"
)


class Answers:
    """Scores a frame by its first byte: a table of scores and map peaks."""

    description = "a table"

    def __init__(self, scores: list[float], peaks: list[float] | None = None) -> None:
        self.scores, self.peaks = scores, peaks or [0.5] * len(scores)
        self.batches: list[int] = []

    def __call__(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(len(frames))
        rows = frames[:, 0, 0, 0]
        maps = np.zeros((len(frames), 2, 2), np.float32)
        maps[:, 1, 1] = np.array(self.peaks)[rows]
        return np.array(self.scores, np.float32)[rows], maps


def frames(count: int) -> Iterator[tuple[str, np.ndarray]]:
    for index in range(count):
        yield f"frame-{index}", np.full((4, 4, 4), index, np.uint8)


def test_equal_answers_are_accepted() -> None:
    table = Answers([1.0, 3.0, 0.5])
    report = compare(table, table, frames(3), CALIBRATION, batch_size=2)
    assert report.accepted
    assert report.frames == 3
    assert report.score_absolute_max == report.map_absolute_max == 0
    assert table.batches == [2, 2, 1, 1]
    require_parity(report)


def test_figures_are_those_of_the_differences() -> None:
    report = compare(Answers([1.0, 4.0], [0.5, 8.0]), Answers([1.5, 4.0], [0.5, 9.0]), frames(2), CALIBRATION)
    assert report.score_absolute_max == pytest.approx(0.5)
    assert report.score_absolute_mean == pytest.approx(0.25)
    assert report.score_relative_max == pytest.approx(0.5)
    assert report.score_relative_mean == pytest.approx(0.25)
    assert report.map_absolute_max == pytest.approx(1.0)
    assert report.map_absolute_mean == pytest.approx(1 / 8)
    assert report.beyond[1].map_relative == pytest.approx(1 / 8)


def test_a_score_beyond_the_limit_is_refused_by_name() -> None:
    report = compare(Answers([1.0, 1.0]), Answers([1.0, 1.0 + 2e-4]), frames(2), CALIBRATION)
    assert not report.accepted
    with pytest.raises(ParityError, match="frame-1") as refusal:
        require_parity(report)
    assert "frame-0" not in str(refusal.value)
    assert compare(Answers([1.0]), Answers([1.0 + 5e-5]), frames(1), CALIBRATION).accepted


def test_a_map_beyond_the_limit_is_refused_though_the_scores_agree() -> None:
    report = compare(Answers([1.0], [0.5]), Answers([1.0], [0.52]), frames(1), CALIBRATION)
    assert not report.accepted
    assert report.score_relative_max == 0


def test_a_flipped_verdict_is_refused_whatever_the_difference() -> None:
    limits = ParityLimits(score_relative=1.0)
    report = compare(Answers([1.999]), Answers([2.001]), frames(1), CALIBRATION, limits)
    assert [frame.name for frame in report.flipped] == ["frame-0"]
    assert not report.beyond
    assert not report.accepted


@pytest.mark.parametrize(("frames_compared", "accepted"), [(499, False), (500, True)])
def test_a_share_of_the_verdicts_may_flip_where_that_is_allowed(frames_compared: int, accepted: bool) -> None:
    """One of 500 frames is 0.2 %, one of 499 is more."""
    row = [0.5] * 255
    limits = ParityLimits(score_relative=1.0, flipped_share=0.002)
    table, candidate = Answers([1.999, *row]), Answers([2.001, *row])
    many = ((f"frame-{n}", np.full((4, 4, 4), min(n, 255), np.uint8)) for n in range(frames_compared))
    report = compare(table, candidate, many, CALIBRATION, limits)
    assert len(report.flipped) == 1
    assert report.accepted == accepted


def test_a_frame_that_is_the_threshold_may_fall_on_either_side() -> None:
    report = compare(Answers([2.0]), Answers([2.000001]), frames(1), CALIBRATION)
    assert [frame.name for frame in report.ties] == ["frame-0"]
    assert report.accepted


def test_how_far_a_tie_may_fall_is_a_limit() -> None:
    table, candidate = Answers([2.0, 1.9]), Answers([2.02, 2.02])
    loose = ParityLimits(score_relative=0.1, tie_relative=0.02)
    report = compare(table, candidate, frames(2), CALIBRATION, loose)
    assert [frame.name for frame in report.ties] == ["frame-0"]
    assert [frame.name for frame in report.flipped] == ["frame-1"]
    strict = compare(table, candidate, frames(2), CALIBRATION, ParityLimits(score_relative=0.1))
    assert len(strict.flipped) == 2


def test_a_worse_ranking_is_refused_though_every_score_is_close() -> None:
    table, candidate = Answers([1.0, 1.001, 1.002, 1.003]), Answers([1.001, 1.0, 1.003, 1.002])
    loose = ParityLimits(score_relative=0.1)
    report = compare(table, candidate, frames(4), CALIBRATION, loose, defective=[False, True, False, True])
    assert (report.reference_auroc, report.auroc) == (0.75, 0.25)
    assert not report.beyond
    with pytest.raises(ParityError, match=r"AUROC differs by 0\.5 \(0\.002\)"):
        require_parity(report)


def test_no_auroc_without_both_kinds_of_frames() -> None:
    table = Answers([1.0, 3.0])
    assert compare(table, table, frames(2), CALIBRATION, defective=[True, True]).auroc is None
    assert compare(table, table, frames(2), CALIBRATION).auroc is None
    with pytest.raises(ValueError, match="1 labels cannot be those of 2 frames"):
        compare(table, table, frames(2), CALIBRATION, defective=[True])


def test_tiny_scores_are_not_held_to_their_own_size() -> None:
    assert compare(Answers([1e-6]), Answers([2e-6]), frames(1), CALIBRATION).accepted
    assert not compare(Answers([1e-6]), Answers([1e-3]), frames(1), CALIBRATION).accepted


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(wrong: float) -> None:
    assert not compare(Answers([1.0]), Answers([wrong]), frames(1), CALIBRATION).accepted
    assert not compare(Answers([1.0]), Answers([1.0], [wrong]), frames(1), CALIBRATION).accepted
    assert not compare(Answers([wrong]), Answers([wrong]), frames(1), CALIBRATION).accepted


def test_no_frames_prove_nothing() -> None:
    with pytest.raises(ValueError, match="none were given"):
        compare(Answers([]), Answers([]), frames(0), CALIBRATION)


def test_a_long_list_of_frames_is_cut() -> None:
    with pytest.raises(ParityError, match="and 15 more"):
        require_parity(compare(Answers([1.0] * 25), Answers([1.5] * 25), frames(25), CALIBRATION))


@pytest.mark.parametrize(("limit", "chosen"), [(1, [0]), (2, [0, 3]), (3, [0, 2, 4]), (7, range(7)), (9, range(7))])
def test_images_are_taken_from_all_over(samples: list[Sample], limit: int, chosen: Sequence[int]) -> None:
    assert list(evenly(samples, limit)) == [samples[index] for index in chosen]
