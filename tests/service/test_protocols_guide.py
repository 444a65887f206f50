"""The examples of the guide to batches, events and the Open Inference Protocol do what it says."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import DEFECTIVE, GOOD, running

from service.open_inference import MAX_JSON_BYTES
from service.routes import open_inference
from service.runtimes.fake import FakeRuntime
from service.settings import Settings
from service.submission import MAX_FACES

GUIDE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (language, code, after) for (language, code), (_, after) in pairwise(BLOCKS) if language in {"bash", "python"}
]


@pytest.mark.parametrize(("language", "code", "output"), EXAMPLES, ids=[language for language, *_ in EXAMPLES])
def test_example_prints_what_the_guide_says(
    settings: Settings, runtime: FakeRuntime, tmp_path: Path, language: str, code: str, output: str
) -> None:
    for name, image in (("part", GOOD), ("top", GOOD), ("side", DEFECTIVE)):
        (tmp_path / f"{name}.png").write_bytes(image)
    program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
    with running(settings, runtime) as line:
        here = code.replace("127.0.0.1:8000", urlsplit(line.url).netloc)
        done = subprocess.run([*program, here], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.sub(r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "01JD8Z7Q4N5R6S7T8V9W0X1Y2Z", done.stdout) == output


def test_limits_and_defaults_are_those_of_the_code() -> None:
    assert f"up to {MAX_FACES} parts `image`" in GUIDE
    assert f"may have {MAX_JSON_BYTES // 2**20} MiB" in GUIDE
    text = " ".join(GUIDE.split())
    for given, outputs in open_inference._DEFAULT_OUTPUTS.items():
        *most, last = (f"`{name}`" for name in outputs)
        assert f"`{given}` gives {', '.join(most)} and {last}" in text
    assert all(f"| `{name}` |" in GUIDE for name in open_inference._OUTPUTS)
