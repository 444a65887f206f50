import time

import numpy as np

from model_export.speed import cpu_name, measure_speed


class Busy:
    """Works on some frames, and sleeps on all."""

    description = "busy"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        end = time.thread_time() + 0.002 * float(frames[0, 0, 0, 0])
        while time.thread_time() < end:
            pass
        time.sleep(0.005)
        return np.zeros(1, np.float32), np.zeros((1, 1, 1), np.float32)


def test_work_counts_and_waiting_does_not() -> None:
    frames = [np.full((2, 2, 2), value, np.uint8) for value in (0, 1, 1, 1, 50)]
    busy = Busy()
    speed = measure_speed(busy, frames)
    assert busy.calls > len(frames)
    assert speed.frames == 5
    assert 2 <= speed.cpu_ms < 5  # the median of 0, 2, 2, 2 and 100 ms


def test_the_processor_has_a_name() -> None:
    assert cpu_name().strip() == cpu_name() != ""
