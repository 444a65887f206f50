import base64
import hashlib
import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from serving import DEFECTIVE, GOOD, SQUARE, Line, defective_image, encode

KEYS = [
    "v", "trigger", "result", "code", "verdict", "score", "threshold", "ms", "id", "recipe", "recipe_version", "model",
    "model_version", "station", "lot", "serial", "regions", "timing_ms", "replayed",
]  # fmt: skip


def test_reply_has_the_contract_s_keys_in_its_order(line: Line) -> None:
    reply = line.post(DEFECTIVE, {"trigger": 7}).json()
    assert list(reply) == KEYS
    assert list(reply["regions"][0]) == ["x", "y", "width", "height", "area", "peak"]
    assert list(reply["timing_ms"]) == ["decode", "queue", "inference", "record", "total"]


def test_good_part_passes(line: Line) -> None:
    reply = line.post(GOOD).json()
    assert (reply["result"], reply["code"], reply["verdict"], reply["score"]) == (1, 0, "pass", 0.5)
    assert reply["regions"] == []
    assert (reply["recipe"], reply["model"], reply["model_version"]) == ("tec-grain", "tec-grain-demo", "1")
    assert reply["ms"] == reply["timing_ms"]["total"] > 0


def test_defective_part_fails_where_the_defect_is(line: Line) -> None:
    reply = line.post(DEFECTIVE).json()
    assert (reply["result"], reply["verdict"], reply["score"]) == (2, "fail", 1.5625)
    [region] = reply["regions"]
    assert region["peak"] == 1.5625
    # The map has cells of 8 pixels; enlarging it moves the square's edge by less than one.
    x, y, width, height = SQUARE
    assert abs(region["x"] - x) <= 8
    assert abs(region["y"] - y) <= 8
    assert abs(region["width"] - width) <= 16
    assert abs(region["height"] - height) <= 16


def test_fields_are_echoed_and_recorded_from_the_query(line: Line) -> None:
    query = {"station": "s1", "lot": "L7", "serial": "A0001", "trigger": -5, "recipe": "tec-grain"}
    reply = line.post(GOOD, query).json()
    assert {name: reply[name] for name in query} == query
    record = line.http.get(f"/v1/inspections/{reply['id']}").json()
    assert {name: record[name] for name in query} == query


def test_fields_are_taken_from_headers(line: Line) -> None:
    headers = {"X-Inspection-Serial": "A0001", "X-Inspection-Trigger": "12", "X-Inspection-Deadline-Ms": "20000"}
    reply = line.post(GOOD, headers=headers).json()
    assert (reply["serial"], reply["trigger"], reply["verdict"]) == ("A0001", 12, "pass")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_headers_may_be_utf_8(line: Line, encoding: str) -> None:
    headers = {b"X-Inspection-Serial": "Äé1".encode(encoding), b"Idempotency-Key": "Ä".encode(encoding)}
    assert line.post(GOOD, headers=headers).json()["serial"] == "Äé1"


def test_empty_fields_count_as_not_given(line: Line) -> None:
    reply = line.post(GOOD, {"serial": "", "trigger": "", "recipe": ""}).json()
    assert (reply["serial"], reply["trigger"], reply["recipe"]) == (None, None, "tec-grain")


@pytest.mark.parametrize("part", [("part.png", DEFECTIVE, "image/png"), (None, DEFECTIVE)], ids=["file", "bare part"])
def test_form_with_fields_as_parts(line: Line, part: tuple[Any, ...]) -> None:
    reply = line.http.post("/v1/inspections", files={"image": part}, data={"serial": "Ä1", "trigger": "9"}).json()
    assert (reply["verdict"], reply["serial"], reply["trigger"]) == ("fail", "Ä1", 9)


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "multipart/form-data", "image/jpeg", ""])
def test_content_type_of_an_image_does_not_matter(line: Line, content_type: str) -> None:
    assert line.post(GOOD, headers={"Content-Type": content_type}).json()["verdict"] == "pass"


def cmyk_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(defective_image()).convert("CMYK").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        encode(defective_image(), ".bmp"),
        encode(defective_image(), ".tif"),
        encode(defective_image(), ".jpg"),
        encode(cv2.cvtColor(defective_image(), cv2.COLOR_GRAY2BGR)),
        encode(cv2.cvtColor(defective_image(), cv2.COLOR_GRAY2BGRA)),
        encode(defective_image().astype(np.uint16) * 257),
        encode(defective_image().astype(np.uint16) * 257, ".tif"),
        cmyk_jpeg(),
    ],
    ids=["bmp", "tiff", "jpeg", "colour", "alpha", "16-bit png", "16-bit tiff", "cmyk jpeg"],
)
def test_every_kind_of_image_gets_the_same_verdict(line: Line, image: bytes) -> None:
    reply = line.post(image).json()
    assert reply["verdict"] == "fail"
    assert reply["score"] == pytest.approx(1.5625, abs=0.05)


