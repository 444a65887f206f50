"""What the fake runtime computes, as an ONNX graph."""

import onnx
from onnx import TensorProto, helper
from serving import MAP_SIZE, SCORE_THRESHOLD


def graph(*, output: str = "anomaly_map", cell: int = 256 // MAP_SIZE) -> bytes:
    """What the fake runtime computes, as an ONNX graph: first channel, averaged over cells, by 128; score its peak."""
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [128.0]),
        helper.make_tensor("threshold", TensorProto.FLOAT, [], [SCORE_THRESHOLD]),
        helper.make_tensor("spatial", TensorProto.INT64, [2], [1, 2]),
    ]
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Slice", ["planes", "zero", "one", "channel"], ["first"]),
        helper.make_node("Cast", ["first"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["pixels"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("Div", ["cells", "scale"], ["scaled"]),
        helper.make_node("Squeeze", ["scaled", "channel"], [output]),
        helper.make_node("ReduceMax", [output, "spatial"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "threshold"], ["score"]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 256, 256, 2])]
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 256 // cell, 256 // cell]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()
