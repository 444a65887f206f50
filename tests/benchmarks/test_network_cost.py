from pathlib import Path

import pytest

from benchmarks.cost import Floor, print_floors
from benchmarks.runtime import Case, Cost, cpu_cases, print_table
from benchmarks.tiny_bundle import write_tiny_bundle
from model_export.bundle import load_bundle


def test_every_batch_is_run_in_every_way_to_use_the_processors(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    cases = cpu_cases(bundle, [1, 4], cpus=2)
    assert {(case.batch, case.sessions, case.threads) for case in cases} == {
        (batch, *way) for batch in (1, 4) for way in ((1, 1), (1, 2), (2, 1))
    }
    assert len(cpu_cases(bundle, [1, 4], cpus=1)) == 2


def test_the_table_of_runtimes_has_a_line_for_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({Case("cpu", "float32", 4, 1, 1): Cost(cpu_ms=40.0, call_ms=160.5, rate=24.9)})
    assert capsys.readouterr().out.splitlines()[-1] == "| cpu | float32 | 4 | 1 | 1 | 40.00 | 160.50 | 24.9 |"


def test_a_floor_says_the_share_that_is_reached_where_there_is_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    print_floors([Floor("float32", 100.0, "PyTorch", 30.0, 40.0), Floor("int8", 400.0, "ONNX Runtime", 7.5, None)])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "| float32 | 100.0 | PyTorch | 30.0 | 40.0 | 75% |",
        "| int8 | 400.0 | ONNX Runtime | 7.5 | no graph |  |",
    ]
