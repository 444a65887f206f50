"""What a detector costs: its time for one frame, measured, and its size, counted."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from atsnet.evaluation.scoring import RawScores, score_frames
from atsnet.imaging import UInt8Array
from atsnet.network.summary import summarise
from atsnet.training.run_directory import TrainedRun

TIMED_FRAMES: Final = 50
_WARMUP_FRAMES: Final = 5


class CostReport(BaseModel):
    """Time and size of a network at the size of its frames, one frame at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    threads: int
    """CPU threads that PyTorch computes with."""
    latency_ms: float
    """Median over `latency_frames` frames, from the frame's bytes in memory to its score and map in memory."""
    latency_frames: int
    frame_height: int
    frame_width: int
    parameters: int
    """Learned numbers, the frozen trunk's included."""
    parameter_bytes: int
    """Their size in float32."""
    macs: int
    """Multiply-accumulates of one frame (1 MAC = 2 FLOP)."""


def measure_cost(run: TrainedRun, pixels: UInt8Array) -> CostReport:
    """Time a run's network on the device that it is on, and count it.

    Args:
        run: A finished run.
        pixels: `uint8 [N, H, W, C]`, at least one frame; they take turns.
    """
    counted = summarise(run.config)
    return CostReport(
        device=describe_device(next(run.network.parameters()).device),
        threads=torch.get_num_threads(),
        latency_ms=median_latency(partial(score_frames, run.network), pixels),
        latency_frames=TIMED_FRAMES,
        frame_height=counted.height,
        frame_width=counted.width,
        parameters=counted.parameters,
        parameter_bytes=counted.parameter_bytes,
        macs=counted.macs,
    )


def median_latency(score: Callable[[UInt8Array], RawScores], pixels: UInt8Array) -> float:
    """Median time of `TIMED_FRAMES` frames, one after the other, in milliseconds.

    The answers are on the CPU when `score` returns, so that a GPU has finished too.
    """
    milliseconds = []
    for index in range(_WARMUP_FRAMES + TIMED_FRAMES):
        frame = pixels[index % len(pixels)][np.newaxis]
        began = time.perf_counter()
        score(frame)
        milliseconds.append(1000 * (time.perf_counter() - began))
    return statistics.median(milliseconds[_WARMUP_FRAMES:])


def describe_device(device: torch.device) -> str:
    """A device, in words that belong beside a time."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
