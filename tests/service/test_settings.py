from pathlib import Path

import pytest

from service.settings import SettingsError, available_cpus, load_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "atsnet.toml"


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.bundle) == ("127.0.0.1", 8000, "tec-grain-demo/1")
    assert settings.sessions == available_cpus() >= 1
    assert (settings.runtime, settings.precision) == ("cpu", "float32")


def test_unknown_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATSNET_PRECISION", "int8")
    assert load_settings().precision == "int8"
    monkeypatch.setenv("ATSNET_PRECISION", "float16")
    with pytest.raises(SettingsError, match=r"precision.*'float32' or 'int8'"):
        load_settings()


def test_runtimes_of_gpus_choose_their_precision_themselves() -> None:
    with pytest.raises(SettingsError, match=r"precision: .*only the runtime cpu"):
        load_settings(runtime="cuda", precision="int8")
    assert load_settings(runtime="cuda", precision="float32").precision == "float32"


def test_arguments_beat_the_environment_which_beats_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('port = 1\nqueue_size = 1\nhost = "::1"\n')
    monkeypatch.setenv("ATSNET_PORT", "2")
    monkeypatch.setenv("ATSNET_QUEUE_SIZE", "2")
    settings = load_settings(config, port=3)
    assert (settings.port, settings.queue_size, settings.host) == (3, 2, "::1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 1", "prot"),
        ("port = 70000", r"port.*70000"),
        ('bundle = "../../etc"', "bundle"),
        ("port = ", "not valid TOML"),
    ],
)
def test_wrong_file_is_named_with_its_key(config: Path, content: str, message: str) -> None:
    config.write_text(content)
    with pytest.raises(SettingsError, match=message) as error:
        load_settings(config)
    assert str(config) in str(error.value)


def test_missing_file(config: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(config)


@pytest.mark.parametrize(
    ("runtime", "cpus", "workers", "count"),
    [
        ("cpu", 16, None, 1),
        ("cpu", 1, 3, 3),
        ("cuda", 1, None, 1),
        ("cuda", 4, None, 2),
        ("tensorrt", 16, None, 4),
        ("triton", 16, 1, 1),
    ],
)
def test_workers_by_runtime_and_cpus(
    monkeypatch: pytest.MonkeyPatch, runtime: str, cpus: int, workers: int | None, count: int
) -> None:
    monkeypatch.setattr("service.settings.available_cpus", lambda: cpus)
    assert load_settings(runtime=runtime, workers=workers).worker_count == count


def test_workers_need_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create")
    assert load_settings(runtime="cuda").worker_count == 1
    with pytest.raises(SettingsError, match="needs Linux"):
        load_settings(workers=2)


def test_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATSNET_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError, match="log_format"):
        load_settings()


def test_secrets_are_not_told_in_errors(tmp_path: Path) -> None:
    config = tmp_path / "station.toml"
    config.write_text(
        'ssl_keyfile_password = 123454321\nsomething_unknown = "hunter2"\nport = "http://me:hunter2@station"\n'
    )
    with pytest.raises(SettingsError) as error:
        load_settings(config)
    assert all(name in str(error.value) for name in ("ssl_keyfile_password", "something_unknown", "port"))
    assert "123454321" not in str(error.value)
    assert "hunter2" not in str(error.value)
