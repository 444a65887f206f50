"""The server as a process of its own: signals, crashes and what it says at start."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from launching import Server, fails_to_start, one_process
from serving import wait_until

PART = {"station": "s1", "serial": "A1", "trigger": 1}


def not_listening(server: Server) -> bool:
    try:
        server.http.get("/livez")
    except httpx.TransportError:
        return True
    return False


@pytest.mark.usefixtures("weights")
def test_announcement_has_a_line_that_works(tmp_path: Path) -> None:
    with one_process(tmp_path) as server:
        address = str(server.http.base_url)
        assert f"{address}/docs".replace("//docs", "/docs") in server.banner[1]
        assert server.http.get("/docs").status_code == 200
        curl = server.banner[2].split("curl", 1)[1]
        reply = subprocess.run(f"curl {curl}", shell=True, capture_output=True, check=True, timeout=60)
        assert orjson.loads(reply.stdout)["verdict"] == "fail"


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_ends_with_success(tmp_path: Path, told: signal.Signals) -> None:
    with one_process(tmp_path) as server, ThreadPoolExecutor() as pool:
        server.process.send_signal(signal.SIGUSR1)
        accepted = pool.submit(server.post)
        wait_until(server.in_flight_reaches_the_runtime)
        server.process.send_signal(told)
        wait_until(lambda: server.http.get("/readyz").status_code == 503)
        refused = server.post()
        assert (refused.status_code, refused.json()["code"]) == (503, 40)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGUSR2)
        assert accepted.result().json()["verdict"] == "fail"
        assert server.process.wait(30) == 0


@pytest.mark.usefixtures("weights")
def test_runtime_that_hangs_does_not_outlive_the_grace_time(tmp_path: Path) -> None:
    with one_process(tmp_path, grace_seconds=0.3) as server, ThreadPoolExecutor() as pool:
        server.process.send_signal(signal.SIGUSR1)
        hung = pool.submit(server.post)
        wait_until(server.in_flight_reaches_the_runtime)
        server.process.terminate()
        assert server.process.wait(30) == 5
        assert (hung.result().status_code, hung.result().json()["code"]) == (503, 40)


@pytest.mark.usefixtures("weights")
def test_body_that_never_ends_is_refused_in_the_end(tmp_path: Path) -> None:
    with one_process(tmp_path, grace_seconds=0.3) as server:
        connection = http.client.HTTPConnection(server.http.base_url.netloc.decode(), timeout=30)
        connection.putrequest("POST", "/v1/inspections?trigger=3")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"a few bytes")
        server.post()  # its answer says that the head of the other request has been read as well
        server.process.terminate()
        response = connection.getresponse()
        problem = orjson.loads(response.read())
        connection.close()
        assert (response.status, problem["code"], problem["trigger"]) == (503, 40, 3)
        assert response.headers["Retry-After"] == "1"
        assert server.process.wait(30) == 5
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("weights")
def test_second_signal_does_not_wait(tmp_path: Path) -> None:
    with one_process(tmp_path, grace_seconds=3600) as server, ThreadPoolExecutor() as pool:
        server.process.send_signal(signal.SIGUSR1)
        hung = pool.submit(server.post)
        wait_until(server.in_flight_reaches_the_runtime)
        server.process.terminate()
        wait_until(lambda: server.http.get("/readyz").status_code == 503)
        server.process.terminate()
        assert server.process.wait(30) == 5
        assert (hung.result().status_code, hung.result().json()["code"]) == (503, 40)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("signals", [1, 2], ids=["grace time", "second signal"])
def test_runtime_that_hangs_after_its_request_was_answered_ends_too(tmp_path: Path, signals: int) -> None:
    with one_process(tmp_path, grace_seconds=0.3 if signals == 1 else 3600) as server:
        server.process.send_signal(signal.SIGUSR1)
        late = server.post({"deadline_ms": 500})
        assert (late.status_code, late.json()["code"]) == (504, 41)
        assert server.in_flight_reaches_the_runtime()
        server.process.terminate()
        if signals == 2:
            wait_until(lambda: not_listening(server))
            server.process.terminate()
        assert server.process.wait(30) == 5


@pytest.mark.usefixtures("weights")
def test_kill_loses_no_answered_verdict(tmp_path: Path) -> None:
    answered: list[dict[str, Any]] = []
    enough = threading.Event()

    def inspect_until_it_dies(server: Server, station: int) -> None:
        for trigger in range(100_000):
            query = {"station": f"s{station}", "serial": "A1", "trigger": trigger}
            try:
                answered.append(server.post(query).json())
            except httpx.HTTPError:
                return
            if len(answered) > 40:
                enough.set()

    with one_process(tmp_path) as server, ThreadPoolExecutor() as pool:
        clients = [pool.submit(inspect_until_it_dies, server, station) for station in range(4)]
        assert enough.wait(60)
        server.process.kill()
        for client in clients:
            client.result()
    with one_process(tmp_path) as server:
        for reply in answered:
            record = server.http.get(f"/v1/inspections/{reply['id']}").json()
            assert (record["verdict"], record["score"]) == (reply["verdict"], reply["score"])


@pytest.mark.usefixtures("weights")
def test_log_is_one_json_line_an_event(tmp_path: Path) -> None:
    with one_process(tmp_path) as server:
        inspection_id = server.post(PART).json()["id"]
        server.process.terminate()
        assert server.process.wait(30) == 0
    events = [orjson.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    [line] = [event for event in events if event["event"] == "inspected"]
    assert (line["id"], line["verdict"], line["score"]) == (inspection_id, "fail", 1.5625)
    assert (line["station"], line["serial"], line["level"]) == ("s1", "A1", "info")
    assert line["ms"] > 0
    assert [event["event"] for event in events if event["event"] in {"ready", "draining", "stopped"}] == [
        "ready",
        "draining",
        "stopped",
    ]


@pytest.mark.usefixtures("weights")
def test_migration_is_one_line_and_only_where_there_was_one(tmp_path: Path) -> None:
    for _ in range(2):
        with one_process(tmp_path):
            pass
        events = [orjson.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        told = [event for event in events if event["logger"].startswith(("alembic", "service.records.migration"))]
        assert [event["event"] for event in told] == ["records_migrated"]
    assert sum(event["event"] == "ready" for event in events) == 2


@pytest.mark.usefixtures("weights")
def test_mistyped_variable_is_a_warning_with_the_name_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATSNET_API_KEY", "of a client")
    with one_process(tmp_path, archive_max_byte="7", nonsense="s3cr3t"):
        pass
    events = [orjson.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = {event["variable"]: event["did_you_mean"] for event in events if event["event"] == "unknown_variable"}
    assert told == {"ATSNET_ARCHIVE_MAX_BYTE": "ATSNET_ARCHIVE_MAX_BYTES", "ATSNET_NONSENSE": None}
    assert "s3cr3t" not in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("weights")
def test_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = fails_to_start(tmp_path, port=port)
    assert code == 6
    assert f"127.0.0.1:{port}" in error
    assert "ATSNET_PORT" in error


@pytest.mark.usefixtures("weights")
def test_bundle_that_is_missing_says_what_there_is(tmp_path: Path) -> None:
    code, error = fails_to_start(tmp_path, bundle="nut/3")
    assert code == 4
    assert "nut/3" in error
    assert "tec-grain-demo/1" in error


def test_bundle_that_was_altered(tmp_path: Path, weights: Path) -> None:
    (weights / "tec-grain-demo" / "1" / "model.onnx").write_bytes(b"another graph")
    code, error = fails_to_start(tmp_path)
    assert code == 4
    assert "is not the file that was validated" in error


def test_service_needs_no_torch() -> None:
    program = "import sys, service.app, service.server; assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
