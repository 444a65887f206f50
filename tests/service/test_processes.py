"""Workers and engine as processes of their own: what dies, what it takes along, and what is left behind."""

import os
import signal
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import orjson
import pytest
from launching import LIMIT_S, Load, Service, several_processes
from serving import wait_until

pytestmark = pytest.mark.usefixtures("weights")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def in_flight(service: Service, pool: ThreadPoolExecutor, count: int) -> list[Future[httpx.Response]]:
    """Requests that wait for a runtime that is blocked."""
    service.signal("engine", signal.SIGUSR1)
    # The first one occupies the runtime, the others wait behind it.
    waiting = [pool.submit(service.post)]
    wait_until(lambda: service.metric("inspect_batch_size_count") == 1)
    waiting += [pool.submit(service.post) for _ in range(count - 1)]
    wait_until(lambda: service.metric("inspect_queue_depth") == count - 1)
    return waiting


def outcome_of(request: Future[httpx.Response]) -> tuple[int, int] | str:
    try:
        response = request.result(LIMIT_S)
    except httpx.TransportError:
        return "connection"
    return response.status_code, response.json()["code"]


def test_engine_and_worker_that_are_killed_under_load(tmp_path: Path) -> None:
    with several_processes(tmp_path) as service:
        with Load(service) as load:
            for name, process in (("engine", "engine"), ("worker-1", "worker")):
                before = len(load.answered)
                wait_until(lambda before=before: len(load.answered) > before + 20)
                killed = service.pid(name)
                service.signal(name, signal.SIGKILL)
                wait_until(lambda killed=killed, name=name: service.pid(name) != killed)
                before = len(load.answered)
                wait_until(service.ready)
                wait_until(lambda before=before: len(load.answered) > before + 20)
                restarts = f'inspect_worker_restarts_total{{process="{process}"}}'
                wait_until(lambda restarts=restarts: service.metric(restarts) == 1)
        assert set(load.outcomes) <= {(200, 0), (500, 50), (503, 40), "connection"}
        assert load.longest_s < LIMIT_S
        for reply in load.answered:
            record = service.get(f"/v1/inspections/{reply['id']}").json()
            assert (record["verdict"], record["score"]) == (reply["verdict"], reply["score"])
        nothing_in_shared_memory(service)
        # The slots of the dead are given back: one mapping for each worker that lives.
        maps = Path(f"/proc/{service.pid('engine')}/maps")
        wait_until(lambda: maps.read_text().count("memfd:atsnet-slots") == 2)
        service.process.terminate()
        assert service.process.wait(LIMIT_S) == 0
        wait_until(lambda: not any(alive(pid) for pid in service.pids()))


def nothing_in_shared_memory(service: Service) -> None:
    for pid in filter(alive, service.pids()):
        files = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert not any(file.startswith("/dev/shm") for file in files)
        assert "/dev/shm" not in mapped


def test_engine_takes_no_waiting_request_along(tmp_path: Path) -> None:
    with several_processes(tmp_path) as service, ThreadPoolExecutor(16) as pool:
        waiting = in_flight(service, pool, 6)
        service.signal("engine", signal.SIGKILL)
        assert [outcome_of(request) for request in waiting] == [(500, 50)] * 6
        assert {request.result().json()["result"] for request in waiting} == {3}
        wait_until(service.ready)
        assert service.post().json()["verdict"] == "pass"
        # What the workers counted while there was no engine is not lost.
        wait_until(lambda: service.metric('inspect_requests_total{outcome="failed",station=""}') == 6)


def test_worker_takes_only_its_own_requests_along(tmp_path: Path) -> None:
    with several_processes(tmp_path) as service, ThreadPoolExecutor(16) as pool:
        waiting = in_flight(service, pool, 8)
        service.signal("worker-0", signal.SIGKILL)
        # What nobody waits for is dropped before it is computed, all but the one that runs.
        wait_until(lambda: any(request.done() for request in waiting))
        lost = [request for request in waiting if request.done() and outcome_of(request) == "connection"]
        ready = service.get("/readyz")
        assert (ready.status_code, ready.json()["restarting"]) == (200, ["worker-0"])
        service.signal("engine", signal.SIGUSR2)
        outcomes = Counter(outcome_of(request) for request in waiting)
        assert outcomes["connection"] >= len(lost) > 0
        assert outcomes["connection"] + outcomes[200, 0] == 8
        computed = service.metric("inspect_batch_size_sum")
        assert outcomes[200, 0] <= computed <= outcomes[200, 0] + 1
        wait_until(lambda: service.metric('inspect_worker_restarts_total{process="worker"}') == 1)
        wait_until(lambda: service.get("/readyz").json()["restarting"] == [])


def test_runtime_that_hangs_is_replaced(tmp_path: Path) -> None:
    with several_processes(tmp_path, hang_seconds=1) as service, ThreadPoolExecutor(4) as pool:
        waiting = in_flight(service, pool, 2)
        assert [outcome_of(request) for request in waiting] == [(500, 50)] * 2
        wait_until(service.ready)
        assert service.post().json()["verdict"] == "pass"
        assert service.events("runtime_hangs")


def test_process_that_no_longer_answers_is_replaced(tmp_path: Path) -> None:
    with several_processes(tmp_path, hang_seconds=2) as service:
        stopped = service.pid("worker-0")
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: service.pid("worker-0") != stopped)
        assert not alive(stopped)
        assert service.events("process_hangs")


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_ends_with_success(tmp_path: Path, told: signal.Signals) -> None:
    with several_processes(tmp_path) as service, ThreadPoolExecutor(8) as pool:
        waiting = in_flight(service, pool, 4)
        service.process.send_signal(told)
        wait_until(lambda: not service.ready())
        assert service.process.poll() is None
        service.signal("engine", signal.SIGUSR2)
        assert [outcome_of(request) for request in waiting] == [(200, 0)] * 4
        assert service.process.wait(LIMIT_S) == 0
        assert not any(alive(pid) for pid in service.pids())


def test_runtime_that_hangs_does_not_outlive_the_grace_time(tmp_path: Path) -> None:
    with several_processes(tmp_path, grace_seconds=0.3) as service, ThreadPoolExecutor(4) as pool:
        waiting = in_flight(service, pool, 2)
        service.process.terminate()
        assert [outcome_of(request) for request in waiting] == [(503, 40)] * 2
        assert service.process.wait(LIMIT_S) == 5
        assert not any(alive(pid) for pid in service.pids())


def test_nothing_outlives_the_supervisor(tmp_path: Path) -> None:
    with several_processes(tmp_path) as service:
        pids = service.pids()
        service.process.kill()
        wait_until(lambda: not any(alive(pid) for pid in pids))


def test_bundle_that_is_missing_says_what_there_is(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"nut/3(.|\n)*tec-grain-demo/1"),
        several_processes(tmp_path, bundle="nut/3"),
    ):
        pass
    processes = [orjson.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert not any(alive(line["pid"]) for line in processes if line["event"] == "process_started")
    assert "error: " in (tmp_path / "log").read_text()
