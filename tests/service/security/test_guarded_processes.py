"""The started service behind its gate: who may start it how, TLS, and its workers."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import orjson
import pytest
from launching import fails_to_start, one_process, several_processes
from made_certificates import Issued, issue
from serving import DEFECTIVE, GOOD, wait_until

from service.client import InspectionClient, NoAnswerError, Retries, Tls
from service.security.key_file import add, revoke
from service.security.keys import new_key
from service.security.pixel_limit import VARIABLE

pytestmark = pytest.mark.usefixtures("weights")

ONCE_MORE = Retries(most=1, first_pause_s=0.001)
KEY, LINE = new_key("press-3", "line", now=datetime.now(UTC))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    add(tmp_path / "keys.jsonl", LINE)
    return tmp_path / "keys.jsonl"


@pytest.fixture
def certificate(authority: Issued, tmp_path: Path) -> dict[str, Path]:
    """What the service shows."""
    certificate, key = issue("station", authority).write(tmp_path)
    return {"ssl_certfile": certificate, "ssl_keyfile": key}


@pytest.fixture
def own(authority: Issued, tmp_path: Path) -> dict[str, Path]:
    """What a client shows."""
    certificate, key = issue("press", authority, client_only=True).write(tmp_path)
    return {"certificate": certificate, "key": key}


@contextmanager
def started(tmp_path: Path, workers: int, **settings: object) -> Iterator[str]:
    """The address of a service in either form."""
    if workers == 1:
        with one_process(tmp_path, **settings) as server:
            yield server.banner[0].split()[3]
    else:
        with several_processes(tmp_path, workers=workers, **settings) as service:
            yield service.url


def post(url: str, key: str, verify: ssl.SSLContext | bool = True) -> int:
    """The status, on a connection of its own."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(
        f"{url}/v1/inspections", content=GOOD, headers=headers, timeout=30, trust_env=False, verify=verify
    ).status_code


@pytest.mark.parametrize("workers", [1, 2])
def test_no_start_open_to_the_network(tmp_path: Path, workers: int) -> None:
    code, error = fails_to_start(tmp_path, host="0.0.0.0", workers=workers)
    assert code == 4
    assert "error: 0.0.0.0 can be reached from other machines, and there are no API keys" in error
    assert "ATSNET_ALLOW_OPEN=true" in error


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("lines", ["nonsense\n", f"{LINE.as_line()}\n{KEY}\n"])
def test_no_start_with_a_damaged_key_file(tmp_path: Path, workers: int, lines: str) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(lines)
    code, error = fails_to_start(tmp_path, api_keys_file=file, workers=workers)
    assert code == 4
    assert f"error: {file}, line {lines.count(chr(10))}: " in error
    assert KEY not in error


def test_no_start_with_a_key_of_another_certificate(
    tmp_path: Path, certificate: dict[str, Path], authority: Issued
) -> None:
    other = issue("elsewhere", authority).write(tmp_path)[1]
    code, error = fails_to_start(tmp_path, **{**certificate, "ssl_keyfile": other})
    assert code == 4
    assert "the key is not that of the certificate" in error


def test_open_to_the_network_when_told(tmp_path: Path) -> None:
    with started(tmp_path, 1, host="0.0.0.0", allow_open="true") as url:
        assert post(url, KEY) == 200
    assert "open_to_the_network" in (tmp_path / "log").read_text()


def test_line_to_try_trusts_the_station_s_certificate(tmp_path: Path, certificate: dict[str, Path]) -> None:
    with one_process(tmp_path, **certificate) as server:
        command = server.banner[2].partition("curl")[2]
        reply = subprocess.run(f"curl {command}", shell=True, capture_output=True, check=True, timeout=60)
        assert orjson.loads(reply.stdout)["verdict"] == "fail"


@pytest.mark.parametrize("workers", [1, 2])
def test_https_with_keys_and_client_certificates(
    tmp_path: Path, key_file: Path, certificate: dict[str, Path], ca: Path, own: dict[str, Path], workers: int
) -> None:
    settings = {**certificate, "ssl_ca_certs": ca, "api_keys_file": key_file, "host": "127.0.0.1"}
    with started(tmp_path, workers, **settings) as url:
        assert url.startswith("https://127.0.0.1:")
        with InspectionClient(url, tls=Tls(ca=ca, **own), api_key=KEY) as client:
            for _ in range(4):
                assert client.inspect(DEFECTIVE).verdict == "fail"
        assert post(url, KEY[:-1], Tls(ca=ca, **own).context()) == 401
        with (
            InspectionClient(url, tls=Tls(ca=ca), api_key=KEY, retries=ONCE_MORE) as client,
            pytest.raises(NoAnswerError),
        ):
            client.inspect(DEFECTIVE)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http") + "/livez", trust_env=False)


