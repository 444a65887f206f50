"""The Open Inference Protocol with the stock client, in both forms of the service."""

import base64
import http.client
import math
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from serving import DEFECTIVE, GEOMETRY, GOOD, MAP_SIZE, Line, defective_image, good_image, running, wait_until
from sqlalchemy import func, select
from tritonclient.utils import InferenceServerException

from atsnet.imaging import Float32Array, UInt8Array, to_frame
from service.open_inference import MAX_JSON_BYTES
from service.records.schema import inspections
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

MODEL = "tec-grain-demo"
INFER = f"/v2/models/{MODEL}/infer"
FRAMES = np.stack([to_frame(image, GEOMETRY).pixels for image in (good_image(), defective_image())])
RAW_SCORES = [2.0, 6.25]
"""The calibrated scores 0.5 and 1.5625 times the bundle's threshold."""


@pytest.fixture
def client(line: Line) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(urlsplit(line.url).netloc, concurrency=4) as client:
        yield client


def frames_input(frames: np.ndarray = FRAMES, *, binary: bool = True) -> triton.InferInput:
    images = triton.InferInput("images", list(frames.shape), "UINT8")
    images.set_data_from_numpy(frames, binary_data=binary)
    return images


def files_input(*files: bytes) -> triton.InferInput:
    image = triton.InferInput("image", [len(files)], "BYTES")
    image.set_data_from_numpy(np.array(files, dtype=np.object_))
    return image


def wanted(*names: str, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def recorded(line: Line) -> int:
    with line.station.equipment.records.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(inspections)).scalar_one())


def json_request(**changes: Any) -> dict[str, Any]:
    frame = FRAMES[:1]
    images = {"name": "images", "shape": list(frame.shape), "datatype": "UINT8", "data": frame.reshape(-1).tolist()}
    return {"inputs": [{**images, **changes}]}


def error_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


