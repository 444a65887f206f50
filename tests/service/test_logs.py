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


KEY = "atsnet_0f3c5d7e9a1b2c4d_s3cr3t_" + "A" * 35

WITH_SECRETS = f"""
import logging, sys
import structlog
from service.logs import configure_logs
configure_logs(sys.argv[1], "info")
log = structlog.get_logger("test")
log.info("sent", x_api_key="s3cr3t", headers=[(b"authorization", b"Bearer s3cr3t-s3cr3t")])
log.info("told", detail="the client sent {KEY}")
logging.getLogger("library").warning("GET /v1/recipes?key=%s", "{KEY}")
try:
    raise ValueError("no such key: {KEY}")
except ValueError:
    log.exception("failed")
    logging.getLogger("library").exception("failed with %s", "{KEY}")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_in_any_line(log_format: str) -> None:
    program = [sys.executable, "-c", WITH_SECRETS, log_format]
    log = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stderr
    assert "s3cr3t" not in log
    assert log.count("atsnet_0f3c5d7e9a1b2c4d_[hidden]") >= 5
    assert log.count("ValueError") >= 2
