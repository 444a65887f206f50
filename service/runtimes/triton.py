"""A remote Triton Inference Server over gRPC: a station without a GPU of its own.

The server has to prove at load that it has the very graph that the bundle was validated with, and the start-up
self-test goes through it like every other runtime. Tested against a server of the tests' own; no Triton server was at
hand. Needs the extra `triton`.
"""

import queue
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import Bundle, Precision
from model_export.triton import SHA256_PARAMETER, precision_for_triton
from service.runtimes.protocol import RuntimeDescription, RuntimeUnusableError

_INPUT: Final = "images"
_OUTPUTS: Final = ("score", "anomaly_map")


class RemoteError(Exception):
    """The server did not answer as it should; the message says which server, and how."""


class TritonConnection(Protocol):
    """The calls to one server; used by one thread at a time. All raise `RemoteError`."""

    def is_ready(self, model: str) -> bool:
        """Whether server and model are."""

    def config(self, model: str) -> Mapping[str, Any]:
        """The model's `ModelConfig` as JSON."""

    def metadata(self, model: str, version: str) -> Mapping[str, Any]:
        """The model's `ModelMetadata` as JSON."""

    def infer(
        self, model: str, version: str, frames: UInt8Array, timeout_s: float
    ) -> tuple[Float32Array, Float32Array]:
        """Outputs `score` and `anomaly_map` as the server shapes them."""

    def close(self) -> None:
        """Hang up."""


