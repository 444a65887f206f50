import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from atsnet.baselines.methods import METHODS as BASELINES
from atsnet.benchmark.plan import ATS_NET, LADDER, METHODS, TITLES, Cell, Variant, method_variants, plan_cells
from atsnet.config import Config, ConfigError, load_config
from atsnet.data.layout import DataError, find_datasets


def plan(
    root: Path, config: Path, *, methods: Sequence[str] = ("ats-net", "padim"), trunk: str = "t", set_: str = ""
) -> list[Cell]:
    assignments = [set_] if set_ else []
    variants = method_variants(methods)
    return plan_cells(find_datasets(root), variants, 2, backbone_sha256=trunk, config=config, assignments=assignments)


def changed(root: Path, config: Path, before: list[Cell], **other: str) -> list[str]:
    """Methods and parts whose inputs differ from those before."""
    after = plan(root, config, **other)  # type: ignore[arg-type]
    return sorted(
        {
            f"{new.dataset.name} {new.variant.name}"
            for old, new in zip(before, after, strict=True)
            if old.inputs != new.inputs
        }
    )


def test_every_method_has_a_title_and_is_there() -> None:
    assert set(METHODS) == set(TITLES) == {ATS_NET, *BASELINES}


def test_cells_are_every_part_method_and_seed(parts: Path, tiny: Path) -> None:
    cells = plan(parts, tiny)
    assert [cell.path.as_posix() for cell in cells] == [
        f"{part}/{method}/seed-{seed}"
        for part in ("left", "right")
        for method in ("ats-net", "padim")
        for seed in (0, 1)
    ]
    assert {cell.config.training.seed for cell in cells} == {0, 1}
    assert {cell.config.input.color for cell in cells} == {"mono"}
    assert len({cell.inputs.settings for cell in cells}) == 4  # of a method and a seed, the same for all parts


def test_color_that_is_said_wins(parts: Path, tiny: Path) -> None:
    assert {cell.config.input.color for cell in plan(parts, tiny, set_="input.color=rgb")} == {"rgb"}


def test_only_what_a_method_depends_on_makes_its_cells_stale(parts: Path, tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    shutil.copytree(parts, root)
    before = plan(root, tiny)
    assert changed(root, tiny, before) == []
    every = ["left ats-net", "left padim", "right ats-net", "right padim"]
    assert changed(root, tiny, before, trunk="other") == every
    assert changed(root, tiny, before, set_="training.holdout_fraction=0.3") == every
    assert changed(root, tiny, before, set_="training.stage2_steps=9") == ["left ats-net", "right ats-net"]
    mask = root / "left" / "ground_truth" / "pit" / "000_mask.png"
    mask.write_bytes(mask.read_bytes() + b"x")
    assert changed(root, tiny, before) == ["left ats-net", "left padim"]
    mask.unlink()
    (root / "right" / "train" / "good" / "000.png").unlink()
    assert changed(root, tiny, before) == every


def test_parts_without_test_images_are_named(parts: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "right" / "test")
    shutil.rmtree(tmp_path / "parts" / "right" / "ground_truth")
    with pytest.raises(DataError, match=r"nothing to test on in .*right: only good"):
        plan(tmp_path / "parts", tiny)


def test_parts_with_too_few_good_images_to_calibrate_on_are_named(parts: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    for number in range(6, 12):
        (tmp_path / "parts" / "right" / "train" / "good" / f"{number:03d}.png").unlink()
    with pytest.raises(DataError, match=r"right has too few good images .*, 6: .* 3 held-out ones, so 7 are needed"):
        plan(tmp_path / "parts", tiny)
    assert plan(tmp_path / "parts", tiny, set_="training.holdout_fraction=0.5")


def test_a_variant_with_an_unknown_key_is_refused_before_anything_runs(parts: Path, tiny: Path) -> None:
    odd = Variant("odd", "odd", ATS_NET, ("network.wings=2",))
    with pytest.raises(ConfigError, match=r"network\.wings"):
        plan_cells(find_datasets(parts), [odd], 1, backbone_sha256="t", config=tiny)


def test_each_step_of_the_ladder_switches_on_one_part_and_the_last_has_all() -> None:
    assert LADDER[0].method == "mkd"
    assert LADDER[-1].assignments == ()
    for before, after in pairwise(LADDER[1:]):
        assert set(after.assignments) < set(before.assignments)
    switches = [_switches(load_config(None, step.assignments)) for step in LADDER[1:]]
    assert switches == [[index < count for index in range(5)] for count in range(6)]
    assert all(load_config(None, [a]) for a in LADDER[1].assignments if "memory_size" not in a)


def _switches(config: Config) -> list[bool]:
    network = config.network
    memory = bool(network.memory_size) and network.student_sees == "prototypes"
    return [network.ema_norm, network.coupling, network.context, memory, bool(network.evidence_width)]
