import io
from pathlib import Path

from made_results import made_cell
from rich.console import Console

from atsnet.benchmark.board import Board
from atsnet.benchmark.plan import Cell, method_variants, plan_cells
from atsnet.benchmark.pool import CellFailure
from atsnet.data.layout import find_datasets


def plan(parts: Path, tiny: Path) -> list[Cell]:
    return plan_cells(find_datasets(parts), method_variants(["padim"]), 1, backbone_sha256="t", config=tiny)


def told(board: Board, cells: list[Cell]) -> str:
    with board:
        board.expect(1, 3)
        for slot, cell in enumerate(cells):
            for done in range(3):
                board.progress(slot, cell, "learning [x]", done, 2)
        board.finished(0, cells[0], made_cell("left", "padim", 0, 0.987, None))
        board.finished(1, cells[1], CellFailure("ValueError: no [luck]"))
    return board.console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_log_has_a_line_for_every_start_and_end(parts: Path, tiny: Path) -> None:
    board = Board(Console(file=io.StringIO(), width=200))
    assert told(board, plan(parts, tiny)).splitlines() == [
        "1 of 3 cells finished already",
        "left, padim, seed 0: started",
        "right, padim, seed 0: started",
        "[2/3] left, padim, seed 0: image AUROC 98.7%, AUPRO@0.3 not defined; learned in 7 s",
        "[3/3] right, padim, seed 0: FAILED: ValueError: no [luck]",
    ]
    assert (board.done, board.total) == (3, 3)


def test_a_log_says_now_and_then_where_cells_stand(parts: Path, tiny: Path) -> None:
    board = Board(Console(file=io.StringIO(), width=200), seconds_between_lines=0.0)
    text = told(board, plan(parts, tiny))
    assert "left, padim, seed 0: learning [x]: 1/2" in text
    assert "right, padim, seed 0: learning [x]: 2/2" in text


def test_a_terminal_has_a_bar_for_every_running_cell(parts: Path, tiny: Path) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    text = told(Board(console), plan(parts, tiny))
    assert "started" not in text
    assert "right, padim, seed 0: learning [x]" in text
    assert "3/3" in text
