"""What every baseline does: learn from normal frames, score frames, and say what it stores."""

from dataclasses import dataclass
from typing import Protocol

from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import UInt8Array
from atsnet.progress import Reporter, silent


@dataclass(frozen=True, slots=True)
class DetectorSize:
    """What a fitted detector stores and computes."""

    trunk: int
    """Numbers of the frozen trunk."""
    learned: int
    """Numbers stored beside it: weights of a student, a memory bank, means and covariances."""
    macs: int | None
    """Multiply-accumulates (1 MAC = 2 FLOP) for one frame; None where they are not known."""

    @property
    def parameters(self) -> int:
        """All numbers stored."""
        return self.trunk + self.learned

    @property
    def bytes(self) -> int:
        """Their size in float32."""
        return 4 * self.parameters


class Detector(Protocol):
    """Learns from normal frames alone, then scores frames.

    Frames are `uint8 [N, H, W, C]` as `atsnet.imaging` makes them; their last channel says what is inspected, and
    nothing else has a part in memories, statistics, losses and scores.
    """

    def fit(self, train: UInt8Array, holdout: UInt8Array, report: Reporter = silent) -> None:
        """Learn from normal frames.

        Args:
            train: The frames to learn from.
            holdout: Normal frames kept apart, for what must not be learned on `train`; may be empty.
            report: Told how far it is.

        Raises:
            ValueError: There is nothing to learn from.
        """

    def score(self, pixels: UInt8Array, report: Reporter = silent) -> RawScores:
        """Score frames; maps are 0 where nothing is inspected.

        Raises:
            NotFittedError: `fit` has not been called.
        """

    def size(self) -> DetectorSize:
        """What the fitted detector stores and computes.

        Raises:
            NotFittedError: `fit` has not been called.
        """


class NotFittedError(RuntimeError):
    """A detector was asked for scores before it learned anything."""
