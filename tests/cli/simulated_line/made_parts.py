"""Parts, and answers about them, that no service is needed for."""

from typing import Any

from cli.simulated_line import Part, Specimen
from cli.simulated_line.controller import Answer, Presented
from cli.simulated_line.conveyor import Repeat
from service.client import Verdict
from service.examples import REPLY

_WORDS = {"pass": 1, "fail": 2, "review": 4}


def part(defect: str | None = None, *, station: str = "sim-1", repeat: Repeat | None = None, number: int = 1) -> Part:
    specimen = Specimen(b"a picture", defect)
    return Part(0.0, station, "SIM-L001", f"SIM-{number:06d}", number, specimen, repeat)


def verdict(word: str = "pass", **changes: Any) -> Verdict:
    score = {"pass": 0.5, "review": 0.9, "fail": 1.5}[word]
    return Verdict.model_validate({**REPLY, "verdict": word, "result": _WORDS[word], "score": score, **changes})


def presented(
    answer: Answer, repeated: Answer | None = None, *, latency_s: float = 0.01, late_s: float = 0.0, **of_part: Any
) -> Presented:
    repeat: Repeat | None = None if repeated is None else of_part.pop("repeat", "afterwards")
    return Presented(part(repeat=repeat, **of_part), answer, latency_s, late_s, repeated)
