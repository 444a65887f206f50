"""What Debian's packages give a test: programs of this machine's own release, and of a newer one without upgrading."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

RELEASE = "bookworm"
"""Of the base image; its Python is the one that the tests run with."""
NEWER = "forky"
"""Has Docker with compose and buildx; its programs run where the C library is 2.34 or newer."""


PACKAGES = {"readelf": "binutils"}


class MissingError(Exception):
    """Something that the station's tests need is not here and cannot be had."""


def run(*command: str | Path, timeout: float = 600, **more: object) -> str:
    """What a command prints; one that fails says all that it said."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command], text=True, capture_output=True, timeout=timeout, check=False, **more
    )
    if done.returncode:
        said = f"{done.stdout[-8000:]}{done.stderr[-8000:]}"
        raise AssertionError(f"{' '.join(str(part) for part in command)} ended with {done.returncode}:\n{said}")
    return str(done.stdout)


class Debian:
    """Debian's packages, by apt.

    Args:
        cache: Directory for what is fetched.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise MissingError(
                "the station's tests install what they need from Debian's packages: run them as root there"
            )

    def install(self, *programs: str) -> None:
        """Install the programs that are not here, each from the package of its name but for those of `PACKAGES`."""
        missing = [PACKAGES.get(program, program) for program in programs if shutil.which(program) is None]
        if missing:
            run("apt-get", "--quiet", "update")
            run("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing)

    @cached_property
    def mirror(self) -> str:
        """Where this machine has Debian's packages from."""
        targets = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages")
        for line in targets.splitlines():
            origin, _, address = line.partition(" ")
            if origin == "Debian" and "security" not in address:
                return address
        raise MissingError("apt knows no mirror of Debian: run apt-get update")

    def unpack(self, packages: Iterable[str], into: Path) -> None:
        """Unpack packages of the newer release into a folder; nothing of this machine changes."""
        if into.exists():
            return
        fetched = self._cache / "packages"
        apt = self._newer_apt()
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        run("apt-get", *apt, "--quiet", "update")
        run("apt-get", *apt, "--quiet", "download", *packages, cwd=fetched)
        part = into.with_name(f"{into.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        for package in fetched.glob("*.deb"):
            run("dpkg-deb", "--extract", package, part)
        part.rename(into)

    def bootstrap(self, root: Path, packages: Iterable[str]) -> None:
        """Make the file system of a small Debian with these packages."""
        self.install("debootstrap")
        shutil.rmtree(root, ignore_errors=True)
        run("debootstrap", "--variant=minbase", f"--include={','.join(packages)}", RELEASE, root, self.mirror)
        for left in (*(root / "var/cache/apt").rglob("*.deb"), *(root / "var/lib/apt/lists").rglob("*")):
            if left.is_file():
                left.unlink()

    def _newer_apt(self) -> list[str]:
        home = self._cache / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        source = home / "sources.list"
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        source.write_text(f"deb [signed-by={keys}] {self.mirror} {NEWER} main\n")
        options = {
            "Dir::Etc::sourcelist": source,
            "Dir::Etc::sourceparts": "/nonexistent",
            "Dir::State::lists": home / "lists",
            "Dir::Cache": home / "cache",
            "APT::Sandbox::User": "root",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
