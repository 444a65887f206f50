"""A tiny bundle whose answers the fake runtime knows, and a real server on a free port to drive it through."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import uvicorn

from atsnet.imaging import InputGeometry, to_frame
from model_export.bundle import MANIFEST_NAME, Calibration, GoldenSample, Manifest, describe_file
from service.app import create_app
from service.engine.channel import socket_pair
from service.engine.host import DecodedByWorkers, Host
from service.engine.remote import RemoteStation
from service.front import Front, StartError
from service.runtimes.fake import FakeRuntime
from service.server import bind
from service.settings import Settings
from service.station import MakeRuntime, Station

GEOMETRY = InputGeometry(height=256, width=256, color="mono")
MAP_SIZE = 32
SCORE_THRESHOLD = 4.0
SQUARE = (96, 64, 32, 32)  # x, y, width, height: whole cells of the map


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    encoded, data = cv2.imencode(suffix, image)
    assert encoded
    return data.tobytes()


def good_image() -> np.ndarray:
    """Dark enough to pass: calibrated score 64 / 128."""
    return np.full((256, 256), 64, np.uint8)


def defective_image() -> np.ndarray:
    """A bright square on the good image: calibrated score 200 / 128."""
    image = good_image()
    x, y, width, height = SQUARE
    image[y : y + height, x : x + width] = 200
    return image


GOOD = encode(good_image())
DEFECTIVE = encode(defective_image())


def write_bundle(
    weights: Path,
    *,
    graph: bytes = b"no graph",
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    name: str = "tec-grain-demo",
    version: str = "1",
    geometry: InputGeometry = GEOMETRY,
    map_size: int = MAP_SIZE,
    score_threshold: float = SCORE_THRESHOLD,
) -> Path:
    """Write a bundle with one good and one defective golden sample; `change` edits its manifest."""
    path = weights / name / version
    (path / "samples").mkdir(parents=True)
    (path / "model.onnx").write_bytes(graph)
    samples = []
    for label, image in (("good", good_image()), ("crack", defective_image())):
        (path / "samples" / f"{label}.png").write_bytes(encode(image))
        brightness = to_frame(image, geometry).pixels[:, :, 0].astype(np.float32) / 128
        anomaly_map = cv2.resize(brightness, (map_size, map_size), interpolation=cv2.INTER_AREA)
        np.save(path / "samples" / f"{label}.npy", anomaly_map.astype(np.float16))
        score = float(anomaly_map.max())
        samples.append(
            GoldenSample(
                image=f"samples/{label}.png",
                anomaly_map=f"samples/{label}.npy",
                score=score * score_threshold,
                verdict="fail" if score > 1 else "pass",
                label=label,
            )
        )
    files = ["model.onnx", *(str(file.relative_to(path)) for file in sorted((path / "samples").iterdir()))]
    manifest = Manifest(
        name=name,
        version=version,
        product="tec-grain",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        graphs={"float32": "model.onnx"},
        input=geometry,
        map_height=map_size,
        map_width=map_size,
        calibration=Calibration(
            score_threshold=score_threshold,
            map_threshold=1.0,
            target_false_reject_rate=0.01,
            normal_images=10,
            method="made up",
        ),
        golden_samples=tuple(samples),
        score_tolerance=1e-3,
        network={},
        training={},
        data={},
        metrics={},
        backbone={"source": "none", "licence": "none"},
        files={name: describe_file(path / name) for name in files},
    )
    document = manifest.model_dump(mode="json")
    change(document)
    (path / MANIFEST_NAME).write_text(Manifest.model_validate(document).model_dump_json())
    return path


class FakeRuntimes:
    """Makes a fake runtime for every bundle that is loaded."""

    def __init__(self, make: Callable[[], FakeRuntime] = FakeRuntime) -> None:
        self.make = make
        self.made: list[Any] = []
        """In the order of loading."""

    def __call__(self, _: Settings) -> FakeRuntime:
        self.made.append(self.make())
        return self.made[-1]

    def release(self) -> None:
        """Let held calls of all of them go on."""
        for runtime in self.made:
            runtime.release()


class TwoSides(RemoteStation):
    """A worker and an engine as they are in processes of their own, but in one event loop."""

    def __init__(self, settings: Settings, runtime: FakeRuntime | MakeRuntime | None) -> None:
        super().__init__(settings, decode_threads=settings.sessions)
        self.engine = Station(settings, runtime, DecodedByWorkers())
        self.host = Host(self.engine)

    def join(self) -> None:
        """Connect the two, as a supervisor does after the end of either."""
        ours, theirs = socket_pair()
        self._wire = ours.dup()
        self.connect(ours)
        self.host.connect(theirs)

    def part(self) -> None:
        """Cut the connection, as the end of either side does; from any thread, as `join_again`."""
        self._wire.shutdown(socket.SHUT_RDWR)
        self._wire.close()

    def join_again(self) -> None:
        self._loop.call_soon_threadsafe(self.join)

    async def start(self) -> Path | None:
        self._loop = asyncio.get_running_loop()
        self.join()
        try:
            sample = await self.engine.start()
        except StartError as error:
            self.state, self.failure = "failed", str(error)
            raise
        self.host.open()
        return sample

    async def stop(self) -> None:
        self._wire.close()
        await super().stop()
        self.engine.begin_drain()
        await self.engine.stop()
        self.host.close()


@dataclass
class Line:
    """A running service and a client of it."""

    http: httpx.Client
    station: Station
    """What inspects."""
    front: Front
    """What the routes ask: the station, or a worker's stand-in for it."""
    url: str

    def post(self, image: bytes = GOOD, query: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        return self.http.post("/v1/inspections", content=image, params=query, **options)


@contextmanager
def running(
    settings: Settings,
    runtime: "FakeRuntime | FakeRuntimes | None" = None,
    *,
    until_ready: bool = True,
    apart: bool = False,
    station: Station | None = None,
) -> Iterator[Line]:
    """Serve in a thread of its own until the block ends; `apart` as a worker and an engine."""
    station = station or (TwoSides(settings, runtime) if apart else Station(settings, runtime))
    app = create_app(settings, station=station)
    config = uvicorn.Config(app, lifespan="on", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with ExitStack() as cleanup:
        listener = cleanup.enter_context(bind("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()

        def stop() -> None:
            if runtime is not None:
                runtime.release()
            server.should_exit = True
            thread.join()

        cleanup.callback(stop)
        http = cleanup.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False))
        wait_until(lambda: server.started)
        if until_ready:
            wait_until(lambda: http.get("/readyz").status_code == 200)
        front = app.state.station
        yield Line(http, front.engine if apart else front, front, url)


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for what must come to pass sooner or later; the limit only ends a hopeless wait."""
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, "it never came to pass"
        time.sleep(0.005)
