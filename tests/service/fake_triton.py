"""A Triton server of the tests' own, over gRPC, with Triton's published messages; its model is brightness."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format
from serving import MAP_SIZE, SCORE_THRESHOLD
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, config: str) -> None:
        self.model = text_format.Parse(config, model_config_pb2.ModelConfig())
        self.ready = True
        self.delay_s = 0.0
        self.answers = 0
        """Scores to answer instead of as many as frames, if more than 0."""
        self.requests: list[Any] = []

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return service_pb2.ModelReadyResponse(ready=self.ready and request.name == self.model.name)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return service_pb2.ModelConfigResponse(config=self.model)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        def tensors(found: Any) -> list[Any]:
            return [
                service_pb2.ModelMetadataResponse.TensorMetadata(
                    name=tensor.name,
                    datatype={model_config_pb2.TYPE_UINT8: "UINT8", model_config_pb2.TYPE_FP32: "FP32"}[
                        tensor.data_type
                    ],
                    shape=[-1, *tensor.dims],
                )
                for tensor in found
            ]

        return service_pb2.ModelMetadataResponse(
            name=self.model.name, inputs=tensors(self.model.input), outputs=tensors(self.model.output)
        )

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self.requests.append(request)
        time.sleep(self.delay_s)
        (images,) = request.inputs
        frames = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(images.shape)
        cells = frames[..., 0].astype(np.float32).reshape(-1, MAP_SIZE, 8, MAP_SIZE, 8).mean(axis=(2, 4)) / 128
        scores = (cells.max(axis=(1, 2)) * SCORE_THRESHOLD)[:, None]
        if self.answers:
            scores, cells = scores[: self.answers], cells[: self.answers]
        outputs = {"score": scores, "anomaly_map": cells}
        tensor = service_pb2.ModelInferResponse.InferOutputTensor
        return service_pb2.ModelInferResponse(
            model_name=request.model_name,
            model_version=request.model_version,
            outputs=[tensor(name=out.name, datatype="FP32", shape=outputs[out.name].shape) for out in request.outputs],
            raw_output_contents=[outputs[out.name].astype(np.float32).tobytes() for out in request.outputs],
        )


@contextmanager
def serving(servicer: Servicer) -> Iterator[str]:
    """Address of a server on a free port."""
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
        pool.shutdown()
