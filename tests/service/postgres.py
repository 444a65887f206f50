"""A PostgreSQL server of the tests' own: its data and its socket in a temporary folder, reached by nobody else."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

USER = "atsnet"


def binaries() -> Path:
    """Where the server's programs are; the test fails where they are not."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    if on_path is None and not found:
        pytest.fail("PostgreSQL's server is not installed: apt-get install postgresql (Debian)", pytrace=False)
    return (Path(on_path).resolve() if on_path else found[-1]).parent


class Server:
    """A running server.

    Args:
        folder: Where it keeps its data and its socket.
    """

    def __init__(self, folder: Path) -> None:
        self._programs = binaries()
        self._folder = folder
        # It refuses to run as root.
        self._as_user = "postgres" if os.getuid() == 0 else None
        if self._as_user:
            shutil.chown(folder, self._as_user)
        self._databases = 0
        options = ("--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-sync", "--no-instructions")
        self._execute("initdb", *options, "--pgdata", str(folder / "data"))
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self._folder / "data",
                    "-k",
                    self._folder,
                    "-c",
                    "listen_addresses=",
                ],
                user=self._as_user,
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.dsn("postgres")).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < limit, (self._folder / "log").read_text()
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks every connection and flushes, SIGQUIT leaves the rest to the recovery."""
        self._process.send_signal(how)
        self._process.wait(60)

    def dsn(self, database: str) -> str:
        """For psycopg itself."""
        return f"host={self._folder} user={USER} dbname={database}"

    def new_database(self) -> str:
        """An empty database; its URL."""
        self._databases += 1
        name = f"records_{self._databases}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    def _execute(self, program: str, *arguments: str) -> None:
        subprocess.run([self._programs / program, *arguments], user=self._as_user, check=True, capture_output=True)


@contextmanager
def serving_postgres() -> Iterator[Server]:
    """A server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="atsnet-postgres-") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.stop()
