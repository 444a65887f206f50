"""Batches, events and the Open Inference Protocol against workers and an engine that are processes of their own."""

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from launching import LIMIT_S, Load, Service, several_processes
from serving import DEFECTIVE, GEOMETRY, GOOD, defective_image, wait_until

from atsnet.imaging import to_frame

pytestmark = pytest.mark.usefixtures("weights")


class Listener:
    """The events of one connection, whichever worker has it; connects again and resumes when it breaks."""

    def __init__(self, service: Service, held: ExitStack) -> None:
        self._service, self._held = service, held
        self.got: list[str] = []
        self._lines = self._connect()

    def take_until(self, last: str) -> list[str]:
        while last not in self.got:
            line = next(self._lines, None)
            if line is None:  # the end of the stream: resume
                self._lines = self._connect()
            elif line.startswith("id: "):
                self.got.append(line.removeprefix("id: "))
        return self.got

    def rest(self) -> list[str]:
        return list(self._lines)

    def _connect(self) -> Any:
        http = self._held.enter_context(httpx.Client(base_url=self._service.url, timeout=LIMIT_S, trust_env=False))
        headers = {"Last-Event-ID": self.got[-1]} if self.got else {}
        response = self._held.enter_context(http.stream("GET", "/v1/events", headers=headers))
        assert response.status_code == 200
        lines = response.iter_lines()
        assert next(lines) == "retry: 1000"
        return lines


def test_every_worker_tells_every_inspection_also_across_the_end_of_the_engine(tmp_path: Path) -> None:
    with several_processes(tmp_path) as service, ExitStack() as held:
        # Four connections find both of two workers, but for one time in eight; either way all must hear all.
        listeners = [Listener(service, held) for _ in range(4)]
        with Load(service) as load:
            wait_until(lambda: len(load.answered) >= 30)
            service.signal("engine", signal.SIGKILL)
            wait_until(lambda: len(load.answered) >= 30 and not service.ready())
            wait_until(service.ready)
            before = len(load.answered)
            wait_until(lambda: len(load.answered) >= before + 30)
        last = service.post().json()["id"]
        answered = {reply["id"] for reply in load.answered if not reply["replayed"]} | {last}
        for listener in listeners:
            told = listener.take_until(last)
            assert told == sorted(set(told)), "in order, and none twice"
            assert answered <= set(told), "everything that was answered was told"
        service.process.send_signal(signal.SIGTERM)
        for listener in listeners:
            assert ": the service is shutting down; resume with Last-Event-ID" in listener.rest()
        assert service.process.wait(LIMIT_S) == 0


def test_batches_and_inferences_cross_to_the_engine(tmp_path: Path) -> None:
    with several_processes(tmp_path) as service:
        for number in range(4):
            faces = [("image", GOOD), ("image", DEFECTIVE), ("image", GOOD)]
            data = {"station": "s1", "serial": f"A{number}", "trigger": str(number)}
            url = f"{service.url}/v1/inspections:batch"
            replies = [
                httpx.post(url, files=faces, data=data, timeout=LIMIT_S, trust_env=False).json() for _ in range(2)
            ]
            assert [reply["result"] for reply in replies] == [2, 2]
            ids = [[face["id"] for face in reply["faces"]] for reply in replies]
            assert ids[0] == ids[1], "replayed, whichever worker was asked"
        with triton.InferenceServerClient(urlsplit(service.url).netloc) as client:
            frame = to_frame(defective_image(), GEOMETRY).pixels[np.newaxis]
            images = triton.InferInput("images", list(frame.shape), "UINT8")
            images.set_data_from_numpy(frame)
            assert client.infer("tec-grain-demo", [images]).as_numpy("score").tolist() == [6.25]
