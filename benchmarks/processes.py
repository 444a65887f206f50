"""What a program costs with all the processes that it starts: CPU time and memory, read from /proc. Linux only."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One process, by `/proc/<pid>/stat`."""

    state: str
    parent: int
    cpu_s: float
    """User and system time, of ended children that were waited for as well."""
    rss_bytes: int


def parse_stat(text: str) -> ProcessStat:
    """Read a line of `/proc/<pid>/stat`; the name in it may have blanks and brackets."""
    fields = text.rpartition(")")[2].split()
    return ProcessStat(
        state=fields[0],
        parent=int(fields[1]),
        cpu_s=sum(int(field) for field in fields[11:15]) / _TICKS,
        rss_bytes=int(fields[21]) * _PAGE,
    )


class Program:
    """A program and all the processes that it starts.

    They stay in this process's session: Linux shares processors between sessions first (autogroup), and what is
    compared must have the same share.

    Args:
        command: Program and arguments.
        environment: Variables besides this process's own.
        log: Where its output goes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    @property
    def ended(self) -> bool:
        """Whether the process that was started has ended; those that it started may not have."""
        return self._process.poll() is not None

    def cpu_s(self) -> float:
        """User and system time of all its processes so far, in seconds."""
        return sum(stat.cpu_s for stat in self._stats().values())

    def rss_bytes(self) -> int:
        """Resident memory of all its processes; pages that several share are counted for each."""
        return sum(stat.rss_bytes for stat in self._stats().values())

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask it to end, and after a while end what is left of it."""
        started = set(self._stats())
        self._process.terminate()
        limit = time.monotonic() + grace_s
        while left := started & set(running_processes()):
            if time.monotonic() > limit:
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.05)
        self._process.wait()

    def _stats(self) -> dict[int, ProcessStat]:
        """Its processes that run, by process id."""
        running = running_processes()
        return {pid: running[pid] for pid in descendants(running, self._process.pid) if pid in running}


def descendants(running: Mapping[int, ProcessStat], root: int) -> set[int]:
    """Process ids of `root`, of what it started, of what that started, and so on."""
    found, newest = {root}, {root}
    while newest:
        newest = {pid for pid, stat in running.items() if stat.parent in newest} - found
        found |= newest
    return found


def running_processes() -> dict[int, ProcessStat]:
    """Every process of the machine that has not ended, by process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            stat = parse_stat(path.read_text())
            if stat.state != "Z":
                found[int(path.parent.name)] = stat
    return found
