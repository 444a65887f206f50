import json
from pathlib import Path

import pytest
from invoking import atsnet

from atsnet.data.grains import HOLDERS
from atsnet.data.layout import find_dataset
from cli.grains import HolderChoice


def test_set_can_be_found_by_training(tmp_path: Path) -> None:
    result = atsnet("grains", tmp_path, "--train", 2, "--good", 1, "--defects", 6, "--size", 64, "--json")
    assert result.exit_code == 0
    counts = json.loads(result.stdout)
    dataset = find_dataset(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (2, 7)
    assert sum(counts["defects"].values()) == 6
    assert dataset.unmasked == ()


def test_same_seed_same_images(tmp_path: Path) -> None:
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        atsnet("grains", tmp_path / folder, "--train", 1, "--good", 0, "--defects", 0, "--size", 64, "--seed", seed)
    first, again, other = ((tmp_path / folder / "train/good/000.png").read_bytes() for folder in "abc")
    assert first == again != other


def test_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = atsnet("grains", tmp_path)
    assert result.exit_code == 3
    assert str(tmp_path) in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("option", [("--train", -1), ("--size", 8), ("--holder", "red")])
def test_wrong_options(tmp_path: Path, option: tuple[str, object]) -> None:
    assert atsnet("grains", tmp_path / "set", *option).exit_code == 2
    assert not (tmp_path / "set").exists()


def test_holders_are_those_of_the_generator() -> None:
    assert {choice.value for choice in HolderChoice} == set(HOLDERS)
