"""A Docker engine with compose and buildx: the one that runs here, or one from Debian's packages, started for it."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from debian_packages import Debian, MissingError, run

PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd")
PATIENCE_S = 60
ROOM_BYTES = 10e9
"""That images and what was built on the way take."""


class Docker:
    """The `docker` command towards one engine.

    Args:
        environment: Of every command.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *words: str | Path, variables: Mapping[str, str] = MappingProxyType({})) -> str:
        """Run `docker WORDS`."""
        return run("docker", *words, env={**self.environment, **variables})

    def has(self, image: str) -> bool:
        """Whether an image is there."""
        return bool(self("image", "ls", "--quiet", image).strip())

    def megabytes(self, image: str) -> float:
        """Size of an image."""
        return int(self("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


@contextmanager
def docker_engine(cache: Path) -> Iterator[Docker]:
    """An engine to use.

    Raises:
        MissingError: There is none, and none can be started.
    """
    running = Docker(dict(os.environ))
    if _usable(running):
        yield running
        return
    debian = Debian(cache)
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "docker").exists() and shutil.disk_usage(cache).free < ROOM_BYTES:
        raise MissingError(f"{cache} needs {ROOM_BYTES / 1e9:.0f} GB of free disk for the images that are built there")
    debian.install("iptables", "runc")
    programs = cache / "engine"
    debian.unpack(PACKAGES, programs)
    with tempfile.TemporaryDirectory(prefix="docker-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        plugins = home / "client/cli-plugins"
        plugins.mkdir(parents=True)
        for plugin in (programs / "usr/libexec/docker/cli-plugins").iterdir():
            (plugins / plugin.name).symlink_to(plugin)
        environment = {
            **os.environ,
            "PATH": f"{programs}/usr/sbin:{programs}/usr/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "DOCKER_HOST": f"unix://{home}/docker.sock",
            "DOCKER_CONFIG": str(home / "client"),
        }
        with _daemon(environment, home, cache / "docker"):
            yield Docker(environment)


def _usable(docker: Docker) -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        for question in (["info"], ["compose", "version"], ["buildx", "version"]):
            docker(*question)
    except AssertionError:
        return False
    return True


@contextmanager
def _daemon(environment: dict[str, str], home: Path, data: Path) -> Iterator[None]:
    data.mkdir(parents=True, exist_ok=True)
    log = home / "dockerd.log"
    command = ["dockerd", "--host", environment["DOCKER_HOST"], "--data-root", str(data)]
    command += ["--exec-root", str(home / "exec"), "--pidfile", str(home / "docker.pid")]
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        end = time.monotonic() + PATIENCE_S
        while subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > end:
                raise MissingError(f"no Docker engine runs here, and none could be started:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield
    finally:
        daemon.terminate()
        daemon.wait(timeout=PATIENCE_S)
