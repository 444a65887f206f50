import io
from pathlib import Path

import cv2
import pytest
from made_results import made_cell, made_results
from rich.console import Console

from atsnet.benchmark.charts import draw_bars
from atsnet.benchmark.tables import to_markdown, to_terminal

TITLES = {"ats-net": "ATS-Net", "mkd": "MKD"}
CELLS = [
    made_cell("left", "ats-net", 0, 0.96, dent=0.9),
    made_cell("left", "ats-net", 1, 0.98, dent=0.9),
    made_cell("left", "mkd", 0, 0.80),
    made_cell("right|x", "ats-net", 0, 0.99),
    made_cell("right|x", "ats-net", 1, 0.97),
    made_cell("right|x", "mkd", 0, 0.90),
    made_cell("right|x", "mkd", 1, 0.86),
]
FAILED = {"left, mkd, seed 1": "ValueError: no\nsecond line"}


def rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(" | ")] for line in markdown.splitlines() if line.startswith("| ")]


def test_markdown_has_a_row_for_every_part_and_method_and_says_what_is_missing() -> None:
    text = to_markdown(made_results(*CELLS, titles=TITLES, failures=FAILED))
    table = {(row[0].strip("| "), row[1]): row[2:] for row in rows(text) if len(row) == 13}
    assert table["left", "ATS-Net"][0] == "97.0 ± 1.4"
    assert table["left", "MKD"][0] == "80.0"
    assert table["left", "MKD"][-1] == "1/2 |"
    assert table["right\\|x", "MKD"][0] == "88.0 ± 2.8"
    assert table["all parts", "ATS-Net"][0] == "97.5 ± 0.0"
    assert table["all parts", "MKD"][-1] == "3/4 |"
    assert "    atsnet benchmark made --out x" in text
    assert "- ATS-Net minus MKD: +" in text
    assert "| left: dent | 90.0 ± 0.0 | - |" in text
    assert "1 cell without a result" in text
    assert "- left, mkd, seed 1: ValueError: no\n" in text
    assert "1.0% false rejects" in text
    assert "CPU (none), 2 threads, 3 cells side by side" in text


def test_nothing_is_said_of_all_parts_where_there_is_one() -> None:
    text = to_markdown(made_results(*CELLS[:3], titles=TITLES))
    assert "all parts" not in text
    assert "| dent | 90.0 ± 0.0 | - |" in text
    assert "no result" not in text


@pytest.mark.parametrize("cells", [CELLS, CELLS[:3], []], ids=["parts", "part", "nothing"])
def test_terminal_shows_what_markdown_shows(cells: list[object]) -> None:
    results = made_results(*cells, titles=TITLES)  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=160, markup=False)
    console.print(to_terminal(results))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    numbers = [cell for row in rows(to_markdown(results)) for cell in row if "±" in cell]
    assert [number for number in numbers if number not in printed] == []
    assert ("image AUROC by defect" in printed) == bool(cells)


@pytest.mark.parametrize("cells", [CELLS, CELLS[:1], []], ids=["parts", "cell", "nothing"])
def test_chart(cells: list[object], tmp_path: Path) -> None:
    draw_bars(tmp_path / "bars.png", made_results(*cells, titles=TITLES))  # type: ignore[arg-type]
    picture = cv2.imread(str(tmp_path / "bars.png"))
    assert picture is not None
    blue = (picture == (180, 119, 31)).all(axis=2)  # the colour of the first method
    assert (blue.sum() > 1000) == bool(cells)