def test_server_and_model_describe_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nut")
    assert not client.is_model_ready(MODEL, "2")
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("atsnet", ["binary_tensor_data"])
    model = client.get_model_metadata(MODEL)
    assert client.get_model_metadata(MODEL, "1") == model
    assert (model["name"], model["versions"]) == (MODEL, ["1"])
    assert model["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 256, 256, 2]}
    assert model["outputs"][3] == {"name": "anomaly_map", "datatype": "FP32", "shape": [-1, MAP_SIZE, MAP_SIZE]}


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "json out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "json in"])
def test_frames_are_scored(client: triton.InferenceServerClient, line: Line, binary_in: bool, binary_out: bool) -> None:
    outputs = wanted("score", "anomaly_map", binary=binary_out)
    result = client.infer(MODEL, [frames_input(binary=binary_in)], request_id="r1", outputs=outputs)
    assert result.as_numpy("score").dtype == np.float32
    assert result.as_numpy("score").tolist() == RAW_SCORES
    maps = result.as_numpy("anomaly_map")
    assert (maps.dtype, maps.shape) == (np.float32, (2, MAP_SIZE, MAP_SIZE))
    assert maps.max(axis=(1, 2)).tolist() == [0.5, 1.5625]
    described = result.get_response()
    assert (described["id"], described["model_name"], described["model_version"]) == ("r1", MODEL, "1")
    assert recorded(line) == 0


def test_what_is_not_asked_for_comes_by_default(client: triton.InferenceServerClient) -> None:
    result = client.infer(MODEL, [frames_input()], model_version="1")
    assert [output["name"] for output in result.get_response()["outputs"]] == ["score", "anomaly_map"]
    assert result.as_numpy("score").tolist() == RAW_SCORES
    assert result.as_numpy("verdict") is None


def test_files_are_judged_as_inspections_are(client: triton.InferenceServerClient, line: Line) -> None:
    result = client.infer(MODEL, [files_input(GOOD, DEFECTIVE, GOOD)])
    assert result.as_numpy("verdict").tolist() == [b"pass", b"fail", b"pass"]
    assert result.as_numpy("calibrated_score").tolist() == [0.5, 1.5625, 0.5]
    assert result.as_numpy("score").tolist() == [2.0, 6.25, 2.0]
    assert recorded(line) == 0
    assert line.post(DEFECTIVE).json()["score"] == 1.5625


def test_every_output_is_there_for_both_inputs(client: triton.InferenceServerClient) -> None:
    names = ("anomaly_map", "verdict", "calibrated_score", "score")
    for given in (frames_input(), files_input(GOOD, DEFECTIVE)):
        result = client.infer(MODEL, [given], outputs=wanted(*names, binary=True))
        assert [output["name"] for output in result.get_response()["outputs"]] == list(names)
        assert result.as_numpy("verdict").tolist() == [b"pass", b"fail"]
        assert result.as_numpy("anomaly_map").shape == (2, MAP_SIZE, MAP_SIZE)


def test_json_alone(line: Line) -> None:
    files = [base64.b64encode(file).decode() for file in (GOOD, DEFECTIVE)]
    request = {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": files}]}
    response = line.http.post(INFER, json=request)
    assert response.headers["Content-Type"] == "application/json"
    outputs = {output["name"]: output for output in response.json()["outputs"]}
    assert outputs["verdict"] == {"name": "verdict", "datatype": "BYTES", "shape": [2], "data": ["pass", "fail"]}
    assert outputs["calibrated_score"]["data"] == [0.5, 1.5625]
    nested = json_request(data=FRAMES[:1].tolist())
    outputs = {output["name"]: output for output in line.http.post(INFER, json=nested).json()["outputs"]}
    assert (outputs["score"]["data"], outputs["score"]["shape"]) == ([2.0], [1])
    assert len(outputs["anomaly_map"]["data"]) == MAP_SIZE**2


def test_many_clients_at_once(client: triton.InferenceServerClient, line: Line) -> None:
    under_way = [client.async_infer(MODEL, [frames_input()]) for _ in range(8)]
    assert line.post(GOOD).json()["verdict"] == "pass"
    for request in under_way:
        assert request.get_result().as_numpy("score").tolist() == RAW_SCORES


def test_frames_go_to_the_network_as_one_batch(settings: Settings, apart: bool) -> None:
    runtime = FakeRuntime(max_batch=8)
    with running(settings, runtime, apart=apart) as line:
        before = len(runtime.batches)
        with triton.InferenceServerClient(urlsplit(line.url).netloc) as client:
            client.infer(MODEL, [frames_input(np.repeat(FRAMES, 2, axis=0))])
        assert runtime.batches[before:] == [4]


def test_shared_memory_is_refused_politely(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.register_system_shared_memory("region", "/region", 1000)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.register_cuda_shared_memory("region", b"handle", 0, 1000)
    for status in (client.get_system_shared_memory_status, client.get_cuda_shared_memory_status):
        with pytest.raises(InferenceServerException, match="shared memory is not supported"):
            status()
    shared = triton.InferInput("images", list(FRAMES.shape), "UINT8")
    shared.set_shared_memory("region", FRAMES.nbytes)
    with pytest.raises(InferenceServerException, match="shared memory is not supported") as caught:
        client.infer(MODEL, [shared])
    assert caught.value.status() == "400"
    output = triton.InferRequestedOutput("score")
    output.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer(MODEL, [frames_input()], outputs=[output])


def test_what_else_triton_has_is_not_offered(client: triton.InferenceServerClient, line: Line) -> None:
    for call in (client.get_model_repository_index, lambda: client.load_model(MODEL), client.get_log_settings):
        with pytest.raises(InferenceServerException, match="not offered"):
            call()
    assert "not offered" in error_of(line.http.get("/v2/nothing"), 404)
    with pytest.raises(InferenceServerException, match="classification"):
        client.infer(MODEL, [frames_input()], outputs=[triton.InferRequestedOutput("score", class_count=2)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "picture"}, "there is no input 'picture'"),
        ({"datatype": "FP32"}, "datatype 'FP32'; expected 'UINT8'"),
        ({"shape": [1, 256, 256, 3]}, "expected [N, 256, 256, 2]"),
        ({"shape": [0, 256, 256, 2], "data": []}, "N from 1"),
        ({"shape": [256, 256, 2]}, "expected [N, 256, 256, 2]"),
        ({"shape": [-1, 256, 256, 2]}, "shape"),
        ({"data": [1, 2, 3]}, "integers from 0 to 255"),
        ({"data": [[1, 2], 3]}, "no regular array"),
        ({"data": None}, "integers from 0 to 255"),
        ({"data": [256] * FRAMES[0].size}, "integers from 0 to 255"),
        ({"data": [-1] * FRAMES[0].size}, "integers from 0 to 255"),
        ({"data": [0.5] * FRAMES[0].size}, "integers from 0 to 255"),
        ({"data": [True] * FRAMES[0].size}, "integers from 0 to 255"),
        ({"parameters": {"binary_data_size": 5}}, "data and binary_data_size"),
        ({"data": None, "parameters": {"binary_data_size": 5}}, "0 bytes follow"),
        ({"parameters": 5}, "parameters"),
        ({"name": "image", "datatype": "UINT8"}, "expected 'BYTES'"),
        ({"name": "image", "datatype": "BYTES"}, "expected [N]"),
        ({"name": "image", "datatype": "BYTES", "shape": [2], "data": ["aGk="]}, "1 elements; its shape says 2"),
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": ["no base64!"]}, "base64"),
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": [7]}, "base64"),
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": 7}, "base64"),
    ],
)
def test_wrong_inputs(line: Line, changes: dict[str, Any], message: str) -> None:
    assert message in error_of(line.http.post(INFER, json=json_request(**changes)), 400)


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"", {}, 400, "no JSON"),
        (b"{", {}, 400, "no JSON"),
        (b"[]", {}, 400, "not as the protocol says"),
        (b'{"inputs": []}', {}, 400, "the request has: none"),
        (orjson.dumps({"inputs": json_request()["inputs"] * 2}), {}, 400, "takes one input"),
        (b"{}", {"Inference-Header-Content-Length": "3"}, 400, "the body has 2 bytes"),
        (b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "is '-1'"),
        (b"{}", {"Inference-Header-Content-Length": "9" * 30}, 400, "the body has 2 bytes"),
        (b" " * (MAX_JSON_BYTES + 1), {}, 413, "as binary data"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "'gzip' is not supported"),
    ],
)
def test_wrong_requests(line: Line, content: bytes, headers: dict[str, str], status: int, message: str) -> None:
    assert message in error_of(line.http.post(INFER, content=content, headers=headers), status)


