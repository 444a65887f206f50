"""The images of the station's tests: the service's own, and stand-ins for those that a registry would give.

The base is a small Debian. Prometheus, Alertmanager and PostgreSQL are Debian's; the rest is left out by name.
"""

import configparser
import os
import shutil
import subprocess
from pathlib import Path

from debian_packages import RELEASE, Debian, run
from docker_engine import Docker

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache/station"
"""Of what is fetched and built."""
NAME = "atsnet-station-test"
BASE = f"{NAME}/base:{RELEASE}"
STAND_INS = {name: f"{NAME}/{name}" for name in ("prometheus", "alertmanager", "postgres")}
PACKAGES = ("prometheus", "promtool", "prometheus-alertmanager")

_AUTHORITY = "/run/secrets/pip_cert"


def make_base(docker: Docker, debian: Debian, scratch: Path) -> str:
    """Make the base image of the others, which comes from no registry; returns its name."""
    if docker.has(BASE):
        return BASE
    root = scratch / "root"
    debian.bootstrap(root, ["python3", "python3-venv"])
    archive = scratch / "root.tar"
    run("tar", "--directory", root, "--create", "--file", archive, ".")
    docker("import", archive, BASE)
    archive.unlink()
    shutil.rmtree(root)
    return BASE


def make_stand_ins(docker: Docker, debian: Debian, cache: Path) -> None:
    """Make the images of Prometheus, Alertmanager and PostgreSQL from Debian's packages."""
    debian.unpack(PACKAGES, cache / "monitoring")
    here = Path(__file__).parent
    for name, image in STAND_INS.items():
        docker(
            "build", "--quiet", "--target", name, "--build-arg", f"BASE={BASE}", "--build-context", f"scripts={here}",
            "--tag", image, "--file", here / "stand-ins.Dockerfile", cache / "monitoring",
        )  # fmt: skip


def clone(folder: Path) -> Path:
    """Copy the repository as it is now, without what git ignores; returns the folder."""
    listed = run("git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def pip_secrets(folder: Path) -> dict[str, str]:
    """This machine's way to Python's packages, for the build alone: as settings of docker-compose.yml."""
    listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    found = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    values = {name.split(".")[-1]: value.strip("'") for name, value in found.items()}
    config = configparser.ConfigParser(interpolation=None)
    config["global"] = {name: values[name] for name in ("index-url", "proxy", "trusted-host") if name in values}
    settings = {"STATION_PIP_CONF": str(folder / "pip.conf")}
    authority = os.environ.get("PIP_CERT") or values.get("cert")
    if authority is not None:
        config["global"]["cert"] = _AUTHORITY
        settings["STATION_PIP_CERT"] = authority
    if Path(wheels := values.get("find-links", "")).is_absolute():
        settings["STATION_WHEELS"] = wheels  # with PyTorch's CPU build among them, the image for training needs no CUDA
    with (folder / "pip.conf").open("w") as file:
        config.write(file)
    return settings
