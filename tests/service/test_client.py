import asyncio
import inspect
import subprocess
import sys
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from serving import DEFECTIVE, GOOD, Line, defective_image

from atsnet.imaging import RawFormat
from service import fields
from service.client import (
    AsyncInspectionClient,
    BusyError,
    DeadlinePassedError,
    FailedError,
    FieldError,
    ImageRefusedError,
    InspectionClient,
    KeyReusedError,
    NotEvaluated,
    Pixels,
    Retries,
    UnknownError,
)
from service.client.answers import ProblemDocument
from service.client.errors import ERRORS
from service.client.requests import FieldsAs, HeatmapKind, PixelFormat
from service.problems import KINDS
from service.problems import ProblemDocument as ServedProblem
from service.runtimes.fake import FakeRuntime

PART: dict[str, typing.Any] = {"station": "s1", "serial": "A1"}
WAYS = typing.get_args(FieldsAs)
PIXELS = defective_image()


@pytest.fixture
def client(line: Line) -> Iterator[InspectionClient]:
    with InspectionClient(line.url, retries=Retries(most=0)) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
def test_verdict_is_typed_and_fields_arrive(client: InspectionClient, way: FieldsAs) -> None:
    verdict = client.inspect(
        DEFECTIVE,
        recipe="tec-grain",
        station="s1",
        lot="Lö",
        serial="Ä 1",
        trigger=3,
        deadline_ms=20_000,
        fields_as=way,
    )
    assert (verdict.verdict, verdict.score, verdict.result, verdict.passed) == ("fail", 1.5625, 2, False)
    assert (verdict.recipe, verdict.station, verdict.lot, verdict.serial) == ("tec-grain", "s1", "Lö", "Ä 1")
    assert (verdict.trigger, verdict.regions[0].peak, verdict.picture) == (3, 1.5625, None)
    assert client.inspect(GOOD, fields_as=way).passed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "pixels",
    [
        Pixels(PIXELS.tobytes(), 256, 256, "mono8"),
        Pixels((PIXELS.astype("<u2") * 257).tobytes(), 256, 256, "mono16le"),
        Pixels(PIXELS.repeat(3).tobytes(), 256, 256, "bgr8"),
        Pixels(PIXELS.repeat(3).tobytes(), 256, 256, "rgb8"),
    ],
    ids=lambda pixels: pixels.format,
)
def test_bare_pixels(client: InspectionClient, pixels: Pixels, way: FieldsAs) -> None:
    verdict = client.inspect(pixels, fields_as=way)
    assert (verdict.verdict, verdict.score) == ("fail", 1.5625)


def test_everything_is_read_back(client: InspectionClient) -> None:
    verdict = client.inspect(DEFECTIVE, serial="A1", heatmap="overlay")
    record = client.record(verdict.id)
    assert (record.verdict, record.passed, record.serial, record.kept) == ("fail", False, "A1", True)
    assert client.image(verdict.id) == DEFECTIVE
    for picture in (verdict.picture, client.heatmap(verdict.id), client.overlay(verdict.id)):
        assert (picture or b"").startswith(b"\x89PNG")


def test_what_is_not_there(client: InspectionClient) -> None:
    for read in (client.record, client.image, client.heatmap, client.overlay):
        for name in ("01JD8Z7Q4N5R6S7T8V9W0X1Y2Z", "../../etc/passwd", ""):
            with pytest.raises((UnknownError, NotEvaluated)) as caught:
                read(name)
            assert caught.value.status in {404, 307}


def test_failed_inspection_is_a_record_but_no_verdict(client: InspectionClient, runtime: FakeRuntime) -> None:
    runtime.fail_next(RuntimeError("out of order"))
    with pytest.raises(FailedError) as caught:
        client.inspect(GOOD, trigger=7)
    error = caught.value
    assert (error.code, error.status, error.result, error.trigger) == (50, 500, 3, 7)
    record = client.record(error.id or "")
    assert (record.result, record.verdict, record.passed) == (3, "not_evaluated", False)


def test_refusals_are_typed_and_say_all(client: InspectionClient, line: Line) -> None:
    with pytest.raises(ImageRefusedError, match=r"code 10.*not a JPEG") as image:
        client.inspect(b"hello", trigger=4)
    assert (image.value.status, image.value.result, image.value.trigger) == (400, 0, 4)
    with pytest.raises(FieldError) as field:
        client.inspect(GOOD, serial="x" * 200)
    assert (field.value.code, field.value.field) == (13, "serial")
    with pytest.raises(UnknownError, match="no recipe 'nut'"):
        client.inspect(GOOD, recipe="nut")
    line.front.begin_drain()
    with pytest.raises(BusyError, match="shutting down") as busy:
        client.inspect(GOOD)
    assert (busy.value.code, busy.value.status, busy.value.retry_after_s, busy.value.attempts) == (40, 503, 1, 1)


def test_same_part_is_replayed_even_by_another_client(client: InspectionClient, line: Line) -> None:
    first = client.inspect(GOOD, **PART, trigger=5)
    with InspectionClient(line.url) as started_anew:
        again = started_anew.inspect(GOOD, **PART, trigger=5)
    assert (first.replayed, again.replayed, again.id) == (False, True, first.id)
    with pytest.raises(KeyReusedError) as caught:
        client.inspect(DEFECTIVE, **PART, trigger=5)
    assert (caught.value.code, caught.value.status) == (21, 409)


