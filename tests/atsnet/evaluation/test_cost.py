from pathlib import Path

import numpy as np
import torch

from atsnet.config import Config
from atsnet.evaluation.cost import TIMED_FRAMES, describe_device, measure_cost, median_latency
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.network.summary import summarise
from atsnet.training.run_directory import BackboneSource, DataSource, RunRecord, TrainedRun


def test_frames_are_timed_one_at_a_time_and_take_turns() -> None:
    frames = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    seen: list[int] = []

    def score(frame: UInt8Array) -> RawScores:
        assert frame.shape == (1, 1, 1, 1)
        seen.append(int(frame.item()))
        return RawScores(np.zeros(1, np.float32), np.zeros((1, 1, 1), np.float32))

    assert median_latency(score, frames) >= 0
    assert len(seen) > TIMED_FRAMES
    assert seen[:4] == [0, 1, 2, 0]


def test_a_device_is_named() -> None:
    assert describe_device(torch.device("cpu")).startswith("CPU (")


def test_the_cost_is_that_of_the_configuration() -> None:
    config = Config.model_validate(
        {"input": {"height": 64, "width": 64, "color": "mono"}, "network": {"window": 4, "grid": 4}}
    )
    record = RunRecord(
        atsnet_version="0",
        torch_version="0",
        backbone=BackboneSource(name="none", sha256="", licence="", origin=""),
        data=DataSource(layout="mvtec", root="parts", train_images=(), holdout_images=(), sha256=""),
        losses={},
        seconds=0.0,
    )
    run = TrainedRun(Path(), AtsNet(config.network, config.input).eval(), config, record)
    cost = measure_cost(run, np.zeros((2, 64, 64, 2), np.uint8))
    counted = summarise(config)
    assert (cost.parameters, cost.parameter_bytes, cost.macs) == (
        counted.parameters,
        counted.parameter_bytes,
        counted.macs,
    )
    assert (cost.frame_height, cost.frame_width, cost.latency_frames) == (64, 64, TIMED_FRAMES)
    assert cost.threads == torch.get_num_threads()
    assert cost.latency_ms > 0
