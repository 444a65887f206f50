import pytest
from invoking import atsnet, without_training

from cli.exit_codes import MEANINGS, ExitCode
from service.settings import Settings

COMMANDS = [
    ("train",), ("calibrate",), ("evaluate",), ("benchmark",), ("ablate",), ("export",), ("deploy",), ("pretrain",),
    ("grains",), ("model", "summary"), ("serve",), ("inspect",), ("simulate-line",),
]  # fmt: skip


def test_main_help_lists_commands_and_exit_codes() -> None:
    text = " ".join(atsnet("--help").stdout.split())
    assert all(f" {command[0]} " in text for command in COMMANDS)
    assert set(MEANINGS) == set(ExitCode)
    assert all(f"{code.value} {meaning.split()[0]}" in text for code, meaning in MEANINGS.items())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command: tuple[str, ...]) -> None:
    result = atsnet(*command, "--help")
    assert result.exit_code == 0
    _, example, after = result.stdout.partition("Example")
    assert example
    assert f"atsnet {' '.join(command)}" in after


def test_help_of_serve_lists_every_setting() -> None:
    text = atsnet("serve", "--help").stdout
    words = text.split()
    assert [name for name in Settings.model_fields if f"ATSNET_{name.upper()}" not in words] == []
    assert f"[{Settings.model_fields['bundle'].default}]" in words


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("serve", "--help"), ("train", "--help")])
def test_help_needs_no_torch(arguments: tuple[str, ...]) -> None:
    code, out, error = without_training(*arguments)
    assert code == 0, error
    assert out


def test_inspect_needs_no_torch(tmp_path: object) -> None:
    code, _, error = without_training("inspect", "part.png", "--local", "--bundle", tmp_path)
    assert code == 4
    assert "no bundle at" in error


def test_training_without_its_extra_says_what_to_install(tmp_path: object) -> None:
    code, _, error = without_training("train", tmp_path, "--out", "run")
    assert code == 4
    assert "pip install 'atsnet[train]'" in error
    assert "Traceback" not in error


def test_unknown_command() -> None:
    assert atsnet("trian").exit_code == 2
