"""What a simulated line has seen, as a document."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class LatencySummary(_Document):
    """How long verdicts took, and those waited that were given up without an answer: ms from when a part was due.

    The percentiles are exact within 1 %, and `None` before the first verdict.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    longest: float


class VerdictCounts(_Document):
    """What became of parts."""

    passed: int = Field(default=0, serialization_alias="pass")
    review: int = 0
    fail: int = 0
    none: int = 0
    """Parts without a verdict, for whatever reason."""

    @property
    def parts(self) -> int:
        """All of them."""
        return self.passed + self.review + self.fail + self.none


class StationSummary(_Document):
    """One station."""

    verdicts: VerdictCounts
    parts_per_s: float
    """Verdicts of the last seconds; over the whole run at its end."""
    latency_ms: LatencySummary


class RepeatSummary(_Document):
    """Parts that were posted a second time."""

    sent: int
    checked: int
    """Both answers are verdicts, or contradict each other otherwise."""
    contradicted: int


class Summary(_Document):
    """A run of the line, so far or as a whole."""

    run: str
    """What its lots and serial numbers begin with."""
    seconds: float
    parts_per_s_wanted: float
    parts_per_s: float
    """Verdicts of the last seconds; over the whole run at its end."""
    posted: int
    under_way: int
    stations: Mapping[str, StationSummary]
    latency_ms: LatencySummary
    truth: Mapping[str, VerdictCounts]
    """By what the parts are: `good`, or the kind of the defect."""
    pictures: int
    """Different ones; the parts share them."""
    agreement: float | None
    """Share of the parts with a verdict that are good and passed, or defective and did not."""
    false_rejects: int
    """Good parts that did not pass, those for review among them."""
    escapes: int
    """Defective parts that passed."""
    repeats: RepeatSummary
    refused: Mapping[str, int]
    """Refusals by code of the contract."""
    failed: int
    """Answers that say that the engine failed."""
    unanswered: int
    """Requests that nothing came back for, or nothing clear, or too late."""
    longest_delay_ms: float
    """How late the line itself was, at worst, in posting a part; part of that part's latency."""
    troubles: tuple[str, ...]
    """The first things that must not happen, in words."""

    @property
    def faults(self) -> int:
        """How often a part got no answer, two different ones, or one that says that the engine failed."""
        return self.repeats.contradicted + self.unanswered + self.failed
