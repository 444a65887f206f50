"""What may be asked about recorded inspections: lists of them, and a person's word on one."""

from datetime import datetime
from typing import Final, Literal, NotRequired, TypedDict
from urllib.parse import quote

from service.client.requests import Request
from service.reply import ReviewWord, VerdictWord

PAGE: Final = 200
"""Inspections that are asked for at once."""


class Filters(TypedDict):
    """Which inspections; all of them without any, those that fit every one otherwise."""

    station: NotRequired[str | None]
    lot: NotRequired[str | None]
    serial: NotRequired[str | None]
    recipe: NotRequired[str | None]
    verdict: NotRequired[VerdictWord | None]
    review: NotRequired[ReviewWord | Literal["none"] | None]
    """Whose latest review says this; `none`: without a review."""
    since: NotRequired[datetime | None]
    """Arrived then or later; in UTC where it names no zone."""
    until: NotRequired[datetime | None]
    """Arrived before."""


def list_request(
    filters: Filters, *, limit: int | None = None, cursor: str | None = None, csv: bool = False
) -> Request:
    """`GET` a page of the inspections that fit, or a table of all."""
    asked: dict[str, object] = {**filters, "limit": limit, "cursor": cursor}
    params = {
        name: value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in asked.items()
        if value is not None
    }
    return Request("GET", "/v1/inspections", params=params, headers={"Accept": b"text/csv"} if csv else {})


def review_request(inspection_id: str, review: ReviewWord, note: str) -> Request:
    """`PUT` a person's word on an inspection."""
    url = f"/v1/inspections/{quote(inspection_id, safe='')}/review"
    return Request("PUT", url, json={"review": review, "note": note})
