"""A model repository for the Triton Inference Server: how a plant with many stations shares its GPUs.

    <directory>/<bundle's name>/
        config.pbtxt
        <number>/model.onnx

Triton numbers versions. A bundle's version is its number where it is one; any other version takes the next free number.
The configuration names the sha256 of each number's graph, and a station asks for the number that carries its own graph:
a server with another model under the same name is found out before the first part. Nothing here has met a Triton
server yet; the configuration is checked against Triton's published schema.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from model_export.batching import BUCKETS
from model_export.bundle import Bundle, Precision

CONFIG_NAME: Final = "config.pbtxt"
GRAPH_NAME: Final = "model.onnx"
SHA256_PARAMETER: Final = "graph_sha256."
"""Start of the names of the parameters that hold the sha256 of each number's graph."""
KEPT_VERSIONS: Final = 2
"""Numbers that the server loads, the highest ones: stations move from one bundle to the next in their own time."""
INSTANCES: Final = 2
"""On each GPU: one copies while the other computes."""


class TritonRepositoryError(Exception):
    """The model repository cannot be written as asked."""


def write_model_repository(bundle: Bundle, directory: Path) -> Path:
    """Put a bundle's graph into a model repository; half precision where the bundle has it.

    Returns:
        The version's directory, `<directory>/<name>/<number>`.

    Raises:
        TritonRepositoryError: The number is taken by another graph, or the directory cannot be written.
    """
    graph = bundle.graph(precision_for_triton(bundle))
    model = directory / bundle.manifest.name
    digests = versions(model)
    wanted = _sha256(graph)
    number = _number(bundle.manifest.version, wanted, digests)
    if digests.get(number, wanted) != wanted:
        raise TritonRepositoryError(f"{model / str(number)} holds another graph; remove it, or export another version")
    target = model / str(number)
    try:
        target.mkdir(parents=True, exist_ok=True)
        part = target / f".{GRAPH_NAME}"
        shutil.copyfile(graph, part)
        part.replace(target / GRAPH_NAME)
        (model / CONFIG_NAME).write_text(model_config(bundle, {**digests, number: wanted}), encoding="utf-8")
    except OSError as error:
        raise TritonRepositoryError(f"{target} cannot be written: {error.strerror}") from error
    return target


def precision_for_triton(bundle: Bundle) -> Precision:
    """Of the graph that goes into a model repository."""
    return "float16" if "float16" in bundle.manifest.graphs else "float32"


def versions(model: Path) -> dict[int, str]:
    """Numbers of a model in a repository, with the sha256 of their graphs."""
    graphs = model.glob(f"*/{GRAPH_NAME}")
    return {int(graph.parent.name): _sha256(graph) for graph in graphs if graph.parent.name.isdecimal()}


def model_config(bundle: Bundle, digests: Mapping[int, str]) -> str:
    """Triton's `ModelConfig` in protobuf's text format.

    Requests wait for nothing but a busy GPU: the batcher has no delay, and takes what came while the last batch ran.
    A request may bring a deadline, after which it is refused and not computed.
    """
    manifest = bundle.manifest
    frame = ", ".join(map(str, manifest.input.frame_shape))
    warm_ups = ",\n".join(
        f'  {{ name: "batch-{bucket}" batch_size: {bucket} inputs {{ key: "images" '
        f"value: {{ data_type: TYPE_UINT8 dims: [ {frame} ] zero_data: true }} }} }}"
        for bucket in BUCKETS
    )
    parameters = "\n".join(
        f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value)} }} }}"
        for key, value in [
            ("precision", precision_for_triton(bundle)),
            *((f"{SHA256_PARAMETER}{number}", digest) for number, digest in sorted(digests.items())),
        ]
    )
    return f"""\
name: {json.dumps(manifest.name)}
backend: "onnxruntime"
default_model_filename: "{GRAPH_NAME}"
max_batch_size: {max(BUCKETS)}
version_policy {{ latest {{ num_versions: {KEPT_VERSIONS} }} }}
input [ {{ name: "images" data_type: TYPE_UINT8 dims: [ {frame} ] }} ]
output [
  {{ name: "score" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ shape: [ ] }} }},
  {{ name: "anomaly_map" data_type: TYPE_FP32 dims: [ {manifest.map_height}, {manifest.map_width} ] }}
]
instance_group [ {{ kind: KIND_GPU count: {INSTANCES} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: 0
  default_queue_policy {{ timeout_action: REJECT allow_timeout_override: true }}
}}
optimization {{
  execution_accelerators {{
    gpu_execution_accelerator [ {{
      name: "cuda"
      parameters {{ key: "cudnn_conv_algo_search" value: "HEURISTIC" }}
      parameters {{ key: "use_tf32" value: "0" }}
    }} ]
  }}
}}
model_warmup [
{warm_ups}
]
{parameters}
"""


def _number(version: str, digest: str, digests: Mapping[int, str]) -> int:
    if version.isdecimal() and int(version) > 0:
        return int(version)
    known = [number for number, found in digests.items() if found == digest]
    return known[0] if known else max(digests, default=0) + 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
