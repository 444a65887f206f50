"""Counts what becomes of the parts."""

from collections import Counter, defaultdict, deque
from typing import Final

from cli.simulated_line.controller import Answer, Presented
from cli.simulated_line.latencies import Latencies
from cli.simulated_line.summary import (
    LatencySummary,
    RepeatSummary,
    StationSummary,
    Summary,
    VerdictCounts,
)
from service.client import ServiceError, Verdict

_RECENTLY_S: Final = 10.0
_TROUBLES: Final = 10


class Tally:
    """Counts presented parts, by station and by what they are.

    Args:
        run: What the lots and serial numbers of the run begin with.
        rate: Parts a second that are wanted.
        stations: Names of all stations.
        pictures: How many different ones the parts show.
    """

    def __init__(self, run: str, rate: float, stations: tuple[str, ...], pictures: int) -> None:
        self._run, self._rate, self._pictures = run, rate, pictures
        self._by_station: dict[str, Counter[str]] = {name: Counter() for name in stations}
        self._by_truth: dict[str, Counter[str]] = defaultdict(Counter)
        self._latencies = {name: Latencies() for name in stations}
        self._all_latencies = Latencies()
        self._recent: dict[str, deque[float]] = {name: deque() for name in stations}
        self._refused: Counter[str] = Counter()
        self._failed = self._unanswered = 0
        self._repeats = self._checked = self._contradicted = 0
        self._longest_delay_s = 0.0
        self._troubles: list[str] = []
        self.posted = 0
        """Parts that reached their station."""

    def add(self, presented: Presented, now_s: float) -> None:
        """Count a part that is done, so long after the start of the line."""
        part = presented.part
        word = presented.answer.verdict if isinstance(presented.answer, Verdict) else "none"
        self._by_station[part.station][word] += 1
        self._by_truth[part.specimen.defect or "good"][word] += 1
        self._longest_delay_s = max(self._longest_delay_s, presented.late_s)
        self._count(part.serial, presented.answer)
        if isinstance(presented.answer, Verdict):
            self._recent[part.station].append(now_s)
        # A part that was given up has waited too; a refusal says nothing of how long a verdict takes.
        if isinstance(presented.answer, Verdict) or _is_missing(presented.answer):
            self._latencies[part.station].add(presented.latency_s)
            self._all_latencies.add(presented.latency_s)
        if presented.repeated is not None:
            self._repeats += 1
            self._count(part.serial, presented.repeated)
        contradiction = presented.contradiction
        if contradiction is not None:
            self._contradicted += 1
            self._trouble(f"{part.serial} was answered twice, and not alike: {contradiction}")
        self._checked += contradiction is not None or (
            isinstance(presented.answer, Verdict) and isinstance(presented.repeated, Verdict)
        )

    def _count(self, serial: str, answer: Answer) -> None:
        if isinstance(answer, Verdict):
            return
        if _is_missing(answer):
            self._unanswered += 1
            self._trouble(f"{serial} was not answered: {answer}")
        elif answer.result == 3:
            self._failed += 1
            self._trouble(f"{serial}: {answer}")
        else:
            self._refused[str(answer.code)] += 1

    def _trouble(self, what: str) -> None:
        if len(self._troubles) < _TROUBLES:
            self._troubles.append(what)

    def summary(self, now_s: float, *, whole: bool = False) -> Summary:
        """What was counted until now, so long after the start; as a `whole`, the rates are those of all that time."""
        stations = {
            name: StationSummary(
                verdicts=_counts(counts),
                parts_per_s=self._rate_of(name, now_s, whole=whole),
                latency_ms=_latency(self._latencies[name]),
            )
            for name, counts in self._by_station.items()
        }
        truth = {name: _counts(self._by_truth[name]) for name in sorted(self._by_truth, key=_good_first)}
        escapes = sum(counts.passed for name, counts in truth.items() if name != "good")
        false_rejects = truth["good"].review + truth["good"].fail if "good" in truth else 0
        judged = sum(counts.parts - counts.none for counts in truth.values())
        return Summary(
            run=self._run,
            seconds=round(now_s, 3),
            parts_per_s_wanted=self._rate,
            parts_per_s=round(sum(station.parts_per_s for station in stations.values()), 3),
            posted=self.posted,
            under_way=self.posted - sum(station.verdicts.parts for station in stations.values()),
            stations=stations,
            latency_ms=_latency(self._all_latencies),
            truth=truth,
            pictures=self._pictures,
            agreement=round(1 - (escapes + false_rejects) / judged, 4) if judged else None,
            false_rejects=false_rejects,
            escapes=escapes,
            repeats=RepeatSummary(sent=self._repeats, checked=self._checked, contradicted=self._contradicted),
            refused=dict(sorted(self._refused.items())),
            failed=self._failed,
            unanswered=self._unanswered,
            longest_delay_ms=round(1e3 * self._longest_delay_s, 2),
            troubles=tuple(self._troubles),
        )

    def _rate_of(self, station: str, now_s: float, *, whole: bool) -> float:
        recent = self._recent[station]
        while recent and recent[0] < now_s - _RECENTLY_S:
            recent.popleft()
        if whole:
            counts = self._by_station[station]
            return round((counts.total() - counts["none"]) / now_s, 3) if now_s else 0.0
        return round(len(recent) / min(_RECENTLY_S, max(now_s, 1.0)), 3)


def _is_missing(answer: ServiceError) -> bool:
    """Whether the service said nothing, or nothing clear, or too late."""
    return answer.status is None or answer.code is None


def _good_first(name: str) -> tuple[bool, str]:
    return name != "good", name


def _counts(counts: Counter[str]) -> VerdictCounts:
    return VerdictCounts(passed=counts["pass"], review=counts["review"], fail=counts["fail"], none=counts["none"])


def _latency(latencies: Latencies) -> LatencySummary:
    p50, p95, p99 = (latencies.percentile_s(percent) for percent in (50, 95, 99))
    return LatencySummary(p50=_ms(p50), p95=_ms(p95), p99=_ms(p99), longest=round(1e3 * latencies.longest_s, 2))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 2)
