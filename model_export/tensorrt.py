"""TensorRT engines: built on the machine that runs them, from the bundle's half-precision graph, and never mistaken.

An engine holds for one graph, one version of TensorRT, one kind of GPU and one set of batch sizes. It is kept under a
name made of all four; one that was made for anything else is refused with what differs. Before an engine is kept it has
to answer the bundle's golden samples, or whatever stricter gate the caller brings.

Nothing here calls TensorRT: what does is behind `TensorRt`, in `model_export.tensorrt_calls`.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from atsnet.imaging import Float32Array, UInt8Array, read_image, to_frame
from model_export.batching import BUCKETS, Lane, run_padded
from model_export.bundle import Bundle, Precision

PRECISION: Final[Precision] = "float16"
"""Of the graph that engines are built from."""
OLDEST: Final = (10, 1)
"""TensorRT that builds strongly typed networks, and lets contexts share their memory; 11 builds no others."""


class TensorRtError(Exception):
    """TensorRT is missing, too old, cannot build the graph, or an engine is not the one that is needed."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What an engine runs on."""

    name: str
    compute_capability: str
    tensorrt_version: str


class EngineKey(BaseModel):
    """All that an engine holds for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph_sha256: str
    tensorrt_version: str
    gpu: str
    compute_capability: str
    buckets: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Short name of the key."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def differences(self, wanted: "EngineKey") -> str:
        """What of this key is not as wanted, in words."""
        mine, theirs = self.model_dump(), wanted.model_dump()
        return "; ".join(f"{name} {mine[name]}, here {theirs[name]}" for name in mine if mine[name] != theirs[name])


class EngineRecord(BaseModel):
    """What is kept beside an engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    key: EngineKey
    engine_sha256: str


class TensorRt(Protocol):
    """The calls into TensorRT and CUDA."""

    @property
    def gpu(self) -> Gpu:
        """The GPU that they go to."""

    def build(
        self, graph: bytes, frame_shape: tuple[int, int, int], buckets: Sequence[int], timing_cache: bytes
    ) -> tuple[bytes, bytes]:
        """Build an engine with a profile for each bucket; the timing cache may be empty.

        Returns:
            The engine, and the timing cache with what was learned.

        Raises:
            TensorRtError: The graph cannot be built.
        """

    def open(self, engine: bytes, bundle: Bundle, buckets: Sequence[int], lanes: int) -> Sequence[Lane]:
        """Load an engine and capture every bucket on every lane.

        Raises:
            TensorRtError: The engine cannot be loaded here.
        """


