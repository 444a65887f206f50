"""Requests and answers of the Open Inference Protocol, version 2, with its extension for binary tensor data.

The protocol is KServe's (https://github.com/kserve/open-inference-protocol), the extension Triton's: a JSON document
whose length a header names, and after it the bytes of those tensors that say so. Nothing here knows the network.
"""

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from atsnet.imaging import Float32Array, UInt8Array

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
MAX_JSON_BYTES: Final = 2 * 1024 * 1024
"""Of the JSON document: reading numbers as text keeps all other requests waiting; see docs/protocols.md."""

Datatype = Literal["UINT8", "BYTES", "FP32"]
Tensor = Float32Array | list[bytes]
"""What is answered: numbers, or byte strings of one dimension."""


class OpenInferenceError(Exception):
    """A request that cannot be answered; the message is for whoever wrote the client.

    Args:
        message: What is wrong, and what to do about it.
        status: HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class TensorMetadata(BaseModel):
    """A tensor that a model takes or gives."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(description="-1 is any number.")


class ModelMetadata(BaseModel):
    """What a client has to know to ask a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ErrorDocument(BaseModel):
    """The body of every error of this protocol."""

    error: str


_Parameters = dict[str, Any]
_Size = Annotated[StrictInt, Field(ge=0)]


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RequestedOutput(_Lenient):
    """An output that the client asks for."""

    name: str
    parameters: _Parameters = {}


class _Input(_Lenient):
    name: str
    shape: tuple[_Size, ...]
    datatype: str
    parameters: _Parameters = {}
    data: Any = None


class _Document(_Lenient):
    id: str | None = None
    parameters: _Parameters = {}
    inputs: tuple[_Input, ...]
    outputs: tuple[RequestedOutput, ...] = ()


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request to a model: frames, or images yet to be made into frames."""

    id: str | None
    parameters: Mapping[str, Any]
    tensor: UInt8Array | list[bytes]
    """`uint8 [N, H, W, C]` for the input `images`, N byte strings for `image`."""
    outputs: tuple[RequestedOutput, ...]

    @property
    def count(self) -> int:
        """How many frames or images."""
        return len(self.tensor)


