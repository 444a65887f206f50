"""What a frame costs on this machine's CPU, by the time that the processor worked, not by the clock on the wall."""

import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from atsnet.imaging import UInt8Array
from model_export.bundle import Speed
from model_export.scorers import Scorer

_WARM_UP: Final = 3


def measure_speed(scorer: Scorer, frames: Sequence[UInt8Array]) -> Speed:
    """Median CPU time of one frame at a time; the scorer must compute in the thread that calls it.

    Args:
        scorer: What is measured.
        frames: `uint8 [H, W, C]` each, at least one.
    """
    for frame in frames[:_WARM_UP]:
        scorer(frame[np.newaxis])
    spent = []
    for frame in frames:
        start = time.thread_time()
        scorer(frame[np.newaxis])
        spent.append(1000 * (time.thread_time() - start))
    return Speed(cpu=cpu_name(), cpu_ms=round(float(np.median(spent)), 2), frames=len(frames))


def cpu_name() -> str:
    """The processor as its maker calls it, or its architecture where the system does not say."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
