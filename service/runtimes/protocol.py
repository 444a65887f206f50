"""What the service asks of anything that runs the network."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import Bundle, Precision


class RuntimeUnusableError(Exception):
    """The runtime cannot serve the bundle as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class RuntimeDescription:
    """What runs, and how it wants its work."""

    provider: str
    precision: Precision
    """Of the bundle's graph that runs."""
    model: str
    version: str
    lanes: int
    """Calls of `run` that make progress at the same time."""
    max_batch: int
    """Most frames in one call of `run`."""


class Runtime(Protocol):
    """Runs one bundle's network. `load` comes first; `run` may then be called from `lanes` threads at once."""

    def load(self, bundle: Bundle) -> None:
        """Make ready, warm-up included.

        Raises:
            RuntimeUnusableError: The bundle's graph or this machine is not what is needed.
        """

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score frames, `uint8 [N, H, W, C]` with the inspection mask as the last channel.

        Returns:
            Raw scores `float32 [N]` and calibrated anomaly maps `float32 [N, h, w]`.
        """

    def describe(self) -> RuntimeDescription:
        """What was loaded."""

    def close(self) -> None:
        """Give back what `load` took; harmless when called twice."""


@runtime_checkable
class PreparedRuntime(Runtime, Protocol):
    """A runtime that needs something which takes minutes to make, once for each bundle."""

    def is_prepared(self, bundle: Bundle) -> bool:
        """Whether it is there, and `load` does not take minutes.

        Raises:
            RuntimeUnusableError: It cannot be made, or what is there is not what is needed.
        """

    def prepare(self, bundle: Bundle) -> None:
        """Make it, beside whatever else runs; `close` from another thread gives it up.

        Raises:
            RuntimeUnusableError: It could not be made.
        """