@pytest.mark.parametrize(
    ("shape", "blob", "message"),
    [
        ([1], b"\x05", "within a length"),
        ([1], struct.pack("<I", 9) + b"abc", "within an element"),
        ([2], struct.pack("<I", 3) + b"abc", "1 elements"),
        ([1], struct.pack("<I", 2**32 - 1), "within an element"),
    ],
)
def test_damaged_binary_data(line: Line, shape: list[int], blob: bytes, message: str) -> None:
    image = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
    header = orjson.dumps({"inputs": [image]})
    headers = {"Inference-Header-Content-Length": str(len(header))}
    assert message in error_of(line.http.post(INFER, content=header + blob, headers=headers), 400)
    undeclared = orjson.dumps(json_request())
    headers = {"Inference-Header-Content-Length": str(len(undeclared))}
    assert "3 bytes follow" in error_of(line.http.post(INFER, content=undeclared + b"abc", headers=headers), 400)


def test_wrong_models_outputs_recipes_and_images(client: triton.InferenceServerClient, line: Line) -> None:
    for call, message in (
        (lambda: client.infer("nut", [frames_input()]), "no model 'nut'; have: tec-grain-demo/1"),
        (lambda: client.infer(MODEL, [frames_input()], model_version="2"), "no model 'tec-grain-demo/2'"),
        (lambda: client.get_model_metadata("../../etc/passwd"), "not offered|no model"),
        (lambda: client.infer(MODEL, [frames_input()], outputs=wanted("x", binary=True)), "there is no output 'x'"),
        (lambda: client.infer(MODEL, [frames_input()], parameters={"recipe": "nut"}), "there is no recipe 'nut'"),
        (lambda: client.infer(MODEL, [files_input(GOOD, b"no image")]), "not a JPEG"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            call()
    assert client.infer(MODEL, [files_input(GOOD)], parameters={"recipe": "tec-grain"}).as_numpy("score")[0] == 2.0
    assert line.http.get("/readyz").status_code == 200


def test_deadline_is_kept(client: triton.InferenceServerClient, line: Line, runtime: FakeRuntime) -> None:
    runtime.block()
    with pytest.raises(InferenceServerException, match="deadline passed") as caught:
        client.infer(MODEL, [frames_input()], timeout=50_000)
    assert caught.value.status() == "504"
    runtime.release()
    assert "inspect_deadline_missed_total 1.0" in line.http.get("/metrics").text
    assert client.infer(MODEL, [frames_input()], timeout=60_000_000).as_numpy("score").tolist() == RAW_SCORES
    assert "timeout" in error_of(line.http.post(INFER, json={**json_request(), "parameters": {"timeout": "x"}}), 400)
    wait_until(lambda: line.station.in_flight == 0)


def test_room_is_shared_with_inspections(settings: Settings, runtime: FakeRuntime, apart: bool) -> None:
    narrow = settings.model_copy(update={"queue_size": 2})
    with running(narrow, runtime, apart=apart) as line, ThreadPoolExecutor(2) as pool:
        runtime.block()
        accepted = pool.submit(line.post, GOOD)
        wait_until(lambda: line.station.in_flight == 1)
        with triton.InferenceServerClient(urlsplit(line.url).netloc) as client:
            three, four = np.repeat(FRAMES, 2, axis=0)[:3], np.repeat(FRAMES, 2, axis=0)
            with pytest.raises(InferenceServerException, match="over the limit") as caught:
                client.infer(MODEL, [frames_input(three)])
            assert caught.value.status() == "429"
            with pytest.raises(InferenceServerException, match="at most 3 may be under way") as caught:
                client.infer(MODEL, [frames_input(four)])
            assert caught.value.status() == "400"
            runtime.release()
            assert accepted.result().status_code == 200
            wait_until(lambda: line.front.in_flight == 0)
            assert client.infer(MODEL, [frames_input(three)]).as_numpy("score").shape == (3,)


def test_failure_of_the_engine_is_an_error(client: triton.InferenceServerClient, runtime: FakeRuntime) -> None:
    runtime.fail_next(RuntimeError("secret path /opt/x"))
    with pytest.raises(InferenceServerException, match="the engine failed: RuntimeError") as caught:
        client.infer(MODEL, [frames_input(FRAMES[:1])])
    assert caught.value.status() == "500"
    assert client.infer(MODEL, [frames_input()]).as_numpy("score").tolist() == RAW_SCORES


class NotFinite(FakeRuntime):
    """Answers NaN once the self-test is over."""

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        scores, maps = super().run(frames)
        return (scores * math.nan, maps) if len(self.batches) > 2 else (scores, maps)


def test_what_is_not_finite_is_no_answer(settings: Settings, apart: bool) -> None:
    with running(settings, NotFinite(), apart=apart) as line:
        response = line.http.post(INFER, json=json_request())
        assert "not finite" in error_of(response, 500)


def test_not_ready_and_draining(client: triton.InferenceServerClient, line: Line) -> None:
    line.front.begin_drain()
    assert client.is_server_live()
    assert not client.is_server_ready()
    assert not client.is_model_ready(MODEL)
    refused = line.http.post(INFER, json=json_request())
    assert "shutting down" in error_of(refused, 503)
    assert int(refused.headers["Retry-After"]) >= 1


def test_client_that_leaves_takes_its_frames_along(line: Line, runtime: FakeRuntime) -> None:
    runtime.block()
    connection = http.client.HTTPConnection(urlsplit(line.url).netloc, timeout=30)
    connection.request("POST", INFER, body=orjson.dumps(json_request()))
    wait_until(lambda: line.station.in_flight == 1)
    connection.close()
    wait_until(lambda: line.front.in_flight == 0)
    runtime.release()
    wait_until(lambda: line.station.in_flight == 0)


def test_lost_engine_is_an_error_and_nothing_is_recorded_later(settings: Settings, runtime: FakeRuntime) -> None:
    from serving import TwoSides

    with running(settings, runtime, apart=True) as line, ThreadPoolExecutor(1) as pool:
        assert isinstance(line.front, TwoSides)
        runtime.block()
        waiting = pool.submit(line.http.post, INFER, json=json_request())
        wait_until(lambda: line.station.in_flight == 1)
        line.front.part()
        assert "the engine process ended" in error_of(waiting.result(), 500)
        runtime.release()
        line.front.join_again()
        wait_until(lambda: line.http.get("/readyz").status_code == 200)
        assert line.http.post(INFER, json=json_request()).status_code == 200
        assert recorded(line) == 0
