"""What OpenCV takes from its environment, each in a process of its own: it looks there once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.security.pixel_limit import VARIABLE

PROGRAM = """
import sys
from service.security.pixel_limit import limit_opencv
if "late" in sys.argv:
    import cv2
holds = limit_opencv(10_000)
again = limit_opencv(10_000)
import cv2, numpy as np
cv2.utils.logging.setLogLevel(0)
def decodes(pixels):
    _, data = cv2.imencode(".png", np.zeros((1, pixels), np.uint8))
    try:
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED) is not None
    except cv2.error:
        return False
print(holds, again, decodes(5_000), decodes(10_000), decodes(10_001))
"""


def outcome(*arguments: str, given: str | None = None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if given is not None:
        environment[VARIABLE] = given
    program = [sys.executable, "-c", PROGRAM, *arguments]
    root = Path(__file__).parents[3]
    return subprocess.run(
        program, env=environment, cwd=root, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()


@pytest.mark.parametrize("given", [None, "", "1000000", "nonsense"])
def test_limit_holds_when_it_is_set_before_opencv_is_loaded(given: str | None) -> None:
    assert outcome(given=given) == ["True", "True", "True", "True", "False"]


def test_it_does_not_when_it_is_set_later_and_that_is_said() -> None:
    assert outcome("late") == ["False", "False", "True", "True", "True"]


def test_a_parent_s_limit_holds_in_its_children() -> None:
    assert outcome("late", given="10000") == ["True", "True", "True", "True", "False"]


def test_a_lower_limit_stays() -> None:
    assert outcome(given="9000") == ["True", "True", "True", "False", "False"]
