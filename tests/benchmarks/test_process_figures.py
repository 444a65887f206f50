import os
import sys
import time
from pathlib import Path

from benchmarks.processes import ProcessStat, Program, descendants, parse_stat

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

LINE = (
    "4242 (uvicorn: worker (1) x) S 17 4242 4200 0 -1 4194304 9000 100 2 0 "
    "250 50 30 20 20 0 5 0 5555 300000000 7000 18446744073709551615 1 1 0"
)

PARENT_OF_A_BUSY_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields() -> None:
    assert parse_stat(LINE) == ProcessStat(state="S", parent=17, cpu_s=350 / TICKS, rss_bytes=7000 * PAGE)


def test_this_process_is_found_as_the_kernel_tells_of_it() -> None:
    stat = parse_stat(Path("/proc/self/stat").read_text())
    assert stat.parent == os.getppid()
    assert stat.state == "R"
    assert stat.rss_bytes > 1_000_000


def test_descendants_are_found_over_generations_and_nobody_else_is() -> None:
    def child_of(parent: int) -> ProcessStat:
        return ProcessStat("S", parent, 0.0, 0)

    running = {10: child_of(1), 11: child_of(10), 12: child_of(11), 20: child_of(1), 21: child_of(20)}
    assert descendants(running, 10) == {10, 11, 12}


def test_the_work_of_a_child_is_counted_and_the_child_is_ended(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", PARENT_OF_A_BUSY_CHILD], {}, tmp_path / "log")
    try:
        limit = time.monotonic() + 60
        while program.cpu_s() < 0.3:
            assert time.monotonic() < limit, "its child's work was never counted"
            time.sleep(0.02)
        child = int((tmp_path / "log").read_text())
        assert program.rss_bytes() > 2_000_000
        assert not program.ended
    finally:
        program.stop(grace_s=0.2)
    assert program.ended
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or parse_stat(stat.read_text()).state == "Z"
