"""The requests that the service understands, apart from how they are sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NotRequired, TypedDict, Unpack
from urllib.parse import quote

from ulid import ULID

HeatmapKind = Literal["none", "png", "overlay"]
PixelFormat = Literal["mono8", "mono16le", "bgr8", "rgb8"]
FieldsAs = Literal["query", "headers", "form"]

_LONGEST_DEADLINE_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Pixels:
    """Bare pixels as a camera delivers them, without padding."""

    data: bytes
    width: int
    height: int
    format: PixelFormat


class GrainOptions(TypedDict):
    """What an inspection may say of the part beside its images and deadline; all of it may be left out."""

    recipe: NotRequired[str | None]
    """Recipe to inspect by; the service's default one without."""
    station: NotRequired[str | None]
    lot: NotRequired[str | None]
    serial: NotRequired[str | None]
    trigger: NotRequired[int | None]
    """The controller's count of its triggers; echoed."""
    heatmap: NotRequired[HeatmapKind]
    """Picture to add to the verdict."""
    idempotency_key: NotRequired[str | None]
    """What makes repeated calls the same inspection; see `InspectionRequest`."""


class InspectionOptions(GrainOptions):
    """What an inspection of one image may say beside it; all of it may be left out."""

    fields_as: NotRequired[FieldsAs]
    """How the fields travel: in the URL, as headers, or with the image as parts of a form."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: the keyword arguments of `httpx.AsyncClient.build_request`."""

    method: Literal["GET", "POST", "PUT"]
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, bytes] = field(default_factory=dict)
    content: bytes | None = None
    data: Mapping[str, str] | None = None
    files: Sequence[tuple[str, tuple[str, bytes, str]]] | None = None
    json: object = None

    def arguments(self) -> dict[str, Any]:
        """Of `build_request`."""
        return {name: getattr(self, name) for name in self.__slots__}


class _PartRequest:
    """What a request says of a part, and what makes its repeats the same inspection."""

    def __init__(
        self,
        layout: Pixels | None,
        *,
        recipe: str | None = None,
        station: str | None = None,
        lot: str | None = None,
        serial: str | None = None,
        trigger: int | None = None,
        heatmap: HeatmapKind = "none",
        idempotency_key: str | None = None,
    ) -> None:
        self.echoed: dict[str, str | int | None] = {
            "recipe": recipe or None,
            "station": station or None,
            "lot": lot or None,
            "serial": serial or None,
            "trigger": trigger,
        }
        """What the answer must repeat; a recipe only where one is named."""
        self._fields = {name: str(value) for name, value in self.echoed.items() if value is not None}
        if heatmap != "none":
            self._fields["heatmap"] = heatmap
        if layout is not None:
            self._fields |= {"width": str(layout.width), "height": str(layout.height), "format": layout.format}
        is_part = bool(station and serial) and trigger is not None
        self.key = idempotency_key or (None if is_part else str(ULID()))

    def _say(self, deadline_ms: int | None) -> tuple[dict[str, str], dict[str, bytes]]:
        """The fields and headers of one attempt."""
        fields = dict(self._fields)
        if deadline_ms is not None:
            fields["deadline_ms"] = str(min(deadline_ms, _LONGEST_DEADLINE_MS))
        headers = {"Accept": b"application/json, application/problem+json"}
        if self.key is not None:
            headers["Idempotency-Key"] = self.key.encode()
        return fields, headers


class InspectionRequest(_PartRequest):
    """`POST /v1/inspections`, the same one however often it is sent.

    So that a retry is the same inspection, it carries an `Idempotency-Key`: the caller's, or one of its own. Where the
    caller names station, serial and trigger but no key, those three are the key by the contract, and the header stays
    away: it would go before them, and a controller that starts anew and asks again would not get its verdict.
    """

    def __init__(
        self, image: bytes | Pixels, *, fields_as: FieldsAs = "query", **options: Unpack[GrainOptions]
    ) -> None:
        super().__init__(image if isinstance(image, Pixels) else None, **options)
        self._data = _data_of(image)
        self._fields_as = fields_as

    def build(self, deadline_ms: int | None) -> Request:
        """The request of one attempt; `deadline_ms` is what is left of the deadline, where there is one."""
        fields, headers = self._say(deadline_ms)
        if self._fields_as == "form":
            return Request("POST", "/v1/inspections", headers=headers, data=fields, files=[_image_part(self._data)])
        headers["Content-Type"] = b"application/octet-stream"
        if self._fields_as == "headers":
            headers |= {f"X-Inspection-{name.replace('_', '-')}": text.encode() for name, text in fields.items()}
            return Request("POST", "/v1/inspections", headers=headers, content=self._data)
        return Request("POST", "/v1/inspections", params=fields, headers=headers, content=self._data)


class FacesRequest(_PartRequest):
    """`POST /v1/inspections:batch`: all faces of one grain; as an `InspectionRequest`, always the same one.

    Raises:
        ValueError: There is no image, or bare pixels are mixed with files or with pixels of another layout.
    """

    def __init__(self, images: Sequence[bytes | Pixels], **options: Unpack[GrainOptions]) -> None:
        layouts = {(each.width, each.height, each.format) if isinstance(each, Pixels) else None for each in images}
        if len(layouts) != 1:
            what = "bare pixels of one layout, or all image files" if layouts else "at least one image"
            raise ValueError(f"the faces of a grain must be {what}")
        super().__init__(images[0] if isinstance(images[0], Pixels) else None, **options)
        self._parts = [_image_part(_data_of(image)) for image in images]

    @property
    def count(self) -> int:
        """How many faces."""
        return len(self._parts)

    def build(self, deadline_ms: int | None) -> Request:
        """The request of one attempt; see `InspectionRequest.build`."""
        fields, headers = self._say(deadline_ms)
        return Request("POST", "/v1/inspections:batch", headers=headers, data=fields, files=self._parts)


def _data_of(image: bytes | Pixels) -> bytes:
    return image.data if isinstance(image, Pixels) else image


def _image_part(data: bytes) -> tuple[str, tuple[str, bytes, str]]:
    return "image", ("image", data, "application/octet-stream")


def read_request(inspection_id: str, what: Literal["", "/image", "/heatmap.png", "/overlay.png"] = "") -> Request:
    """`GET` the record of an inspection, or one of its pictures."""
    return Request("GET", f"/v1/inspections/{quote(inspection_id, safe='')}{what}")
