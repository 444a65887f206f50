import json
from pathlib import Path

import pytest
import torch
from fake_detectors import FAKES
from test_benchmark_pool import Recorder

from atsnet.benchmark import benchmark as benchmark_module
from atsnet.benchmark.benchmark import run_benchmark
from atsnet.benchmark.cell import Backbone
from atsnet.benchmark.document import BenchmarkResults
from atsnet.benchmark.plan import method_variants
from atsnet.data.layout import find_datasets


def run(parts: Path, tiny: Path, backbone: Backbone, out: Path, methods: list[str], seeds: int) -> BenchmarkResults:
    return run_benchmark(
        find_datasets(parts),
        method_variants(methods),
        backbone,
        out,
        Recorder(),
        title="Benchmark: parts",
        command="atsnet benchmark parts",
        compared=[(methods[0], other) for other in methods[1:]],
        seeds=seeds,
        config=tiny,
        device=torch.device("cpu"),
        jobs=1,
        baselines=FAKES,
    )


def test_only_what_is_missing_is_run_again(
    parts: Path, tiny: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(parts, tiny, backbone, tmp_path, ["padim", "mkd"], 1)
    assert [(cell.part, cell.variant, cell.seed) for cell in first.cells] == [
        ("left", "padim", 0),
        ("right", "padim", 0),
    ]
    assert list(first.failures) == ["left, mkd, seed 0", "right, mkd, seed 0"]
    assert first.differences[0].image_auroc is None
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["failures"] == dict(first.failures)
    assert written["configuration"]["network"]["student_width"] == 32
    assert BenchmarkResults.model_validate(written) == first
    assert "left, mkd, seed 0: ValueError: nothing to learn here" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "bars.png").is_file()

    ran: list[str] = []
    run_cells = benchmark_module.run_cells

    def watched(cells: object, *rest: object) -> object:
        ran.extend(str(cell) for cell in cells)  # type: ignore[attr-defined]
        return run_cells(cells, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(benchmark_module, "run_cells", watched)
    second = run(parts, tiny, backbone, tmp_path, ["padim"], 2)
    assert ran == ["left, padim, seed 1", "right, padim, seed 1"]
    assert [cell for cell in second.cells if cell.seed == 0] == list(first.cells)
    assert len(second.cells) == 4
    ran.clear()
    assert run(parts, tiny, backbone, tmp_path, ["padim"], 2) == second
    assert ran == []
