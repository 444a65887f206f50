"""Everything that can be set: defaults, a TOML file, `ATSNET_*` variables, arguments; later ones win."""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from atsnet.limits import DEFAULT_MAX_PIXELS
from service.security.redaction import hide, is_secret
from service.security.settings import SecuritySettings

ENV_PREFIX: Final = "ATSNET_"

_OF_COMMANDS: Final = frozenset({"ATSNET_API_KEY", "ATSNET_CACHE"})
"""Variables that `atsnet inspect`, `simulate-line` and `train` take; not settings of the service."""

_MIB: Final = 1024 * 1024
_MOST_WORKERS: Final = 4
"""Chosen by default; one engine is busy with what they read."""


class SettingsError(ValueError):
    """A setting is unknown or wrong; the message names it and where it came from."""


def available_cpus() -> int:
    """CPUs that this process may run on: its affinity where the system has one, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(SecuritySettings, BaseSettings):
    """The resolved settings of one service process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    weights: Path = Field(default=Path("weights"), description="Directory of the bundles.")
    bundle: str = Field(
        default="tec-grain-demo/1",
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}$",
        description="Bundle of the very first start, `name/version`; what is activated later stays active.",
    )
    var: Path = Field(default=Path("var"), description="Directory of everything that the service writes.")

    database_url: str | None = Field(
        default=None,
        description="Database of the records, `postgresql://USER:PASSWORD@HOST:PORT/NAME` or `sqlite:///PATH`; "
        "by default the file `records.sqlite3` under `var`.",
    )
    records_keep_days: float | None = Field(
        default=None, gt=0, le=36_500, description="Days after which records are deleted; by default never."
    )

    runtime: Literal["cpu", "cuda", "tensorrt", "triton"] = Field(
        default="cpu",
        description="What runs the network: ONNX Runtime on the CPU or a GPU, TensorRT, or a remote Triton.",
    )
    precision: Literal["float32", "int8"] = Field(
        default="float32", description="Runtime cpu: the bundle's graph to run; int8 needs a bundle that has one."
    )
    device: int = Field(default=0, ge=0, description="Number of the GPU; runtimes cuda and tensorrt.")
    allow_cpu: bool = Field(
        default=False, description="Runtime cuda: serve on the CPU where there is no GPU, instead of refusing to start."
    )
    engines: Path | None = Field(
        default=None, description="Runtime tensorrt: directory of built engines; by default `engines` under `var`."
    )
    build_engine: bool = Field(
        default=True, description="Runtime tensorrt: build the engine on first start; takes minutes."
    )
    interim_runtime: Literal["cuda", "cpu"] | None = Field(
        default=None,
        description="Runtime tensorrt: what inspects while an engine is built; without it, nothing does until then.",
    )
    triton_url: str = Field(
        default="127.0.0.1:8001", min_length=1, description="Runtime triton: `host:port` of its gRPC endpoint."
    )
    triton_timeout_ms: int = Field(
        default=2000, ge=1, le=600_000, description="Runtime triton: deadline of one batch, waiting there included."
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="HTTP worker processes; with more than one, the network runs in an engine process of its own. "
        "By default 1 with runtime cpu, else one for two CPUs, 4 at most.",
    )
    sessions: int = Field(
        default_factory=available_cpus,
        ge=1,
        le=1024,
        description="Single-threaded inference sessions; by default one a CPU that the process may use.",
    )
    queue_size: int = Field(
        default=64, ge=1, le=100_000, description="Inspections that may wait for a session; more are refused with 429."
    )
    deadline_ms: int = Field(
        default=30_000, ge=1, le=600_000, description="Deadline of requests that name none, in ms from arrival."
    )
    max_body_bytes: int = Field(default=64 * _MIB, ge=1024, description="Largest request body.")
    max_pixels: int = Field(default=DEFAULT_MAX_PIXELS, ge=1, description="Most pixels of an image, by its header.")

    archive_max_bytes: int = Field(
        default=2048 * _MIB,
        ge=0,
        description="Room for kept images and maps; the oldest go first, passes before all others. 0 keeps none.",
    )
    archive_pass_share: float = Field(
        default=1.0, ge=0, le=1, description="Share of the passes whose images are kept; of all others, all are."
    )
    archive_keep_days: float | None = Field(
        default=None, gt=0, le=36_500, description="Days after which images are deleted; by default only to make room."
    )
    archive_min_free_bytes: int = Field(
        default=1024 * _MIB, ge=0, description="Room that images leave free on their disk, for the records and logs."
    )
    archive_queue_bytes: int = Field(
        default=256 * _MIB, ge=1, description="Images that may wait in memory to be kept; more are not kept."
    )

    max_bundles: int = Field(
        default=4, ge=1, le=64, description="Most bundles that active recipes may name; one more is loaded in a swap."
    )
    self_test_hours: float = Field(
        default=24.0, ge=0, le=10_000, description="Golden samples are inspected every so often, in service; 0 never."
    )
    max_event_clients: int = Field(
        default=32, ge=1, le=10_000, description="Clients of each worker that may listen to the events."
    )

    drift_inspections: int = Field(
        default=100_000,
        ge=0,
        description="Inspections of a recipe between two false alarms of drift, on average, 1000 at least; 0 watches "
        "for none.",
    )

    hang_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="A batch that runs longer means that the runtime hangs."
    )

    log_format: Literal["json", "console"] = Field(default="json", description="Log lines for machines or for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    grace_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="Time for accepted work to finish after SIGTERM or SIGINT."
    )

    @field_validator("precision")
    @classmethod
    def _precision_is_of_the_cpu(cls, precision: str, info: ValidationInfo) -> str:
        if precision != "float32" and info.data.get("runtime", "cpu") != "cpu":
            raise ValueError("only the runtime cpu can be told its precision; GPUs take float16 where there is one")
        return precision

    @field_validator("drift_inspections")
    @classmethod
    def _false_alarms_are_seldom(cls, inspections: int) -> int:
        if 0 < inspections < 1000:
            raise ValueError("must be 0 or at least 1000")
        return inspections

    @field_validator("workers")
    @classmethod
    def _workers_need_linux(cls, workers: int | None) -> int | None:
        if workers is not None and workers > 1 and not hasattr(os, "memfd_create"):
            raise ValueError("more than one worker needs Linux; with one, everything runs in one process")
        return workers

    @property
    def worker_count(self) -> int:
        """HTTP worker processes, chosen by runtime and CPUs where the settings do not say."""
        if self.workers is not None:
            return self.workers
        if self.runtime == "cpu" or not hasattr(os, "memfd_create"):  # the network itself takes the CPUs
            return 1
        return max(1, min(_MOST_WORKERS, available_cpus() // 2))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources, strongest first: arguments, environment, file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Resolve the settings from a TOML file (if any), the environment and `overrides`.

    Raises:
        SettingsError: The file cannot be read or is no TOML, a key is unknown or a value is wrong.
    """
    if config is not None:
        _check_readable(config)

    class ConfiguredSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return ConfiguredSettings(**overrides)
    except ValidationError as error:
        source = (
            f"{config}, {ENV_PREFIX}* variables or arguments" if config else f"{ENV_PREFIX}* variables or arguments"
        )
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}{_got(item)}" for item in error.errors()
        )
        raise SettingsError(f"settings from {source}: {problems}") from error


def unknown_variables(environment: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Variables that look like settings and are none, each with the setting that may be meant.

    Nothing takes them; of a mistyped one, the default is in force. Those of the commands (`ATSNET_API_KEY`) are known.
    """
    settings = [name.upper() for name in Settings.model_fields]
    known = {f"{ENV_PREFIX}{name}" for name in settings} | _OF_COMMANDS
    unknown = []
    for name in sorted(environment):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            nearest = get_close_matches(name.upper().removeprefix(ENV_PREFIX), settings, n=1)
            unknown.append((name, f"{ENV_PREFIX}{nearest[0]}" if nearest else None))
    return unknown


def _got(item: ErrorDetails) -> str:
    # What has an unknown name may be a secret under a wrong one.
    hidden = item["type"] == "extra_forbidden" or any(is_secret(str(part)) for part in item["loc"])
    return "" if hidden else f" (got {hide(repr(item['input']))})"


def _check_readable(config: Path) -> None:
    # pydantic-settings skips a missing file silently; a mistyped --config must not start with the defaults.
    try:
        tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{config} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config} is not valid TOML: {error}") from error