class LosesTheFirstAnswer(httpx.AsyncHTTPTransport):
    lost: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not self.lost:
            self.lost = len(await response.aread())
            await response.aclose()
            raise httpx.ReadError("reset")
        return response


@pytest.mark.parametrize("fields", [{}, {**PART, "trigger": 5}], ids=["key", "part"])
def test_lost_answer_is_replayed(line: Line, runtime: FakeRuntime, fields: dict[str, typing.Any]) -> None:
    before = len(runtime.batches)
    with InspectionClient(line.url, transport=LosesTheFirstAnswer(), retries=Retries(first_pause_s=0.001)) as client:
        verdict = client.inspect(GOOD, **fields)
    assert (verdict.passed, verdict.replayed) == (True, True)
    assert len(runtime.batches) == before + 1


def test_calls_without_a_key_are_inspections_of_their_own(client: InspectionClient) -> None:
    assert client.inspect(GOOD, **PART).id != client.inspect(GOOD, **PART).id


def test_key_of_the_caller_is_kept(client: InspectionClient) -> None:
    first = client.inspect(GOOD, trigger=1, idempotency_key="kä")
    assert client.inspect(GOOD, trigger=1, idempotency_key="kä").id == first.id


@pytest.mark.parametrize("other", [{"serial": "A2"}, {"trigger": 2}, {"lot": "L8"}, {}])
def test_replay_about_another_part_is_no_verdict(client: InspectionClient, other: dict[str, typing.Any]) -> None:
    client.inspect(GOOD, serial="A1", trigger=1, lot="L7", idempotency_key="k")
    with pytest.raises(NotEvaluated, match="and the request about") as caught:
        client.inspect(GOOD, **other, idempotency_key="k")
    assert (caught.value.result, caught.value.attempts) == (0, 1)


def test_deadline_reaches_the_service_and_ends_the_call(client: InspectionClient, runtime: FakeRuntime) -> None:
    runtime.block()
    with pytest.raises(DeadlinePassedError) as caught:
        client.inspect(GOOD, deadline_ms=100)
    assert (caught.value.code, caught.value.result) == (41, 0)
    runtime.release()
    with pytest.raises(DeadlinePassedError) as caught:
        client.inspect(GOOD, deadline_ms=0)
    assert caught.value.status is None


def test_operation(client: InspectionClient, line: Line) -> None:
    assert client.livez().status == "alive"
    ready = client.readyz()
    assert (ready.bundle, ready.restarting) == ("tec-grain-demo/1", ())
    assert client.wait_until_ready(5) == ready
    line.front.begin_drain()
    with pytest.raises(BusyError, match="shutting down"):
        client.readyz()
    with pytest.raises(BusyError, match="shutting down"):
        client.wait_until_ready(0.9)


def test_asynchronous_client_inspects_at_once(line: Line) -> None:
    async def scenario() -> None:
        async with AsyncInspectionClient(line.url) as client:
            verdicts = await asyncio.gather(*(client.inspect(DEFECTIVE, trigger=number) for number in range(8)))
            assert [verdict.trigger for verdict in verdicts] == list(range(8))
            record = await client.record(verdicts[0].id)
            assert (record.trigger, (await client.image(record.id))) == (0, DEFECTIVE)
            assert (await client.heatmap(record.id))[:4] == (await client.overlay(record.id))[:4] == b"\x89PNG"
            assert (await client.livez()).status == "alive"
            assert (await client.readyz()) == (await client.wait_until_ready(5))

    asyncio.run(scenario())


def test_synchronous_client_is_for_many_threads(line: Line) -> None:
    with InspectionClient(line.url) as client, ThreadPoolExecutor(8) as pool:
        verdicts = pool.map(lambda number: client.inspect(GOOD, trigger=number), range(24))
        assert [verdict.trigger for verdict in verdicts] == list(range(24))


def test_closed_client_says_so(line: Line) -> None:
    client = InspectionClient(line.url)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.livez()


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in found if name[0] != "_"}

    assert methods(InspectionClient) == methods(AsyncInspectionClient)


def test_client_knows_what_the_service_knows() -> None:
    assert set(ERRORS) == {kind.code for kind in KINDS.values()}
    assert set(ProblemDocument.model_fields) == set(ServedProblem.model_fields) - {"type"}
    assert typing.get_args(HeatmapKind) == typing.get_args(fields.HeatmapKind)
    assert set(typing.get_args(PixelFormat)) == set(typing.get_args(RawFormat))


def test_client_is_light() -> None:
    program = "import sys, service.client; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"atsnet", "cv2", "fastapi", "numpy", "onnxruntime", "prometheus_client", "sqlalchemy", "starlette"}
    heavy |= {"multipart", "orjson", "PIL", "pydantic_settings", "structlog", "torch", "typer", "uvicorn"}
    assert {"httpx", "pydantic", "ulid"} < set(loaded)
    assert heavy & set(loaded) == set()
