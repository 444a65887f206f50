"""ONNX Runtime on CPUs: N single-threaded sessions, each fed by a thread of its own.

Batching buys nothing on a CPU and threads inside a session cost more than they bring, so parallel single frames on
independent sessions give both the best throughput and a latency that does not depend on the neighbours.
"""

import queue
from typing import Final

import numpy as np
import onnxruntime

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import Bundle, BundleError, Precision
from service.runtimes.protocol import RuntimeDescription, RuntimeUnusableError

_PROVIDER: Final = "CPUExecutionProvider"
_INPUT: Final = "images"
_OUTPUTS: Final = ("score", "anomaly_map")


class OnnxCpuRuntime:
    """Runs a bundle's graph of a precision on `sessions` cores."""

    def __init__(self, sessions: int, precision: Precision = "float32") -> None:
        self._count, self._precision = sessions, precision
        self._idle: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
        self._description: RuntimeDescription | None = None

    def load(self, bundle: Bundle) -> None:
        """Build and warm up the sessions; see `Runtime.load`."""
        try:
            path = bundle.graph(self._precision)
        except BundleError as error:
            raise RuntimeUnusableError(
                f"{error}; set precision to one that it has, or export it anew with `--precision`"
            ) from error
        graph = path.read_bytes()
        manifest = bundle.manifest
        warm_up = np.zeros((1, *manifest.input.frame_shape), np.uint8)
        map_shape = (1, manifest.map_height, manifest.map_width)
        for _ in range(self._count):
            try:
                session = onnxruntime.InferenceSession(graph, _options(), providers=[_PROVIDER])
                _check_provider(session)
                scores, maps = session.run(_OUTPUTS, {_INPUT: warm_up})
            except RuntimeUnusableError:
                raise
            except Exception as error:  # ONNX Runtime's own exceptions share no base but this one
                raise RuntimeUnusableError(f"ONNX Runtime cannot run {path}: {error}") from error
            if scores.shape != (1,) or maps.shape != map_shape:
                raise RuntimeUnusableError(
                    f"{path} answers score {scores.shape} and anomaly_map {maps.shape} to one frame; "
                    f"its manifest says (1,) and {map_shape}"
                )
            self._idle.put(session)
        self._description = RuntimeDescription(
            provider=_PROVIDER,
            precision=self._precision,
            model=manifest.name,
            version=manifest.version,
            lanes=self._count,
            max_batch=1,
        )

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score frames on an idle session; see `Runtime.run`."""
        session = self._idle.get()
        try:
            scores, maps = session.run(_OUTPUTS, {_INPUT: frames})
        finally:
            self._idle.put(session)
        return scores, maps

    def describe(self) -> RuntimeDescription:
        """What was loaded; see `Runtime.describe`."""
        if self._description is None:
            raise RuntimeError("the runtime has not been loaded")
        return self._description

    def close(self) -> None:
        """Drop the idle sessions; see `Runtime.close`."""
        while not self._idle.empty():
            self._idle.get()


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_provider(session: onnxruntime.InferenceSession) -> None:
    # ONNX Runtime falls back to another provider silently; only the session knows what it really runs on.
    providers = session.get_providers()
    if providers[0] != _PROVIDER:
        raise RuntimeUnusableError(f"ONNX Runtime chose {providers[0]}; {_PROVIDER} was asked for")
