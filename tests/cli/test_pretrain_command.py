import json
import shlex
from pathlib import Path

import pytest
from invoking import atsnet

from atsnet.backbones import load_backbone, save_trunk
from atsnet.pretraining.pretrain import LICENCE

SHORT = ("--steps", 2, "--warmup-steps", 1, "--batch-size", 2, "--size", 64, "--textures", 8, "--workers", 0)


def test_trunk_names_licence_and_the_command_that_repeats_it(tmp_path: Path) -> None:
    out = tmp_path / "trunk.safetensors"
    result = atsnet("pretrain", "--out", out, *SHORT, "--seed", 3, "--json")
    assert result.exit_code == 0, result.stderr
    _, source = load_backbone(str(out), tmp_path / "none.json", tmp_path)
    printed = json.loads(result.stdout)
    assert (source.name, source.licence, source.origin) == ("trunk", LICENCE, printed["origin"])
    content = out.read_bytes()
    out.unlink()
    command = shlex.split(source.origin)
    assert command[0] == "atsnet"
    assert atsnet(*command[1:], "--workers", 0).exit_code == 0
    assert out.read_bytes() == content


def test_images_of_ones_own_are_not_called_free(grains: Path, backbone: Path, tmp_path: Path) -> None:
    out = tmp_path / "line.safetensors"
    result = atsnet("pretrain", "--out", out, *SHORT, "--images", grains / "train", "--start", backbone)
    assert result.exit_code == 0, result.stderr
    _, source = load_backbone(str(out), tmp_path / "none.json", tmp_path)
    assert LICENCE not in source.licence
    assert "images of your own" in source.licence
    assert "started from random: CC0-1.0" in source.licence
    assert f"--images {grains / 'train'} --start {backbone} --objective vicreg" in source.origin


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--objective", "formula", "--images", "x"), 2, "vicreg"),
        (("--steps", 5, "--warmup-steps", 5), 4, "warmup_steps"),
        (("--size", 72), 4, "size"),
        (("--images", "/none/such"), 3, "/none/such"),
        (("--start", "/none/such.pt"), 4, "/none/such.pt"),
    ],
)
def test_wrong_options(tmp_path: Path, options: tuple[object, ...], code: int, said: str) -> None:
    result = atsnet("pretrain", "--out", tmp_path / "t.safetensors", *SHORT, *options)
    assert result.exit_code == code
    assert said in result.stderr
    assert not (tmp_path / "t.safetensors").exists()


def test_only_safetensors_are_written(tmp_path: Path) -> None:
    assert atsnet("pretrain", "--out", tmp_path / "trunk.pth").exit_code == 2


def test_trunk_is_the_same_file_every_time(backbone: Path, tmp_path: Path) -> None:
    trunk, source = load_backbone(str(backbone), tmp_path / "none.json", tmp_path)
    for number in range(8):
        save_trunk(trunk, tmp_path / f"{number}.safetensors", source)
    assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1
