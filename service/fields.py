"""The fields of an inspection, from the query, the headers and the multipart parts."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, Literal, Self

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from atsnet.imaging import RawFormat
from atsnet.limits import MAX_SIDE
from service.picture import RawLayout
from service.problems import WRONG_FIELD, Problem

HEADER_PREFIX: Final = "x-inspection-"
KEY_HEADER: Final = "idempotency-key"

HeatmapKind = Literal["none", "png", "overlay"]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")
    return text


Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]


class Fields(BaseModel):
    """What a request may say beside its image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Name | None = Field(default=None, description="Recipe to inspect by; the default one if none is named.")
    station: Name | None = Field(default=None, description="Station of the line.")
    lot: Name | None = Field(default=None, description="Lot that the part belongs to.")
    serial: Name | None = Field(default=None, description="Serial number of the part.")
    trigger: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="The controller's count of its triggers; echoed."
    )
    deadline_ms: int | None = Field(
        default=None, ge=0, le=600_000, description="From arrival; what comes later is not evaluated (code 41)."
    )
    heatmap: HeatmapKind = Field(default="none", description="Picture to add to the reply, base64 PNG.")
    width: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="Bare pixels only: width of the image.")
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="Bare pixels only: height of the image.")
    format: RawFormat | None = Field(default=None, description="Bare pixels only: what the bytes are.")
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable)] | None = Field(
        default=None, description="Header `Idempotency-Key` only: makes retries the same request."
    )
    face: tuple[int, int] | None = Field(
        default=None, description="Of a batch alone, and never the client's to say: which face of how many, from 0."
    )

    @property
    def raw_layout(self) -> RawLayout | None:
        """Layout of bare pixels, where all that it takes is given."""
        if self.width is None or self.height is None or self.format is None:
            return None
        return RawLayout(self.width, self.height, self.format)

    @property
    def request_key(self) -> str | None:
        """What retries of this request have in common, within the station; `None` where nothing tells them."""
        identity: list[str | int | None]
        if self.idempotency_key is not None:
            identity = [self.station, "key", self.idempotency_key]
        elif self.station is not None and self.serial is not None and self.trigger is not None:
            identity = [self.station, "part", self.serial, self.trigger]
        else:
            return None
        return json.dumps(identity if self.face is None else [*identity, "face", *self.face])

    def of_face(self, index: int, count: int) -> Self:
        """The same fields as those of one face of a batch."""
        return self.model_copy(update={"face": (index, count)})


FIELD_NAMES: Final = tuple(name for name in Fields.model_fields if name not in {"idempotency_key", "face"})


def url_and_header_fields(request: Request) -> dict[str, str]:
    """The fields of the query and the headers, not validated yet; empty ones count as not given.

    Raises:
        Problem: Code 13: one is unknown, or given twice with different values.
    """
    given: dict[str, str] = {}
    _collect(given, request.query_params.multi_items(), "query parameter")
    _collect(given, _inspection_headers(request.headers.items()), "header")
    key = request.headers.get(KEY_HEADER)
    if key:
        given["idempotency_key"] = _text(key)
    return given


def add_parts(given: dict[str, str], parts: Mapping[str, bytes]) -> None:
    """Add the fields of the multipart parts to those of query and headers.

    Raises:
        Problem: Code 13: one is unknown, no text, or contradicts what query or headers say.
    """
    decoded = []
    for name, value in parts.items():
        try:
            decoded.append((name, value.decode("utf-8")))
        except UnicodeDecodeError:
            raise _wrong(name, f"the part {name!r} is not UTF-8 text") from None
    _collect(given, decoded, "part")


def validate(given: Mapping[str, str]) -> Fields:
    """Check the values of the collected fields.

    Raises:
        Problem: Code 13, naming the field.
    """
    try:
        fields = Fields.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise _wrong(name, f"{name}: {first['msg']} (got {str(first['input'])[:80]!r})") from error
    raw = {"width": fields.width, "height": fields.height, "format": fields.format}
    missing = [name for name, value in raw.items() if value is None]
    if missing and len(missing) < len(raw):
        raise _wrong(missing[0], f"bare pixels need width, height and format; missing: {', '.join(missing)}")
    return fields


def peek_trigger(request: Request) -> int | None:
    """The trigger of query or headers where it can be read, so that even the refusal of other fields can echo it."""
    return parse_trigger(request.query_params.get("trigger") or request.headers.get(f"{HEADER_PREFIX}trigger"))


def parse_trigger(text: str | None) -> int | None:
    """A trigger as a number, `None` where it is none."""
    try:
        return Fields.model_validate({"trigger": text}).trigger
    except ValidationError:
        return None


def _collect(given: dict[str, str], items: Iterable[tuple[str, str]], source: str) -> None:
    for name, value in items:
        if name not in FIELD_NAMES:
            raise _wrong(name, f"there is no field {name[:80]!r} (a {source}); have: {', '.join(FIELD_NAMES)}")
        if not value:
            continue
        if given.setdefault(name, value) != value:
            raise _wrong(name, f"{name} is given twice, as {given[name][:80]!r} and as {value[:80]!r}")


def _inspection_headers(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        if name.startswith(HEADER_PREFIX):
            yield name.removeprefix(HEADER_PREFIX).replace("-", "_"), _text(value)


def _text(header: str) -> str:
    """What a client meant by a header that came as Latin-1, the protocol's own encoding: UTF-8, if it can be that."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return header


def _wrong(field: str, detail: str) -> Problem:
    return Problem(WRONG_FIELD, detail, extensions={"field": field[:80]})