def decode_request(content: bytes, header_length: str | None, frame_shape: Sequence[int]) -> InferRequest:
    """Read a request.

    Args:
        content: The body.
        header_length: Value of the header `LENGTH_HEADER`, where there is one.
        frame_shape: Of the model's frames, `(height, width, channels)`.

    Raises:
        OpenInferenceError: It is not as the protocol and the model want it.
    """
    length = _json_length(content, header_length)
    if length > MAX_JSON_BYTES:
        limit = f"the JSON document has {length} bytes, at most {MAX_JSON_BYTES} are allowed"
        raise OpenInferenceError(f"{limit}; send the tensors as binary data", 413)
    try:
        document = _Document.model_validate(orjson.loads(memoryview(content)[:length]))
    except orjson.JSONDecodeError as error:
        raise OpenInferenceError(f"the request is no JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OpenInferenceError(f"the request is not as the protocol says: {where}: {first['msg']}") from error
    if len(document.inputs) != 1:
        names = ", ".join(repr(each.name[:80]) for each in document.inputs) or "none"
        raise OpenInferenceError(f"the model takes one input, 'images' or 'image'; the request has: {names}")
    [given] = document.inputs
    _check_parameters(given.name, given.parameters)
    for output in document.outputs:
        _check_parameters(output.name, output.parameters)
    rest = memoryview(content)[length:]
    match given.name:
        case "images":
            tensor: UInt8Array | list[bytes] = _frames(given, rest, frame_shape)
        case "image":
            tensor = _byte_strings(given, rest)
        case _:
            raise OpenInferenceError(f"there is no input {given.name[:80]!r}; have: 'images', 'image'")
    return InferRequest(document.id, document.parameters, tensor, document.outputs)


def encode_answer(
    request: InferRequest, name: str, version: str, outputs: Mapping[str, Tensor]
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its headers; the outputs in their order, each as binary data where it is wished so."""
    wished = {output.name: output.parameters.get("binary_data") for output in request.outputs}
    by_default = bool(request.parameters.get("binary_data_output", False))
    described, blobs = [], []
    for output, tensor in outputs.items():
        is_bytes = isinstance(tensor, list)
        entry: dict[str, Any] = {
            "name": output,
            "datatype": "BYTES" if is_bytes else "FP32",
            "shape": [len(tensor)] if isinstance(tensor, list) else list(tensor.shape),
        }
        binary = wished.get(output)
        if by_default if binary is None else binary:
            blob = _with_lengths(tensor) if isinstance(tensor, list) else tensor.astype("<f4").tobytes()
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = [text.decode() for text in tensor] if isinstance(tensor, list) else tensor.reshape(-1)
        described.append(entry)
    document: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if request.id is not None:
        document["id"] = request.id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return header, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(header))}
    return b"".join([header, *blobs]), headers


def _json_length(content: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(content)
    if not header_length.isascii() or not header_length.isdecimal() or int(header_length[:20]) > len(content):
        raise OpenInferenceError(f"{LENGTH_HEADER} is {header_length[:40]!r}, and the body has {len(content)} bytes")
    return int(header_length)


def _check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    if any(key.startswith("shared_memory") for key in parameters):
        raise OpenInferenceError(
            f"tensor {name[:80]!r}: shared memory is not supported; send and receive the data itself"
        )
    if "classification" in parameters:
        raise OpenInferenceError(f"tensor {name[:80]!r}: the classification extension is not supported")


def _frames(given: _Input, rest: memoryview, frame_shape: Sequence[int]) -> UInt8Array:
    if given.datatype != "UINT8":
        raise OpenInferenceError(f"input 'images' has the datatype {given.datatype[:20]!r}; expected 'UINT8'")
    if len(given.shape) != 4 or given.shape[0] < 1 or given.shape[1:] != tuple(frame_shape):
        wanted = ", ".join(map(str, frame_shape))
        raise OpenInferenceError(f"input 'images' has the shape {list(given.shape)}; expected [N, {wanted}], N from 1")
    size = math.prod(given.shape)
    binary = _binary(given, rest)
    if binary is not None:
        if len(binary) != size:
            raise OpenInferenceError(f"input 'images' has {len(binary)} bytes; its shape needs {size}")
        return np.frombuffer(binary, np.uint8).reshape(given.shape)
    try:
        values = np.array(given.data)
    except ValueError as error:
        raise OpenInferenceError("input 'images': the data are no regular array") from error
    if values.size != size or values.dtype.kind != "i" or values.min() < 0 or values.max() > 255:
        raise OpenInferenceError(f"input 'images': the data are not the {size} integers from 0 to 255 of its shape")
    return values.astype(np.uint8).reshape(given.shape)


def _byte_strings(given: _Input, rest: memoryview) -> list[bytes]:
    if given.datatype != "BYTES":
        raise OpenInferenceError(f"input 'image' has the datatype {given.datatype[:20]!r}; expected 'BYTES'")
    if len(given.shape) not in (1, 2) or given.shape[0] < 1 or given.shape[1:] not in ((), (1,)):
        raise OpenInferenceError(f"input 'image' has the shape {list(given.shape)}; expected [N], N from 1")
    binary = _binary(given, rest)
    strings = _from_text(given.data) if binary is None else _without_lengths(binary)
    if len(strings) != given.shape[0]:
        raise OpenInferenceError(f"input 'image' has {len(strings)} elements; its shape says {given.shape[0]}")
    return strings


def _binary(given: _Input, rest: memoryview) -> memoryview | None:
    """The bytes of an input that came after the JSON document, `None` where its data are in there."""
    size = given.parameters.get("binary_data_size")
    if size is None:
        if len(rest):
            raise OpenInferenceError(f"{len(rest)} bytes follow the JSON document, and no input says that it has any")
        return None
    if given.data is not None:
        raise OpenInferenceError(f"input {given.name[:80]!r} has data and binary_data_size; one of them is too many")
    if size != len(rest):
        raise OpenInferenceError(
            f"binary_data_size is {str(size)[:20]}, and {len(rest)} bytes follow the JSON document"
        )
    return rest


def _from_text(data: Any) -> list[bytes]:
    try:
        texts = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, TypeError, ValueError) as error:
        raise OpenInferenceError("input 'image': the data are no list of base64 texts") from error


def _without_lengths(data: memoryview) -> list[bytes]:
    strings = []
    start = 0
    while start < len(data):
        if start + 4 > len(data):
            raise OpenInferenceError("input 'image': the binary data end within a length")
        (length,) = struct.unpack_from("<I", data, start)
        start += 4
        if start + length > len(data):
            raise OpenInferenceError("input 'image': the binary data end within an element")
        strings.append(bytes(data[start : start + length]))
        start += length
    return strings


def _with_lengths(strings: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in strings)
