import http.client
import struct
import zlib
from typing import Any
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import pytest
from serving import DEFECTIVE, GOOD, Line, defective_image, encode, running

from service.runtimes.fake import FakeRuntime
from service.settings import Settings


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes cannot have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def check(
    response: httpx.Response, status: int, code: int, *, result: int = 0, trigger: int | None = None
) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert list(problem)[:8] == ["v", "trigger", "result", "code", "type", "title", "status", "detail"]
    assert (problem["v"], problem["trigger"], problem["result"], problem["code"]) == (1, trigger, result, code)
    assert problem["status"] == status
    assert problem["detail"]
    assert "Traceback" not in response.text
    return problem


JPEG = encode(defective_image(), ".jpg")
PNG_16 = encode(defective_image().astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", JPEG[:2], JPEG[: len(JPEG) // 2], GOOD[: len(GOOD) - 20], PNG_16[:60], b"GIF89a" + bytes(100)],
    ids=["empty", "text", "jpeg magic", "half a jpeg", "png without end", "png without pixels", "gif"],
)
def test_what_is_no_image(line: Line, body: bytes) -> None:
    check(line.post(body, {"trigger": 3}), 400, 10, trigger=3)


def test_bomb_is_refused_from_its_header(line: Line) -> None:
    problem = check(line.post(png_claiming(10_000, 6_000)), 413, 11)
    assert "10000x6000" in problem["detail"]
    assert "40000000" in problem["detail"]


@pytest.mark.parametrize("position", [33, len(GOOD) - 12], ids=["pixels", "end"])
def test_chunk_that_claims_gigabytes_is_not_believed(
    line: Line, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(cv2, "imdecode", lambda data, _: decoded.append(len(data)))
    damaged = GOOD[:position] + struct.pack(">I", 2**31 - 1) + b"teST" + GOOD[position + 8 :]
    check(line.post(damaged), 400, 10)
    assert decoded == []


def test_bare_pixels_over_the_limit(line: Line) -> None:
    check(line.post(b"x", {"width": 10_000, "height": 6_000, "format": "mono8"}), 413, 11)


def test_bare_pixels_of_another_length(line: Line) -> None:
    problem = check(line.post(bytes(100), {"width": 64, "height": 64, "format": "mono8"}), 400, 10)
    assert "4096" in problem["detail"]
    assert "100" in problem["detail"]


def test_tiny_image_names_gate_and_figures(line: Line) -> None:
    problem = check(line.post(encode(np.zeros((1, 1), np.uint8))), 422, 12)
    assert "size gate" in problem["detail"]
    assert "1x1" in problem["detail"]
    assert "32" in problem["detail"]


@pytest.fixture
def narrow(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_body_bytes": 10_000})


def test_announced_body_over_the_limit(narrow: Settings, runtime: FakeRuntime) -> None:
    with running(narrow, runtime) as line:
        problem = check(line.post(bytes(10_001), {"trigger": 1}), 413, 11, trigger=1)
        assert "10000" in problem["detail"]
        assert line.post(GOOD).status_code == 200


def test_body_that_grows_over_the_limit_while_it_streams(narrow: Settings, runtime: FakeRuntime) -> None:
    with running(narrow, runtime) as line:
        chunks = (bytes(1000) for _ in range(15))
        check(line.http.post("/v1/inspections", content=chunks), 413, 11)


def test_client_that_asks_first_is_refused_before_it_sends(narrow: Settings, runtime: FakeRuntime) -> None:
    with running(narrow, runtime) as line:
        connection = http.client.HTTPConnection(urlsplit(line.url).netloc, timeout=30)
        connection.putrequest("POST", "/v1/inspections")
        connection.putheader("Content-Length", "50000")
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"trigger": "seven"}, "trigger"),
        ({"trigger": str(2**63)}, "trigger"),
        ({"trigger": "1.5"}, "trigger"),
        ({"deadline_ms": "-1"}, "deadline_ms"),
        ({"deadline_ms": "soon"}, "deadline_ms"),
        ({"heatmap": "jpg"}, "heatmap"),
        ({"serial": "a\nb"}, "serial"),
        ({"lot": "x" * 129}, "lot"),
        ({"reciep": "tec-grain"}, "reciep"),
        ({"width": "64", "height": "64"}, "format"),
        ({"width": "0", "height": "64", "format": "mono8"}, "width"),
        ({"width": "64", "height": "64", "format": "yuv"}, "format"),
    ],
)
def test_wrong_field_is_named(line: Line, query: dict[str, str], field: str) -> None:
    problem = check(line.post(GOOD, query), 422, 13)
    assert problem["field"] == field
    assert field in problem["detail"]


