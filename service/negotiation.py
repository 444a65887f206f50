"""Which form of an answer the client asked for, and the one-line form for controllers that cannot read JSON."""

from typing import Final

from fastapi import Request

_JSON_TYPES: Final = ("application/json", "application/problem+json")


def wants_line(request: Request) -> bool:
    """Whether `Accept` prefers `text/plain` to JSON; JSON wins a tie, and where nothing is said."""
    return _prefers(request, "text/plain")


def wants_csv(request: Request) -> bool:
    """Whether `Accept` prefers `text/csv` to JSON; JSON wins a tie, and where nothing is said."""
    return _prefers(request, "text/csv")


def _prefers(request: Request, kind: str) -> bool:
    qualities = _qualities(request.headers.get("accept", ""))
    quality = qualities.get(kind, 0.0)
    if quality == 0.0:
        return False
    named = [qualities[kind] for kind in _JSON_TYPES if kind in qualities]
    if named:
        return quality > max(named)
    # A wildcard is a weaker wish than a type that was named.
    return quality >= max(qualities.get("application/*", 0.0), qualities.get("*/*", 0.0))


def result_line(result: int, code: int, trigger: int | None, score: float | None, inspection_id: str | None) -> str:
    """`result;code;trigger;score_ppm;id`; what is not known stays empty. The score is calibrated, 1.0 = 1000000 ppm."""
    score_ppm = "" if score is None else str(round(score * 1_000_000))
    return f"{result};{code};{'' if trigger is None else trigger};{score_ppm};{inspection_id or ''}\n"


def _qualities(accept: str) -> dict[str, float]:
    qualities: dict[str, float] = {}
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if kind:
            qualities[kind] = quality
    return qualities
