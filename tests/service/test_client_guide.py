"""The examples of the guide to the line do what it says."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import GOOD, Line, good_image, running

from service.problems import KINDS
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

GUIDE = (Path(__file__).parents[2] / "docs" / "line-integration.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (language, code, after[1] if after[0] == "text" else "")
    for (language, code), after in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if language in {"bash", "python"}
]
FLOW: list[dict[str, Any]] = next(json.loads(code) for language, code in BLOCKS if language == "json")
NODE_JS = shutil.which("node")
ANSWER = "1;0;123;500000;01JD8Z7Q4N5R6S7T8V9W0X1Y2Z\n"


@pytest.fixture
def station(settings: Settings, runtime: FakeRuntime) -> Iterator[Line]:
    with running(settings, runtime) as line:
        yield line


def same_ids(text: str) -> str:
    return re.sub(r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "01JD8Z7Q4N5R6S7T8V9W0X1Y2Z", text)


def table(header: str) -> list[list[str]]:
    lines = GUIDE[GUIDE.index(header) :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def patient(code: str) -> str:
    """The same example, for a machine that is busy with other tests."""
    code = re.sub(r"deadline_ms=\d+", "deadline_ms=20000", code)
    return re.sub(r"--max-time \S+", "--max-time 30", code)


@pytest.mark.parametrize(("language", "code", "output"), EXAMPLES)
def test_example_prints_what_the_guide_says(
    station: Line, tmp_path: Path, language: str, code: str, output: str
) -> None:
    (tmp_path / "part.png").write_bytes(GOOD)
    (tmp_path / "part.raw").write_bytes(good_image().tobytes())
    program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
    here = patient(code).replace("http://127.0.0.1:8000", station.url)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*program, here], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert same_ids(done.stdout) == output


def test_guide_has_examples_of_both() -> None:
    assert {language for language, _, _ in EXAMPLES} == {"bash", "python"}


def test_every_code_is_in_the_table() -> None:
    listed = set()
    for _, code, statuses, *_ in table("| result | code | status |"):
        listed |= {(code, status.strip()) for status in statuses.split(",")}
    assert {(str(kind.code), str(kind.status)) for kind in KINDS.values()} < listed


def test_only_result_1_passes_in_the_table() -> None:
    rows = table("| result | code | status |")
    assert [result for result, _, _, _, part, _ in rows if "rejected" not in part] == ["1"]


def test_flow_is_connected() -> None:
    wires = {node["id"]: [target for port in node.get("wires", []) for target in port] for node in FLOW}
    assert wires == {"line": [], "ask": ["post"], "post": ["decide"], "decide": []}


def run_function(name: str, message: dict[str, Any]) -> dict[str, Any]:
    [node] = [node for node in FLOW if node["id"] == name]
    script = f"const run = new Function('msg', {json.dumps(node['func'])});" + (
        f"console.log(JSON.stringify(run({json.dumps(message)})));"
    )
    assert NODE_JS is not None
    done = subprocess.run([NODE_JS, "-e", script], capture_output=True, text=True, timeout=60, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.skipif(NODE_JS is None, reason="needs Node.js to run the functions of the Node-RED flow")
@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True), ({"statusCode": 500}, False), ({"statusCode": "ETIMEDOUT", "payload": "RequestError"}, False),
        ({"statusCode": "200"}, False), ({"payload": ""}, False), ({"payload": None}, False), ({"payload": {}}, False),
        ({"payload": ANSWER.strip()}, False), ({"trigger": 12}, False), ({"trigger": 1234}, False), ({"due": 0}, False),
        *(({"payload": f"{result}{ANSWER[1:]}"}, False) for result in (0, 2, 3, 4)),
    ],
)  # fmt: skip
def test_flow_decides_by_the_rule(changes: dict[str, Any], passes: bool) -> None:
    message = {"statusCode": 200, "payload": ANSWER, "trigger": 123, "due": 1e15} | changes
    assert run_function("decide", message)["payload"] is passes


@pytest.mark.skipif(NODE_JS is None, reason="needs Node.js to run the functions of the Node-RED flow")
def test_flow_asks_what_the_service_understands(station: Line) -> None:
    asked = run_function("ask", {"trigger": 123, "serial": "A 1&x=2", "payload": "the image"})
    url = patient(asked["url"]).replace("http://127.0.0.1:8000", station.url)
    answer = station.http.post(url, content=GOOD, headers=asked["headers"])
    assert same_ids(answer.text) == ANSWER
    assert station.http.get(f"/v1/inspections/{answer.text.split(';')[4].strip()}").json()["serial"] == "A 1&x=2"
