from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_trainer import STAGES, Recorder, make_trainer, trained_bytes
from small_training import make_frames, make_network, small_config
from torch import Tensor

from atsnet.config import Config
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.training.frozen_features import FeatureBatch, FrozenFeatures
from atsnet.training.losses import SCALE_NAMES, NonFiniteLossError
from atsnet.training.pasted import PastedAnomalies
from atsnet.training.trainer import Trainer, _schedule


def copy_of(network: AtsNet) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    config = small_config()
    first = trained_bytes(tmp_path, config)
    torch.manual_seed(999)  # what happened before in the process does not matter
    assert trained_bytes(tmp_path, config) == first
    assert trained_bytes(tmp_path, small_config(seed=2)) != first


def test_every_stage_learns(tmp_path: Path) -> None:
    recorder = Recorder()
    steps = {"stage1_steps": 30, "stage2_steps": 40, "stage3_steps": 80}
    rates = {f"stage{stage}_learning_rate": 5e-3 for stage in (1, 2, 3)}
    trainer = make_trainer(tmp_path, small_config(augmented=False, **steps, **rates), report=recorder)
    trainer.run()
    teacher, student, head = (np.array(recorder.losses[stage]) for stage in STAGES)
    assert teacher[-1] < teacher[0] - 0.1
    assert student[-1] < 0.8 * student[0]
    assert head[-1] < 0.8 * head[0]
    terms = {f"stage{stage} {scale}" for stage in (1, 2) for scale in SCALE_NAMES}
    assert set(trainer.losses) == terms | {"stage3 evidence"}


def test_each_stage_changes_its_own_part_only(tmp_path: Path) -> None:
    config = small_config(weight_decay=0.1)
    network = make_network(config)
    states, learning = [copy_of(network)], []

    def watch(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        if values and done == total:
            states.append(copy_of(network))
            learning.append({name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad})
        elif task == "choosing prototypes" and done == total:
            assert len(states) == 2  # between the stages

    make_trainer(tmp_path, config, network=network, report=watch).run()
    states.append(copy_of(network))

    def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
        return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}

    assert learning == [{"couplings"}, {"student"}, {"evidence_head"}]
    start, after_teacher, after_student, after_head, end = states
    assert changed(start, after_teacher) == {"norms", "couplings"}
    assert changed(after_teacher, after_student) == {"student", "memory"}
    assert changed(after_student, after_head) == {"evidence_head"}
    assert changed(after_head, end) == {"anomaly_map"}
    assert not network.training
    assert not network.student.training


def test_a_network_without_evidence_head_has_no_third_stage(tmp_path: Path) -> None:
    recorder = Recorder()
    config = small_config(network={"evidence_width": 0})
    trainer = make_trainer(tmp_path, config, report=recorder)
    trainer.run()
    assert tuple(task for task in recorder.done if task in STAGES) == STAGES[:2]
    assert "features of the trunk" not in recorder.done  # nothing is pasted either
    assert {name.split()[0] for name in trainer.losses} == {"stage1", "stage2"}


def test_each_training_frame_is_joined_by_a_copy_in_another_light(tmp_path: Path) -> None:
    frames = make_frames(5)
    before = frames.copy()
    trainer = make_trainer(tmp_path, small_config(exposure_spread=0.2), frames=frames)
    originals, copies = trainer.train_frames[:5], trainer.train_frames[5:]
    assert np.array_equal(originals, before)
    assert np.array_equal(frames, before)
    assert copies.shape == originals.shape
    assert np.array_equal(copies[..., -1], originals[..., -1])
    assert all(not np.array_equal(a, b) for a, b in zip(copies, originals, strict=True))
    assert np.array_equal(trainer.holdout_frames, make_frames(2, seed=7))  # what is measured stays as it is
    again, other = (
        make_trainer(tmp_path, small_config(exposure_spread=0.2, seed=seed), frames=frames) for seed in (1, 2)
    )
    assert np.array_equal(again.train_frames, trainer.train_frames)
    assert not np.array_equal(other.train_frames, trainer.train_frames)
    assert np.array_equal(make_trainer(tmp_path, small_config(exposure_spread=0), frames=frames).train_frames, before)


