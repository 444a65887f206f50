"""Training on normal frames: first the teacher's coupling, then the student against the frozen teacher.

The memory of prototypes is filled between the two; it learns nothing by gradient. Where there is an evidence head, it
learns in a third stage, from anomalies pasted on the same frames.
"""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from atsnet.config import Config
from atsnet.data.augment import expose
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import MAP_STRIDE, AtsNet
from atsnet.network.memory import MEMORY_STRIDE
from atsnet.progress import Reporter, silent
from atsnet.training.checkpoint import Position, load_checkpoint, restore_optimizer, save_checkpoint
from atsnet.training.fitting import fit_anomaly_map
from atsnet.training.frozen_features import FeatureBatch, FrozenFeatures
from atsnet.training.losses import student_terms, teacher_terms, total_loss
from atsnet.training.pasted import PastedAnomalies, normal_count
from atsnet.training.precision import bfloat16_pays

_LOSS_MEMORY = 0.95
_STAGES = {1: "stage 1 (teacher)", 2: "stage 2 (student)", 3: "stage 3 (evidence head)"}
_REMEMBERED_POSITIONS = 131_072
"""Positions among which the memory's prototypes are chosen, as many of each frame."""


class Trainer:
    """Trains one network on frames held in memory.

    The same configuration, frames and trunk give the same bits on one machine, also when training is interrupted
    and resumed from a checkpoint in between.

    Notes:
        Only ever run on CPUs so far; the device is passed through, but no GPU has trained with it yet.
    """

    def __init__(
        self,
        network: AtsNet,
        config: Config,
        train_frames: UInt8Array,
        holdout_frames: UInt8Array,
        directory: Path,
        device: torch.device,
        report: Reporter = silent,
    ) -> None:
        """Frames are `uint8 [N, H, W, C]` as `atsnet.imaging` makes them; checkpoints go to `directory`."""
        self.network = network.to(device)
        # Convolutions run up to twice as fast on a CPU with the channels last.
        for parameter in self.network.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.config, self.directory, self.device, self.report = config, directory, device, report
        self.train_frames, self.holdout_frames = train_frames, holdout_frames
        self._parts = np.arange(len(train_frames))
        spread = config.training.exposure_spread
        if spread:
            exposed = expose(train_frames, spread, np.random.default_rng((config.training.seed, 5)))
            self.train_frames, self._parts = np.concatenate([train_frames, exposed]), np.tile(self._parts, 2)
        self._half = config.training.bfloat16 and bfloat16_pays(device)
        self._features: FrozenFeatures | None = None
        self._pasted: PastedAnomalies | None = None
        self.losses: dict[str, float] = {}
        self.seconds = 0.0

    def run(self, *, resume: bool = False) -> None:
        """Train all stages and fit the anomaly map; leaves the network in eval mode, and the last checkpoint.

        Raises:
            NonFiniteLossError: A loss term became NaN or infinite.
            RunError: There is no usable checkpoint to resume from.
        """
        # cuBLAS is deterministic only with a workspace of its own; the setting is read at its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            self._run(resume)
        finally:
            torch.use_deterministic_algorithms(before)

    def _run(self, resume: bool) -> None:
        start = Position(stage=1, step=0, losses={}, seconds=0.0)
        states: dict[int, dict[str, Tensor]] = {}
        if resume:
            start, states = load_checkpoint(self.directory, self.network)
        self.losses, self.seconds = dict(start.losses), start.seconds
        self._features = FrozenFeatures(
            self.network, self.config, self.train_frames, self.device, self.report, parts=self._parts
        )
        for stage in (1, 2, 3) if self.network.evidence_head else (1, 2):
            if stage == 2:
                # Again where training is resumed: the same prototypes, and from which parts they are.
                self._fill_memory(self._features)
                self._features.look_up(self.report)
            if stage == 3:
                self._pasted = PastedAnomalies(
                    self.network, self.config, self.train_frames, self.device, self.report, parts=self._parts
                )
            if stage >= start.stage:
                first = start.step if stage == start.stage else 0
                self._run_stage(stage, first, states if stage == start.stage else {})
        self.network.eval()
        fit_anomaly_map(self.network, self.holdout_frames, self.config.training.batch_size, self.report)

    def _run_stage(self, stage: int, first: int, states: dict[int, dict[str, Tensor]]) -> None:
        training = self.config.training
        steps, rate = {
            1: (training.stage1_steps, training.stage1_learning_rate),
            2: (training.stage2_steps, training.stage2_learning_rate),
            3: (training.stage3_steps, training.stage3_learning_rate),
        }[stage]
        learner = self._learner(stage)
        self.network.requires_grad_(False)
        learner.requires_grad_(True)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=rate, weight_decay=training.weight_decay)
        if states:
            restore_optimizer(optimizer, states)
        self.network.train()
        began = time.monotonic() - self.seconds
        for step, batch in zip(range(first, steps), self._batches(stage, first), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * _schedule(step, steps, training.warmup_steps)
            terms = self._terms(stage, step, batch)
            if terms:  # without a coupling there is nothing to learn in stage 1 but the moving averages
                loss = total_loss(terms, stage, step)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
                optimizer.step()
            self._remember(stage, terms)
            self.seconds = time.monotonic() - began
            position = Position(stage, step + 1, dict(self.losses), self.seconds)
            try:
                self.report(
                    _STAGES[stage],
                    step + 1,
                    steps,
                    {"loss": sum(self.losses[f"stage{stage} {term}"] for term in terms)},
                )
            except KeyboardInterrupt:  # whoever watches wants to stop; between two steps the state is whole
                save_checkpoint(self.directory, self.network, optimizer, position)
                raise
            if (step + 1) % training.checkpoint_every == 0 or step + 1 == steps:
                save_checkpoint(self.directory, self.network, optimizer, position)

    def _learner(self, stage: int) -> nn.Module:
        """What a stage trains."""
        learners = {1: self.network.couplings, 2: self.network.student, 3: self.network.evidence_head}
        learner = learners[stage]
        assert learner is not None
        return learner

    def _batches(self, stage: int, first: int) -> Iterator[FeatureBatch]:
        """Endless batches from step `first` on: whole random orders of all frames, one after the other."""
        count, size, seed = len(self.train_frames), self.config.training.batch_size, self.config.training.seed
        if stage == 3:
            size = normal_count(size)
        step = first
        assert self._features is not None
        while True:
            positions = np.arange(step * size, (step + 1) * size)
            epochs = range(positions[0] // count, positions[-1] // count + 1)
            orders = {e: np.random.default_rng((seed, stage, e)).permutation(count) for e in epochs}
            chosen = [orders[epoch][index] for epoch, index in zip(*np.divmod(positions, count), strict=True)]
            rng = np.random.default_rng((seed, stage, 1, step))
            yield self._features.batch(np.asarray(chosen), rng)
            step += 1

    def _terms(self, stage: int, step: int, batch: FeatureBatch) -> dict[str, Tensor]:
        torch.manual_seed(np.random.SeedSequence((self.config.training.seed, stage, step)).generate_state(1)[0].item())
        network = self.network
        if stage == 1:
            network.update_norms(batch.raw)
            return teacher_terms(network, network.standardise(batch.raw)) if self.config.network.coupling else {}
        if stage == 3:
            assert self._pasted is not None
            return {"evidence": self._pasted.loss(step, batch, half=self._half)}
        with torch.no_grad():
            features = network.standardise(batch.raw)
            teacher = network.latents(features)
            recollection = network.memory(batch.raw, batch.nearest) if network.memory else None
        with self._fast():
            student = network.predict(features, recollection)
        return student_terms(teacher, student, batch.inspect, self.config.training.hard_fraction)

    @torch.no_grad()
    def _fill_memory(self, source: FrozenFeatures) -> None:
        memory = self.network.memory
        if memory is None:
            return
        seed, count, size = self.config.training.seed, len(self.train_frames), self.config.training.batch_size
        rng, kept = np.random.default_rng((seed, 3)), max(1, _REMEMBERED_POSITIONS // count)
        positions, parts = [], []
        for start in range(0, count, size):
            index = np.arange(start, min(start + size, count))
            batch = source.batch(index, rng)
            stride = MEMORY_STRIDE // MAP_STRIDE
            masks = batch.inspect[:, ::stride, ::stride]
            for part, described, mask in zip(self._parts[index], memory.describe(batch.raw), masks, strict=True):
                inspected = described[:, mask > 0].T
                chosen = rng.permutation(len(inspected))[:kept]
                positions.append(inspected[torch.from_numpy(np.sort(chosen)).to(self.device)])
                parts.append(torch.full((len(chosen),), int(part), device=self.device))
            self.report("gathering prototypes", min(start + size, count), count)
        memory.fit(torch.cat(positions), seed, self.report, parts=torch.cat(parts))

    def _fast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _remember(self, stage: int, terms: dict[str, Tensor]) -> None:
        for name, term in terms.items():
            key = f"stage{stage} {name}"
            value = term.item()
            self.losses[key] = _LOSS_MEMORY * self.losses.get(key, value) + (1 - _LOSS_MEMORY) * value


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate: linear warm-up, then a cosine down to zero."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