class TritonRuntime:
    """Sends batches to a server; see `Runtime`.

    Args:
        url: `host:port` of its gRPC endpoint.
        timeout_s: Deadline of one batch, waiting in the server included.
        lanes: Batches under way at once, each on a connection of its own.
        connect: Makes a connection; by default of tritonclient's.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        lanes: int = 4,
        connect: Callable[[str], TritonConnection] | None = None,
    ) -> None:
        self._url, self._timeout_s, self._lanes = url, timeout_s, lanes
        self._connect = connect or connect_triton
        self._idle: queue.SimpleQueue[TritonConnection] = queue.SimpleQueue()
        self._open: list[TritonConnection] = []
        self._version = ""
        self._description: RuntimeDescription | None = None

    def load(self, bundle: Bundle) -> None:
        """Find the bundle's graph on the server; see `Runtime.load`."""
        manifest = bundle.manifest
        precision = precision_for_triton(bundle)
        try:
            self._open = [self._connect(self._url) for _ in range(self._lanes)]
            first = self._open[0]
            if not first.is_ready(manifest.name):
                raise RuntimeUnusableError(f"Triton at {self._url} has no model {manifest.name!r} that is ready")
            config = first.config(manifest.name)
            self._version = find_version(config, bundle, precision, self._url)
            check_metadata(first.metadata(manifest.name, self._version), bundle, self._url)
            frame = np.zeros((1, *manifest.input.frame_shape), np.uint8)
            for connection in self._open:
                connection.infer(manifest.name, self._version, frame, self._timeout_s)
                self._idle.put(connection)
        except RemoteError as error:
            self.close()
            raise RuntimeUnusableError(str(error)) from error
        except BaseException:
            self.close()
            raise
        self._description = RuntimeDescription(
            provider=f"Triton {self._url}",
            precision=precision,
            model=manifest.name,
            version=manifest.version,
            lanes=self._lanes,
            max_batch=max(1, int(config.get("max_batch_size", 1))),
        )

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score frames remotely; see `Runtime.run`.

        Raises:
            RemoteError: The server did not answer in time, or not at all.
        """
        model = self.describe().model
        connection = self._idle.get()
        try:
            scores, maps = connection.infer(model, self._version, np.ascontiguousarray(frames), self._timeout_s)
        finally:
            self._idle.put(connection)
        if len(scores) != len(frames) or len(maps) != len(frames):
            raise RemoteError(f"Triton at {self._url} answered {len(scores)} scores to {len(frames)} frames")
        return scores.reshape(len(frames)), maps

    def describe(self) -> RuntimeDescription:
        """What was loaded; see `Runtime.describe`."""
        if self._description is None:
            raise RuntimeError("the runtime has not been loaded")
        return self._description

    def close(self) -> None:
        """Hang up; see `Runtime.close`."""
        while self._open:
            self._open.pop().close()
        self._idle = queue.SimpleQueue()


def find_version(config: Mapping[str, Any], bundle: Bundle, precision: Precision, url: str) -> str:
    """The server's number for the graph of a bundle, by the sha256 that its configuration names.

    Raises:
        RuntimeUnusableError: It has none.
    """
    name = bundle.manifest.graphs[precision]
    wanted = bundle.manifest.files[name].sha256
    found = {
        key.removeprefix(SHA256_PARAMETER): str(value.get("string_value", ""))
        for key, value in config.get("parameters", {}).items()
        if key.startswith(SHA256_PARAMETER)
    }
    for version, sha256 in found.items():
        if sha256 == wanted:
            return str(version)
    have = ", ".join(f"{version}: {sha256[:12]}…" for version, sha256 in sorted(found.items())) or "none with a sha256"
    raise RuntimeUnusableError(
        f"Triton at {url} has not the graph of {bundle.path} (sha256 {wanted[:12]}…), but {have}; put it into "
        f"the server's model repository with `atsnet deploy {bundle.path} --triton DIR`"
    )


def check_metadata(metadata: Mapping[str, Any], bundle: Bundle, url: str) -> None:
    """Compare the names, types and shapes that a server promises with the bundle's.

    Raises:
        RuntimeUnusableError: They differ.
    """
    manifest = bundle.manifest
    expected = {
        _INPUT: ("UINT8", [-1, *manifest.input.frame_shape]),
        "score": ("FP32", [-1, 1]),
        "anomaly_map": ("FP32", [-1, manifest.map_height, manifest.map_width]),
    }
    tensors = [*metadata.get("inputs", ()), *metadata.get("outputs", ())]
    found = {str(t["name"]): (str(t["datatype"]), [int(size) for size in t["shape"]]) for t in tensors}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise RuntimeUnusableError(
            f"Triton at {url} serves {manifest.name} otherwise than the bundle says: "
            + "; ".join(f"{name} is {found.get(name)}, expected {expected.get(name)}" for name in wrong)
        )


def connect_triton(url: str) -> TritonConnection:
    """A connection by tritonclient.

    Raises:
        RuntimeUnusableError: tritonclient is not installed.
    """
    try:
        from tritonclient import grpc
    except ImportError as error:
        raise RuntimeUnusableError(
            f"the runtime 'triton' needs tritonclient: {error}; install 'atsnet[triton]'"
        ) from error
    return _GrpcConnection(grpc, url)


class _GrpcConnection:
    """See `TritonConnection`."""

    _CALL_S: Final = 5.0

    def __init__(self, grpc: Any, url: str) -> None:
        self._grpc, self._url = grpc, url
        self._client = grpc.InferenceServerClient(url)

    def is_ready(self, model: str) -> bool:
        return bool(
            self._call(lambda: self._client.is_server_ready(client_timeout=self._CALL_S))
            and self._call(lambda: self._client.is_model_ready(model, client_timeout=self._CALL_S))
        )

    def config(self, model: str) -> Mapping[str, Any]:
        answer = self._call(lambda: self._client.get_model_config(model, as_json=True, client_timeout=self._CALL_S))
        config: Mapping[str, Any] = answer["config"]
        return config

    def metadata(self, model: str, version: str) -> Mapping[str, Any]:
        metadata: Mapping[str, Any] = self._call(
            lambda: self._client.get_model_metadata(model, version, as_json=True, client_timeout=self._CALL_S)
        )
        return metadata

    def infer(
        self, model: str, version: str, frames: UInt8Array, timeout_s: float
    ) -> tuple[Float32Array, Float32Array]:
        images = self._grpc.InferInput(_INPUT, list(frames.shape), "UINT8")
        images.set_data_from_numpy(frames)
        result = self._call(
            lambda: self._client.infer(
                model,
                [images],
                model_version=version,
                outputs=[self._grpc.InferRequestedOutput(name) for name in _OUTPUTS],
                timeout=int(timeout_s * 1e6),
                client_timeout=timeout_s,
            )
        )
        scores, maps = (result.as_numpy(name) for name in _OUTPUTS)
        if scores is None or maps is None:
            raise RemoteError(f"Triton at {self._url} answered without score or anomaly map")
        return scores, maps

    def close(self) -> None:
        self._client.close()

    def _call(self, call: Callable[[], Any]) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            reason = {
                "DEADLINE_EXCEEDED": "did not answer in time",
                "UNAVAILABLE": "cannot be reached",
            }.get(status, f"refused ({status})")
            raise RemoteError(f"Triton at {self._url} {reason}: {error.message()}") from error