def test_a_copy_with_an_anomaly_on_it_is_still_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[UInt8Array, NDArray[np.intp] | None]] = []

    class Watched(PastedAnomalies):
        def __init__(self, network: AtsNet, config: Config, frames: UInt8Array, *rest: Any, **options: Any) -> None:
            given.append((frames, options["parts"]))
            super().__init__(network, config, frames, *rest, **options)

    monkeypatch.setattr("atsnet.training.trainer.PastedAnomalies", Watched)
    trainer = make_trainer(tmp_path, small_config())
    trainer.run()
    ((frames, parts),) = given
    assert np.array_equal(frames, trainer.train_frames)
    assert parts is not None
    assert parts.tolist() == [*range(6), *range(6)]


@pytest.mark.parametrize("augmented", [True, False])
def test_no_frame_is_compared_with_prototypes_of_its_own_part_or_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augmented: bool
) -> None:
    trainer = make_trainer(tmp_path, small_config(augmented=augmented))
    memory = trainer.network.memory
    assert memory is not None
    batch_of = FrozenFeatures.batch
    handed_out: list[FeatureBatch] = []
    shares: list[float] = []
    recalled: list[int] = []

    def batch(self: FrozenFeatures, chosen: NDArray[np.intp], rng: np.random.Generator) -> FeatureBatch:
        found = batch_of(self, chosen, rng)
        if found.nearest is not None:
            handed_out.append(found)
            if self is trainer._features:
                own = torch.from_numpy(chosen % 6)[:, None, None]
                assert (memory.parts[found.nearest] != own).all()
                freely = memory.nearest(memory.project(memory.describe(found.raw)))
                shares.append(float((memory.parts[freely] == own).float().mean()))
        return found

    def recall(_: object, given: tuple[list[Tensor], Tensor | None]) -> None:
        """What the learners see are the neighbours that were handed out, each with its own frame."""
        if trainer.network.training:
            raw, nearest = given
            assert nearest is not None
            known = [batch.nearest for batch in handed_out if batch.nearest is not None]
            assert torch.equal(nearest, torch.cat(known))
            assert torch.equal(raw[1], torch.cat([batch.raw[1] for batch in handed_out]))
            recalled.append(len(known))
            handed_out.clear()

    monkeypatch.setattr(FrozenFeatures, "batch", batch)
    memory.register_forward_pre_hook(recall)
    trainer.run()
    assert recalled == [1] * 4 + [2] * 4  # in the third stage of frames as they are, and of frames with an anomaly
    assert len(shares) == 8
    assert np.mean(shares) > 0.1  # of places that would be compared with their own part, else


class Asked:
    """Stands in for the features: hands back which frames were asked for, and a number of the augmentation's."""

    def batch(self, chosen: NDArray[np.intp], rng: np.random.Generator) -> tuple[list[int], float]:
        return chosen.tolist(), rng.random()


def asked_batches(trainer: Trainer, stage: int, first: int) -> Iterator[tuple[list[int], float]]:
    trainer._features = Asked()
    return trainer._batches(stage, first)


@pytest.mark.parametrize(
    ("switches", "trained"),
    [
        ({"student_sees": "features"}, {"norms", "couplings", "memory", "student", "evidence_head", "anomaly_map"}),
        (
            {"student_sees": "features", "memory_size": 0},
            {"norms", "couplings", "student", "evidence_head", "anomaly_map"},
        ),
        ({"evidence_width": 0}, {"norms", "couplings", "memory", "student", "anomaly_map"}),
        (
            {"ema_norm": False, "coupling": False, "context": False},
            {"norms", "memory", "student", "evidence_head", "anomaly_map"},
        ),
    ],
)
def test_a_network_with_parts_switched_off_is_trained_too(
    tmp_path: Path, switches: dict[str, Any], trained: set[str]
) -> None:
    config = small_config(augmented=False, network=switches)
    network = make_network(config)
    before = copy_of(network)
    make_trainer(tmp_path, config, network=network).run()
    after = copy_of(network)
    assert {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])} == trained
    score, _ = network(torch.from_numpy(make_frames(2, seed=3)))
    assert torch.isfinite(score).all()
    assert (score > 0).all()