class LaneScorer:
    """A lane as the parity gate wants it; see `model_export.scorers.Scorer`."""

    def __init__(self, lane: Lane, buckets: Sequence[int], description: str) -> None:
        self._lane, self._buckets, self._description = lane, buckets, description

    @property
    def description(self) -> str:
        """What computes."""
        return self._description

    def __call__(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Raw scores and calibrated maps of frames."""
        return run_padded(self._lane, frames, self._buckets)


Gate = Callable[[Bundle, LaneScorer], None]
"""Raises when an engine must not be kept."""


def check_version(version: str) -> None:
    """Refuse a TensorRT that is too old.

    Raises:
        TensorRtError: It is.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise TensorRtError(
            f"TensorRT {version} is too old: engines are built strongly typed from the half-precision graph, which "
            f"takes TensorRT {OLDEST[0]}.{OLDEST[1]} or newer, 11 included"
        )


def check_golden_samples(bundle: Bundle, scorer: LaneScorer) -> None:
    """The gate of a station, which has no images but the bundle's own.

    Raises:
        GoldenMismatchError: An answer is not what the bundle was validated with.
    """
    for sample in bundle.manifest.golden_samples:
        frame = to_frame(read_image(bundle.file(sample.image)), bundle.manifest.input)
        scores, maps = scorer(frame.pixels[np.newaxis])
        bundle.check_answer(sample, float(scores[0]), maps[0], PRECISION)


class EngineCache:
    """Engines in a directory, each with a record of what it holds for.

    Args:
        directory: Made when it is needed.
        tensorrt: The calls.
        buckets: Batch sizes.
    """

    def __init__(self, directory: Path, tensorrt: TensorRt, buckets: Sequence[int] = BUCKETS) -> None:
        self._directory, self._tensorrt = directory, tensorrt
        self._buckets = tuple(sorted(buckets))

    def key(self, bundle: Bundle) -> EngineKey:
        """What an engine for a bundle must hold for, here and now.

        Raises:
            TensorRtError: The bundle has no half-precision graph.
        """
        name = bundle.manifest.graphs.get(PRECISION)
        if name is None:
            raise TensorRtError(f"{bundle.path} has no {PRECISION} graph; export it with --precision fp32,fp16")
        gpu = self._tensorrt.gpu
        return EngineKey(
            graph_sha256=bundle.manifest.files[name].sha256,
            tensorrt_version=gpu.tensorrt_version,
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            buckets=self._buckets,
        )

    def path(self, bundle: Bundle) -> Path:
        """Where the engine for a bundle is or would be."""
        manifest = bundle.manifest
        return self._directory / f"{manifest.name}-{manifest.version}-{self.key(bundle).digest}.engine"

    def find(self, bundle: Bundle) -> bytes | None:
        """The engine for a bundle, if it was built.

        Raises:
            TensorRtError: It is there and is not what its record says, or the record is not what is needed.
        """
        path = self.path(bundle)
        if not path.exists():
            return None
        record = _read_record(path)
        content = path.read_bytes()
        if record.key != self.key(bundle):
            raise TensorRtError(f"{path} is stale: {record.key.differences(self.key(bundle))}; remove it")
        if hashlib.sha256(content).hexdigest() != record.engine_sha256:
            raise TensorRtError(f"{path} is not the engine that was built: its sha256 is another; remove it")
        return content

    def build(self, bundle: Bundle, gate: Gate = check_golden_samples) -> bytes:
        """Build an engine, let it pass the gate, and keep it.

        Raises:
            TensorRtError: It cannot be built or kept.
            BundleError: It does not answer the golden samples as it must; it was not kept.
        """
        path, key = self.path(bundle), self.key(bundle)
        timings = self._directory / f"timings-{_word(key.gpu)}-{_word(key.tensorrt_version)}.cache"
        known = timings.read_bytes() if timings.exists() else b""
        graph = bundle.graph(PRECISION).read_bytes()
        engine, learned = self._tensorrt.build(graph, bundle.manifest.input.frame_shape, self._buckets, known)
        lanes = self._tensorrt.open(engine, bundle, self._buckets, 1)
        try:
            gate(bundle, LaneScorer(lanes[0], self._buckets, f"TensorRT {key.tensorrt_version}, {key.gpu}"))
        finally:
            for lane in lanes:
                lane.close()
        record = EngineRecord(
            bundle=f"{bundle.manifest.name}/{bundle.manifest.version}",
            key=key,
            engine_sha256=hashlib.sha256(engine).hexdigest(),
        )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            _replace(timings, learned)
            _replace(_record_path(path), (record.model_dump_json(indent=2) + "\n").encode())
            _replace(path, engine)  # last: an engine that is there has a record
        except OSError as error:
            raise TensorRtError(f"{self._directory} cannot be written: {error.strerror}") from error
        return engine

    def obtain(self, bundle: Bundle, *, build: bool) -> bytes:
        """The engine for a bundle, built now if it has to be and may be.

        Raises:
            TensorRtError: There is none and none may be built, or it cannot be; the message says what others are for.
            BundleError: A new one does not answer as it must.
        """
        engine = self.find(bundle)
        if engine is not None:
            return engine
        if build:
            return self.build(bundle)
        lines = [
            f"there is no engine for {bundle.path} in {self._directory}; set build_engine to build it at the start, or "
            f"build it on this machine with `atsnet deploy {bundle.path} --tensorrt --engines {self._directory}`"
        ]
        lines += [f"  {path.name} is for another: {found}" for path, found in self._others(bundle)]
        raise TensorRtError("\n".join(lines))

    def _others(self, bundle: Bundle) -> list[tuple[Path, str]]:
        manifest, wanted = bundle.manifest, self.key(bundle)
        paths = sorted(self._directory.glob(f"{manifest.name}-{manifest.version}-*.engine"))
        return [(path, _read_record(path).key.differences(wanted)) for path in paths]


def _record_path(engine: Path) -> Path:
    return engine.with_suffix(".json")


def _read_record(engine: Path) -> EngineRecord:
    path = _record_path(engine)
    try:
        return EngineRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TensorRtError(f"{engine} has no record {path.name} ({error.strerror}); remove it") from error
    except ValidationError as error:
        raise TensorRtError(f"{path} is not a valid record: {error}; remove it and the engine") from error


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")
