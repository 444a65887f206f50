import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from small_trainer import STAGES, Recorder, StoppedError, bytes_of, make_trainer, trained_bytes
from small_training import make_network, small_config

from atsnet.training.run_directory import RunError
from atsnet.training.trainer import Trainer


@pytest.fixture(scope="module", params=[{"augmented": True}, {"augmented": False, "bfloat16": True}], ids=str)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """After a run that was not interrupted, of 6 frames and their copies, and 8 with anomalies."""
    trainer = make_trainer(tmp_path_factory.mktemp("whole"), small_config(checkpoint_every=2, **request.param))
    trainer.run()
    return trainer


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        ("stage 1 (teacher): 3/4", [[3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]),
        ("stage 1 (teacher): 4/4", [[3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]),
        ("choosing prototypes: 33/64", [[], [1, 2, 3, 4], [1, 2, 3, 4]]),
        ("stage 2 (student): 1/4", [[], [1, 2, 3, 4], [1, 2, 3, 4]]),
        ("stage 2 (student): 3/4", [[], [3, 4], [1, 2, 3, 4]]),
        ("stage 2 (student): 4/4", [[], [3, 4], [1, 2, 3, 4]]),
        ("features of the trunk: 4/8", [[], [], [1, 2, 3, 4]]),  # of the synthetic anomalies
        ("nearest prototypes: 8/8", [[], [], [1, 2, 3, 4]]),
        ("stage 3 (evidence head): 1/4", [[], [], [1, 2, 3, 4]]),
        ("stage 3 (evidence head): 3/4", [[], [], [3, 4]]),
        ("fitting quantiles: 2/2", [[], [], []]),
    ],
)
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    whole: Trainer, tmp_path: Path, stop: str, left: list[list[int]]
) -> None:
    with pytest.raises(StoppedError):
        make_trainer(tmp_path, whole.config, report=Recorder(stop)).run()
    recorder = Recorder()
    network = make_network(whole.config, seed=5)
    resumed = make_trainer(tmp_path, whole.config, network=network, report=recorder)
    resumed.run(resume=True)
    assert bytes_of(network) == bytes_of(whole.network)
    assert resumed.losses == whole.losses
    assert [recorder.done.get(stage, []) for stage in STAGES] == left
    assert network.memory is not None
    assert whole.network.memory is not None
    assert torch.equal(network.memory.parts, whole.network.memory.parts)
    assert set(network.memory.parts.tolist()) <= set(range(6))


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_between_two_steps_keeps_the_state_of_that_step(tmp_path: Path, stage: str) -> None:
    config = small_config()

    def interrupt(task: str, done: int, _: int, values: Mapping[str, float] | None = None) -> None:
        if task == stage and done == 3 and values:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, config, report=interrupt).run()
    recorder = Recorder()
    resumed = make_trainer(tmp_path, config, report=recorder)
    resumed.run(resume=True)
    assert recorder.done[stage] == [4]
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert bytes_of(resumed.network) == trained_bytes(tmp_path, config)


@pytest.mark.parametrize(
    ("task", "left"),
    [
        ("gathering prototypes", STAGES[1:]),
        ("features of the trunk", STAGES[2:]),
        ("fitting quantiles", ()),
    ],
)
def test_an_interrupt_after_a_stage_loses_none_of_its_steps(tmp_path: Path, task: str, left: tuple[str, ...]) -> None:
    config = small_config()  # augmented: no features are computed but those of the anomalies

    def interrupt(name: str, *_: object) -> None:
        if name == task:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, config, report=interrupt).run()
    recorder = Recorder()
    resumed = make_trainer(tmp_path, config, report=recorder)
    resumed.run(resume=True)
    assert tuple(task for task in recorder.done if task in STAGES) == left
    assert list(recorder.done)[-2:] == ["fitting channel weights", "fitting quantiles"]
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert bytes_of(resumed.network) == trained_bytes(tmp_path, config)


def test_nothing_to_resume_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        make_trainer(tmp_path, small_config()).run(resume=True)