def test_the_memory_knows_inspected_places_of_training_frames(tmp_path: Path) -> None:
    """A quarter of each frame is padding."""
    trainer = make_trainer(tmp_path, small_config(augmented=False), frames=make_frames(4))
    trainer.run()
    memory = trainer.network.memory
    assert memory is not None
    images, inspect = trainer.network.unpack(torch.from_numpy(trainer.train_frames))
    described = memory.describe(trainer.network.backbone(images))
    inspected = described.permute(0, 2, 3, 1)[inspect[:, ::2, ::2] > 0]
    assert len(inspected) == 8 * 6 * 8  # of the frames and their copies
    assert torch.allclose(memory.mean, inspected.mean(dim=0), atol=1e-5)
    vectors = memory.project(inspected.T[None, :, :, None]).flatten(0, 2)
    nearest = torch.cdist(memory.prototypes.double(), vectors.double()).min(dim=1)
    assert nearest.values.max() < 1e-3
    assert torch.equal(memory.parts, nearest.indices // (6 * 8) % 4)
    assert torch.equal(memory.half_norms, memory.prototypes.square().sum(dim=1) / 2)


def test_frames_without_a_cache_give_the_memory_of_frames_with_one(tmp_path: Path) -> None:
    memories = []
    for megabytes in (0, 100):
        trainer = make_trainer(tmp_path, small_config(augmented=False, cache_megabytes=megabytes))
        trainer.run()
        assert trainer.network.memory is not None
        memories.append(trainer.network.memory)
    first, second = memories
    assert torch.allclose(first.mean, second.mean, atol=1e-5)
    assert torch.cdist(first.prototypes, second.prototypes).amin(dim=1).max() < 0.01


@pytest.mark.parametrize(("stage", "size"), [(1, 8), (2, 8), (3, 2)])
def test_batches_hold_every_frame_and_copy_once_an_epoch(tmp_path: Path, stage: int, size: int) -> None:
    """In the third stage three quarters of a batch are frames with an anomaly, which come from elsewhere."""
    batches = asked_batches(make_trainer(tmp_path, small_config(batch_size=8)), stage, 0)
    drawn = np.concatenate([next(batches)[0] for _ in range(48 // size)]).reshape(4, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in drawn.tolist())
    assert len({tuple(epoch) for epoch in drawn.tolist()}) > 1


def test_batches_larger_than_the_data_set_repeat_frames(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, small_config(batch_size=8, exposure_spread=0), frames=make_frames(3))
    chosen, _ = next(asked_batches(trainer, 1, 0))
    assert len(chosen) == 8
    assert [chosen.count(index) for index in range(3)].count(3) == 2


def test_batches_of_a_later_step_do_not_need_the_earlier_ones(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, small_config())
    from_start, later = asked_batches(trainer, 2, 0), asked_batches(trainer, 2, 5)
    for _ in range(5):
        next(from_start)
    assert next(from_start) == next(later)
    assert next(asked_batches(trainer, 1, 5)) != next(asked_batches(trainer, 2, 5))


@pytest.mark.parametrize(("part", "stage"), [("backbone", 1), ("couplings", 1), ("student", 2), ("evidence_head", 3)])
def test_weights_that_are_not_finite_stop_training_with_stage_step_and_term(
    tmp_path: Path, part: str, stage: int
) -> None:
    config = small_config()
    network = make_network(config)
    next(network.get_submodule(part).parameters()).data.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=f"stage {stage}, step 0: the loss of .* is nan"):
        make_trainer(tmp_path, config, network=network).run()


def test_divergence_on_the_way_is_reported_at_its_step(tmp_path: Path) -> None:
    config = small_config()
    network = make_network(config)

    def poison(task: str, done: int, _: int, values: Mapping[str, float] | None = None) -> None:
        if task.startswith("stage 2") and done == 2 and values:
            network.student.head_8.bias.data.fill_(float("inf"))

    with pytest.raises(NonFiniteLossError, match=r"stage 2, step 2: the loss of 1/8 is (inf|nan)"):
        make_trainer(tmp_path, config, network=network, report=poison).run()


def test_determinism_is_asked_for_in_training_only(tmp_path: Path) -> None:
    seen = []

    def watch(*_: object, **__: object) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())

    make_trainer(tmp_path, small_config(stage1_steps=1, stage2_steps=1, stage3_steps=1), report=watch).run()
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (100, 0), (3, 50), (1, 0), (1, 5)])
def test_schedule_rises_to_one_and_ends_near_zero(steps: int, warmup: int) -> None:
    shares = [_schedule(step, steps, warmup) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    peak = int(np.argmax(shares))
    assert shares[peak] == 1
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    if steps == 100:
        assert shares[-1] < 0.01
        assert shares[0] <= 1 / max(1, warmup)
