"""The options of `atsnet serve`, and what it says of those that it cannot use."""

import inspect
from pathlib import Path

import pytest
from invoking import atsnet, run_program

from cli.serve import serve
from service.settings import Settings


def test_options_of_serve_reach_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def record(settings: Settings) -> int:
        served.append(settings)
        return 5

    served: list[Settings] = []
    monkeypatch.setattr("service.server.serve", record)
    monkeypatch.setenv("ATSNET_RUNTIME", "cuda")
    (tmp_path / "station.toml").write_text('runtime = "cpu"\nworkers = 4\ndevice = 1\n')
    given = {
        "host": "::1",
        "port": 1,
        "bundle": "a/2",
        "weights": Path("elsewhere"),
        "var": Path("there"),
        "runtime": "tensorrt",
        "workers": 2,
        "sessions": 3,
        "log_format": "console",
        "log_level": "error",
    }
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert atsnet("serve", "--config", tmp_path / "station.toml", *options).exit_code == 5
    assert [settings.model_dump(include={*given, "device"}) for settings in served] == [{**given, "device": 1}]
    assert set(given) | {"config"} == set(inspect.signature(serve).parameters)


@pytest.mark.parametrize("workers", [0, 65])
def test_serving_with_a_number_of_workers_that_cannot_be(workers: int) -> None:
    result = atsnet("serve", "--workers", workers)
    assert result.exit_code == 2
    assert "--workers" in result.stderr


@pytest.mark.parametrize(
    "options",
    [("--bundle", "nonsense"), ("--config", "/none/such.toml"), ("--log-level", "loud"), ("--runtime", "abacus")],
)
def test_serving_with_wrong_settings(options: tuple[str, str]) -> None:
    result = atsnet("serve", *options)
    assert result.exit_code == 4
    assert options[0].removeprefix("--").replace("-", "_") in result.stderr or options[1] in result.stderr


def test_serving_what_is_not_there(tmp_path: Path) -> None:
    done = run_program("serve", "--weights", tmp_path, "--var", tmp_path / "var", "--port", 0)
    assert done.returncode == 4
    assert "no bundle" in done.stderr
