import pytest
from made_parts import presented, verdict

from cli.simulated_line import Summary, Tally
from cli.simulated_line.controller import Presented
from service.client import (
    BusyError,
    DeadlinePassedError,
    FailedError,
    KeyReusedError,
    NoAnswerError,
    NotEvaluated,
    Verdict,
)


def counted(*all_presented: Presented, now_s: float = 1.0, stations: tuple[str, ...] = ("sim-1", "sim-2")) -> Summary:
    tally = Tally("SIM", 2.0, stations, 20)
    for each in all_presented:
        tally.posted += 1
        tally.add(each, now_s)
    return tally.summary(now_s, whole=True)


def test_verdicts_by_station_and_truth() -> None:
    summary = counted(
        presented(verdict("pass")),
        presented(verdict("review")),
        presented(verdict("fail"), station="sim-2"),
        presented(verdict("fail"), defect="crack", station="sim-2"),
        presented(verdict("review"), defect="crack"),
        presented(verdict("pass"), defect="pit"),
        presented(verdict("pass"), defect="chip"),
        presented(BusyError("full", code=40, status=429), defect="chip"),
    )
    first, second = (station.verdicts for station in summary.stations.values())
    assert (first.passed, first.review, first.fail, first.none) == (3, 2, 0, 1)
    assert (second.passed, second.review, second.fail, second.none) == (0, 0, 2, 0)
    assert list(summary.truth) == ["good", "chip", "crack", "pit"]
    assert (summary.false_rejects, summary.escapes) == (2, 2)
    assert summary.agreement == pytest.approx(3 / 7, abs=1e-4)
    assert (summary.refused, summary.faults, summary.posted, summary.under_way) == ({"40": 1}, 0, 8, 0)


def test_nothing_yet() -> None:
    summary = counted(now_s=0.0)
    assert (summary.agreement, summary.latency_ms.p99, summary.parts_per_s, summary.faults) == (None, None, 0.0, 0)


def test_replay_that_agrees() -> None:
    again = verdict("fail", replayed=True, ms=3.0)
    summary = counted(presented(verdict("fail"), again), presented(again, verdict("fail"), repeat="meanwhile"))
    assert (summary.repeats.sent, summary.repeats.checked, summary.repeats.contradicted) == (2, 2, 0)
    assert not summary.faults


@pytest.mark.parametrize(
    ("again", "words"),
    [
        (verdict("pass", replayed=True), "verdict 'fail', then 'pass'"),
        (verdict("fail", replayed=True, id="another"), "then 'another'"),
        (verdict("fail", replayed=True, model_version="2"), "model_version '1', then '2'"),
        (verdict("fail"), "neither of two answers is a replay"),
        (KeyReusedError("another image", code=21, status=409), "takes the same part for another one"),
    ],
)
def test_replay_that_contradicts(again: Verdict | KeyReusedError, words: str) -> None:
    summary = counted(presented(verdict("fail"), again))
    assert (summary.repeats.checked, summary.repeats.contradicted, summary.faults) == (1, 1, 1)
    assert words in summary.troubles[0]
    assert "SIM-000001" in summary.troubles[0]


def test_first_answer_is_no_replay_of_a_later_request() -> None:
    summary = counted(presented(verdict("fail", replayed=True), verdict("fail"), repeat="afterwards"))
    assert summary.repeats.contradicted == 1


def test_repeat_without_an_answer_proves_nothing() -> None:
    summary = counted(presented(verdict("pass"), BusyError("full", code=40, status=503)))
    assert (summary.repeats.sent, summary.repeats.checked, summary.refused) == (1, 0, {"40": 1})
    assert not summary.faults


@pytest.mark.parametrize(
    "error",
    [
        NoAnswerError("nobody"),
        NotEvaluated("garbage", status=200),
        DeadlinePassedError("by the own clock", code=41),
    ],
)
def test_unanswered(error: NotEvaluated | DeadlinePassedError) -> None:
    for each in (presented(error), presented(verdict("pass"), error)):
        summary = counted(each)
        assert (summary.unanswered, summary.faults, summary.refused) == (1, 1, {})
    assert counted(presented(error, latency_s=2.0)).latency_ms.longest == 2000
    assert counted(presented(error)).parts_per_s == 0


def test_refusals_do_not_make_it_faster() -> None:
    refusal = presented(BusyError("full", code=40, status=429), latency_s=0.001)
    summary = counted(presented(verdict("pass"), latency_s=1.0), refusal, refusal)
    assert summary.latency_ms.p50 == 1000
    assert summary.parts_per_s == 1


def test_late_by_the_services_own_word_is_a_refusal() -> None:
    summary = counted(presented(DeadlinePassedError("late", code=41, status=504)))
    assert (summary.refused, summary.unanswered, summary.faults) == ({"41": 1}, 0, 0)


def test_engine_that_failed() -> None:
    summary = counted(presented(FailedError("failed", code=50, status=500, result=3)))
    assert (summary.failed, summary.faults, summary.refused) == (1, 1, {})


def test_times() -> None:
    summary = counted(
        presented(verdict("pass"), latency_s=0.01, late_s=0.002),
        presented(verdict("pass"), latency_s=0.5, station="sim-2"),
        now_s=4.0,
    )
    assert summary.stations["sim-1"].latency_ms.longest == 10
    assert summary.latency_ms.longest == 500
    assert (summary.parts_per_s, summary.longest_delay_ms) == (0.5, 2.0)


def test_rate_on_the_way_is_that_of_the_last_seconds() -> None:
    tally = Tally("SIM", 2.0, ("sim-1",), 20)
    for second in range(100):
        tally.add(presented(verdict("pass")), float(second))
    for _ in range(10):
        tally.add(presented(verdict("pass")), 100.0)
    assert tally.summary(100.0).parts_per_s == 2.0
    assert tally.summary(200.0).parts_per_s == 0.0


def test_document_says_pass() -> None:
    document = counted(presented(verdict("pass"))).model_dump(by_alias=True)
    assert document["truth"]["good"] == {"pass": 1, "review": 0, "fail": 0, "none": 0}