def test_line_to_try_shows_a_key(tmp_path: Path, key_file: Path) -> None:
    with one_process(tmp_path, api_keys_file=key_file) as server:
        curl = server.banner[2].split("curl", 1)[1]
        environment = {**os.environ, "ATSNET_API_KEY": KEY}
        reply = subprocess.run(f"curl {curl}", shell=True, env=environment, capture_output=True, check=True, timeout=60)
        assert b'"verdict":"fail"' in reply.stdout


def test_every_worker_takes_up_changed_keys(tmp_path: Path, key_file: Path) -> None:
    with several_processes(tmp_path, api_keys_file=key_file) as service:
        another, line = new_key("press-4", "line", now=datetime.now(UTC))
        add(key_file, line)
        wait_until(lambda: all(post(service.url, another) == 200 for _ in range(20)))
        revoke(key_file, line.id, datetime.now(UTC))
        wait_until(lambda: all(post(service.url, another) == 401 for _ in range(20)))
        assert post(service.url, KEY) == 200


def test_worker_waits_for_the_key_file_to_be_mended(tmp_path: Path, key_file: Path) -> None:
    with several_processes(tmp_path, api_keys_file=key_file) as service:
        good = key_file.read_text()
        key_file.write_text("nonsense")
        service.signal("worker-0", signal.SIGKILL)
        wait_until(lambda: any("keys.jsonl, line 1: " in line["reason"] for line in service.events("process_ended")))
        assert service.get("/readyz").json()["restarting"] == ["worker-0"]
        assert post(service.url, KEY) == 200
        key_file.write_text(good)
        wait_until(lambda: service.get("/readyz").json()["restarting"] == [])
        assert post(service.url, KEY) == 200


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_key_is_in_any_log(tmp_path: Path, key_file: Path, workers: int, log_format: str) -> None:
    settings = {"api_keys_file": key_file, "log_format": log_format, "log_level": "debug"}
    with started(tmp_path, workers, **settings) as url:
        assert post(url, KEY) == 200
        assert post(url, KEY[:-1]) == 401
        as_query = httpx.get(f"{url}/v1/{KEY}?key={KEY}", headers={"X-API-Key": KEY}, trust_env=False)
        assert as_query.status_code == 403
    log = (tmp_path / "log").read_text()
    assert log.count("refused") >= 2
    assert KEY.split("_", 2)[2][:20] not in log  # the secret itself may have such a character
    assert LINE.hash not in log


def test_slow_client_is_closed_and_others_are_served(tmp_path: Path) -> None:
    impatient = "import functools, service.server as s; s.Patience = functools.partial(s.Patience, head_s=0.2)\n"
    with one_process(tmp_path, before=impatient) as server:
        address = (server.http.base_url.host, server.http.base_url.port or 0)
        with socket.create_connection(address, timeout=30) as slow:
            slow.sendall(b"POST /v1/inspections HTTP/1.1\r\nHost: ")
            assert server.post().status_code == 200
            assert slow.recv(1) == b""
        assert server.post().status_code == 200
    assert "slow_clients" in (tmp_path / "log").read_text()


def test_opencv_has_the_limit_in_every_process(tmp_path: Path) -> None:
    with several_processes(tmp_path, max_pixels=10_000_000) as service:
        for name in ("engine", "worker-0", "worker-1"):
            environment = Path(f"/proc/{service.pid(name)}/environ").read_text().split("\0")
            assert f"{VARIABLE}=10000000" in environment


IN_ONE_PROCESS = """
import sys
import cli.main
from service import server
from service.settings import load_settings

async def decode(*_, **__):
    import cv2, numpy as np
    _, image = cv2.imencode(".png", np.zeros((1, 10_001), np.uint8))
    try:
        cv2.imdecode(image, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        print(error)

settings = load_settings(max_pixels=10_000, port=0)
assert "cv2" not in sys.modules, "settings, server and command leave OpenCV to the service"
server.run = decode
server.serve(settings)
"""


def test_opencv_has_the_limit_in_one_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS], capture_output=True, text=True, timeout=60, check=True
    )
    assert "pixels <= CV_IO_MAX_IMAGE_PIXELS" in done.stdout
    assert "opencv_limit_too_late" not in done.stderr
