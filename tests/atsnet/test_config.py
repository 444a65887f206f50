from pathlib import Path

import pytest
from pydantic import ValidationError

from atsnet.config import Config, ConfigError, load_config


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(text)
    return path


def test_keys_that_a_file_leaves_out_have_their_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[training]\nseed = 7\n\n[input]\ncolor = 'mono'\n"))
    defaults = Config()
    assert config.training.seed == 7
    assert config.input.color == "mono"
    assert config.network == defaults.network
    assert config.training.model_copy(update={"seed": defaults.training.seed}) == defaults.training
    assert load_config(write(tmp_path, "")) == defaults


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[network]\nwidth = 3", r"unknown key network\.width"),
        ("[training]\nbatch_size = 0", r"training\.batch_size: "),
        ("[input]\nheight = 100", r"input\.height: "),
        ("[augment]\nbrightness = 'much'", r"augment\.brightness: "),
        ("[traning]\nseed = 1", r"unknown key traning; did you mean training\?"),
        ("[network]\nema_momentum = 1.0", r"network\.ema_momentum: "),
    ],
)
def test_wrong_and_unknown_keys_are_named_with_the_file(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.toml: {named}"):
        load_config(write(tmp_path, text))


def test_several_problems_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: .*; unknown key training\.wrong"):
        load_config(write(tmp_path, "[training]\nbatch_size = 0\nwrong = 1"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("training.stage9_steps=5", "unknown key training.stage9_steps; did you mean training.stage3_steps?"),
        ("zzz=1", "unknown key zzz"),
        ("training.batch_size=0", "training.batch_size: Input should be greater than 0"),
        ("network.heads=7", "network.heads: Input should be a multiple of 2"),
    ],
)
def test_of_several_assignments_only_the_wrong_one_is_named(tmp_path: Path, wrong: str, message: str) -> None:
    for path in (None, write(tmp_path, "[training]\nseed = 7")):
        with pytest.raises(ConfigError) as caught:
            load_config(path, ["training.stage2_steps=5", wrong, "network.noise=0.1"])
        assert str(caught.value) == message


def test_keys_that_do_not_go_together_are_said_without_pydantic_s_own_words() -> None:
    with pytest.raises(ConfigError, match=r"^network\.student_sees = 'prototypes' needs a memory"):
        load_config(None, ["network.memory_size=0"])


def test_a_file_is_named_when_the_wrong_key_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.toml: unknown key training\.steps"):
        load_config(write(tmp_path, "[training]\nsteps = 7"), ["training.seed=5"])


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match=r"train\.toml: not TOML: .*line 1"):
        load_config(write(tmp_path, "seed: 1"))


@pytest.mark.parametrize("key", ["window", "grid"])
def test_attention_that_does_not_divide_the_picture_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=rf"network\.{key} = 5 does not divide the 8 positions that input.height"):
        Config.model_validate({"input": {"height": 64, "width": 64}, "network": {"window": 4, "grid": 4, key: 5}})


def test_attention_wider_than_the_picture_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"does not divide the 4 positions that input.width = 64 has at 1/16"):
        Config.model_validate({"input": {"height": 128, "width": 64}, "network": {"window": 8, "grid": 4}})


def test_configuration_is_frozen_and_survives_json() -> None:
    config = Config.model_validate({"training": {"seed": 3}, "network": {"coupling_hidden": [8, 16, 24]}})
    with pytest.raises(ValidationError, match="frozen"):
        config.training.seed = 4  # type: ignore[misc]
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_the_review_rate_is_above_the_false_reject_rate() -> None:
    assert Config().calibration.target_review_rate is None
    config = load_config(None, ["calibration.target_review_rate=0.05"])
    assert config.calibration.target_review_rate == 0.05
    with pytest.raises(ConfigError, match=r"calibration: .*target_review_rate = 0.01 must be above"):
        load_config(None, ["calibration.target_review_rate=0.01"])
