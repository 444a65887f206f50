"""What every contestant does with an image: decode, make a frame, run the network, judge the score. No records."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atsnet.imaging import Float32Array, UInt8Array, decode, to_frame
from benchmarks.graph import INPUT, OUTPUTS, open_session
from model_export.bundle import load_bundle


@dataclass(frozen=True, slots=True)
class Options:
    """How a contestant is set up; in variables, so that processes that it starts know too."""

    weights: Path
    bundle: str
    port: int
    sessions: int
    """Frames, or batches, that are computed at the same time."""
    max_batch: int
    workers: int
    """Processes that answer HTTP."""
    var: Path
    """A directory to write to."""

    def variables(self) -> dict[str, str]:
        """To be set for the contestant's process."""
        return {f"BENCHMARK_{name.upper()}": str(getattr(self, name)) for name in self.__slots__}


def options() -> Options:
    """Of this process."""
    given = {name: os.environ[f"BENCHMARK_{name.upper()}"] for name in Options.__slots__}
    return Options(
        weights=Path(given["weights"]),
        bundle=given["bundle"],
        port=int(given["port"]),
        sessions=int(given["sessions"]),
        max_batch=int(given["max_batch"]),
        workers=int(given["workers"]),
        var=Path(given["var"]),
    )


class Inspection:
    """A bundle's network, single-threaded, with what lies before and behind it."""

    def __init__(self, chosen: Options) -> None:
        bundle = load_bundle(chosen.weights / chosen.bundle)
        self._manifest = bundle.manifest
        precision: Any = os.environ.get("ATSNET_PRECISION", "float32")
        self._session = open_session(bundle.graph(precision))

    def frame(self, data: bytes) -> UInt8Array:
        """The frame of an image file, `uint8 [H, W, C]`."""
        return to_frame(decode(data), self._manifest.input).pixels

    def scores(self, frames: UInt8Array) -> Float32Array:
        """Raw scores of `uint8 [N, H, W, C]`; the anomaly maps are computed too."""
        scores, _ = self._session.run(OUTPUTS, {INPUT: frames})
        return np.asarray(scores, np.float32)

    def reply(self, score: float) -> dict[str, float | str]:
        """What is answered."""
        calibration = self._manifest.calibration
        return {"verdict": calibration.verdict(score), "score": score / calibration.score_threshold}

    def inspect(self, data: bytes) -> dict[str, float | str]:
        """From image file to answer."""
        return self.reply(float(self.scores(self.frame(data)[np.newaxis])[0]))