@pytest.mark.parametrize(
    ("pixel_format", "pixels"),
    [
        ("mono8", defective_image()),
        ("mono16le", defective_image().astype("<u2") * 257),
        ("bgr8", cv2.cvtColor(defective_image(), cv2.COLOR_GRAY2BGR)),
        ("rgb8", cv2.cvtColor(defective_image(), cv2.COLOR_GRAY2RGB)),
    ],
)
def test_bare_pixels_are_inspected_and_kept_as_png(line: Line, pixel_format: str, pixels: np.ndarray) -> None:
    query = {"width": 256, "height": 256, "format": pixel_format}
    reply = line.post(pixels.tobytes(), query, headers={"Content-Type": "application/octet-stream"}).json()
    assert (reply["verdict"], reply["score"]) == ("fail", 1.5625)
    kept = line.http.get(f"/v1/inspections/{reply['id']}/image")
    assert kept.headers["Content-Type"] == "image/png"
    read_back = cv2.imdecode(np.frombuffer(kept.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read_back, pixels)


def test_channels_of_bare_pixels_are_not_mixed_up(line: Line) -> None:
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[:, :, 0] = 255
    scores = [
        line.post(pixels.tobytes(), {"width": 64, "height": 64, "format": pixel_format}).json()["score"]
        for pixels, pixel_format in ((blue, "bgr8"), (blue[:, :, ::-1], "rgb8"), (blue, "rgb8"))
    ]
    assert scores[0] == scores[1] != scores[2]


def test_one_line_for_controllers(line: Line) -> None:
    response = line.post(DEFECTIVE, {"trigger": 42}, headers={"Accept": "text/plain"})
    assert response.headers["Content-Type"].startswith("text/plain")
    result, code, trigger, score_ppm, inspection_id = response.text.strip().split(";")
    assert (result, code, trigger, score_ppm) == ("2", "0", "42", "1562500")
    assert line.http.get(f"/v1/inspections/{inspection_id}").json()["verdict"] == "fail"


def test_record_is_read_back_with_what_inspected_it(line: Line) -> None:
    reply = line.post(DEFECTIVE, {"lot": "L7"}).json()
    record = line.http.get(f"/v1/inspections/{reply['id']}").json()
    assert list(record)[: len(KEYS)] == KEYS
    same = [key for key in KEYS if key not in {"ms", "timing_ms"}]
    assert {key: record[key] for key in same} == {key: reply[key] for key in same}
    assert record["raw_score"] == pytest.approx(1.5625 * 4)
    assert record["image_sha256"] == hashlib.sha256(DEFECTIVE).hexdigest()
    assert (record["image_width"], record["image_height"], record["kept"]) == (256, 256, True)
    assert len(record["model_digest"]) == 64
    assert record["timing_ms"]["inference"] == reply["timing_ms"]["inference"]
    assert record["created"].endswith("Z") or record["created"].endswith("+00:00")


def test_kept_image_is_the_one_that_was_sent(line: Line) -> None:
    jpeg = encode(defective_image(), ".jpg")
    inspection_id = line.post(jpeg).json()["id"]
    response = line.http.get(f"/v1/inspections/{inspection_id}/image")
    assert response.content == jpeg
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def decode_png(data: bytes) -> np.ndarray:
    assert data.startswith(b"\x89PNG")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture)


def test_heatmap_is_bright_at_the_defect_only(line: Line) -> None:
    inspection_id = line.post(DEFECTIVE).json()["id"]
    response = line.http.get(f"/v1/inspections/{inspection_id}/heatmap.png")
    assert response.headers["Content-Type"] == "image/png"
    picture = decode_png(response.content)
    assert picture.shape == (256, 256, 3)
    brightness = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    x, y, width, height = SQUARE
    assert brightness[y + height // 2, x + width // 2] > 2 * brightness[10, 10]


def test_overlay_leaves_the_good_image_nearly_alone_and_outlines_the_defect(line: Line) -> None:
    inspection_id = line.post(DEFECTIVE).json()["id"]
    picture = decode_png(line.http.get(f"/v1/inspections/{inspection_id}/overlay.png").content)
    green = (picture[:, :, 1].astype(int) - picture[:, :, 2] > 80).nonzero()
    x, y, width, _ = SQUARE
    assert green[0].size > 0
    assert abs(int(green[0].min()) - y) <= 8
    assert abs(int(green[1].max()) - (x + width)) <= 8


@pytest.mark.parametrize(("kind", "route"), [("png", "heatmap.png"), ("overlay", "overlay.png")])
def test_picture_in_the_reply_is_the_one_that_is_read_back(line: Line, kind: str, route: str) -> None:
    reply = line.post(DEFECTIVE, {"heatmap": kind}).json()
    assert list(reply) == [*KEYS, "heatmap"]
    in_reply = decode_png(base64.b64decode(reply["heatmap"]))
    read_back = decode_png(line.http.get(f"/v1/inspections/{reply['id']}/{route}").content)
    # The kept map has half precision, which moves a colour by a step at most.
    assert np.abs(in_reply.astype(int) - read_back).max() <= 8


@pytest.mark.parametrize("route", ["", "/image", "/heatmap.png", "/overlay.png"])
@pytest.mark.parametrize("inspection_id", ["01JD8Z7Q4N5R6S7T8V9W0X1Y2Z", "nonsense", "..%2F..%2Fetc%2Fpasswd"])
def test_unknown_inspection(line: Line, inspection_id: str, route: str) -> None:
    response = line.http.get(f"/v1/inspections/{inspection_id}{route}")
    assert (response.status_code, response.json()["code"]) == (404, 20)
