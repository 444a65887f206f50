import subprocess
import sys

import pytest

PROGRAM = """
import sys
import structlog
from service.logs import configure_logs
configure_logs(sys.argv[1], "info")
def fail(image):
    raise ValueError("odd")
try:
    fail(b"pixels of a part")
except ValueError:
    structlog.get_logger("test").exception("failed")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_logged_errors_show_where_but_no_images(log_format: str) -> None:
    program = [sys.executable, "-c", PROGRAM, log_format]
    log = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stderr
    assert "ValueError" in log
    assert "odd" in log
    assert "pixels of a part" not in log