def test_contradicting_fields(line: Line) -> None:
    response = line.post(GOOD, {"serial": "A", "trigger": 5}, headers={"X-Inspection-Serial": "B"})
    assert check(response, 422, 13, trigger=5)["field"] == "serial"


def test_unknown_inspection_header(line: Line) -> None:
    assert check(line.post(GOOD, headers={"X-Inspection-Seriel": "A"}), 422, 13)["field"] == "seriel"


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> dict[str, Any]:
    body = b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


def disposition(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


@pytest.mark.parametrize(
    ("request_parts", "code", "field"),
    [
        (form((disposition("picture"), GOOD)), 13, "image"),
        (form((disposition("image"), GOOD), (disposition("image"), DEFECTIVE)), 13, "image"),
        (form((disposition("image"), GOOD), (disposition("serial"), b"\xff\xfe")), 13, "serial"),
        (form((disposition("image"), GOOD), (disposition("colour"), b"red")), 13, "colour"),
        (form(("Content-Type: image/png", GOOD)), 13, ""),
        (form((disposition("image"), b"")), 10, None),
        (form((disposition("image"), GOOD), end=b""), 10, None),
        (form((disposition("image"), GOOD), end=b"--b nonsense"), 10, None),
        (form(*[(disposition(f"p{n}"), b"") for n in range(40)]), 13, ""),
    ],
    ids=["no image", "two images", "binary field", "unknown", "nameless", "empty", "cut short", "damaged", "too many"],
)
def test_wrong_forms(line: Line, request_parts: dict[str, Any], code: int, field: str | None) -> None:
    problem = check(line.http.post("/v1/inspections", **request_parts), 422 if code == 13 else 400, code)
    assert problem.get("field") == field


def test_names_of_parts_are_shown_short_and_printable(line: Line) -> None:
    problem = check(line.http.post("/v1/inspections", **form((disposition("\x1b[31m" + "x" * 2000), GOOD))), 422, 13)
    assert problem["detail"].isprintable()
    assert len(problem["detail"]) < 200


def test_trigger_of_a_form_is_echoed_by_its_problem(line: Line) -> None:
    request = form((disposition("trigger"), b"77"), (disposition("image"), b"no image"))
    check(line.http.post("/v1/inspections", **request), 400, 10, trigger=77)


def test_unknown_recipe_lists_the_known(line: Line) -> None:
    problem = check(line.post(GOOD, {"recipe": "nut"}), 404, 20)
    assert "'nut'" in problem["detail"]
    assert "tec-grain" in problem["detail"]


def test_unknown_route_and_method(line: Line) -> None:
    check(line.http.get("/v1/nothing"), 404, 20)
    response = line.http.delete("/v1/inspections")
    check(response, 405, 20)
    assert response.headers["Allow"] == "GET, POST"


def test_refusals_in_one_line(line: Line) -> None:
    response = line.post(b"", {"trigger": 8}, headers={"Accept": "text/plain"})
    assert (response.status_code, response.text) == (400, "0;10;8;;\n")


def test_refused_images_leave_no_record_and_are_counted(line: Line) -> None:
    line.post(b"hello", {"station": "s9"})
    assert 'inspect_requests_total{outcome="not-an-image",station="s9"} 1.0' in line.http.get("/metrics").text
