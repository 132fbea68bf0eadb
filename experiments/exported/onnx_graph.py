"""Layers as a graph of ONNX operators: convolutions with their bias, as runtimes have them."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from experiments.exported.layers import is_by_level
from puppet_jax.folded import FoldedPuppet

OPSET, IR_VERSION = 18, 9  # of 2023, so that runtimes in use take the file


def graph_bytes(layers: FoldedPuppet, image_shape: tuple[int, int, int]) -> bytes:
    """An ONNX model from `images` (batch, height, width, channels) float32 in [0, 1] to `logits` (batch, classes).

    Layers of several levels of complexity have a second input `level`, () int32. An image with a value outside [0, 1]
    gets logits of NaN.

    Args:
        layers: from `expanded`.
        image_shape: (height, width, channels).
    """
    graph = _Graph()
    x = graph.add("Transpose", ["images"], perm=[0, 3, 1, 2])
    x = graph.add("Sub", [graph.add("Mul", [x, graph.constant(np.float32(4))]), graph.constant(np.float32(2))])
    for kernel, bias, pool, add in zip(layers.kernels, layers.biases, layers.pools, layers.adds, strict=True):
        if pool:
            x = graph.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
        size = kernel.shape[-4:-2]
        padding = [(n - 1) // 2 for n in size]
        oihw = np.moveaxis(np.asarray(kernel), (-1, -2), (-4, -3))
        weights = [graph.weight(oihw, 4), graph.constant(bias)]
        y = graph.add("Conv", [x, *weights], kernel_shape=[*size], pads=padding * 2)
        y = graph.add("Relu", [y])
        x = graph.add("Add", [x, y]) if add else y
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    classifier = graph.weight(np.asarray(layers.classifier_kernel), 2)
    logits = graph.add("Gemm", [x, classifier, graph.constant(layers.classifier_bias)])
    zero, one, nan = (graph.constant(np.float32(value)) for value in (0, 1, np.nan))
    inside = graph.add(
        "And", [graph.add("GreaterOrEqual", ["images", zero]), graph.add("LessOrEqual", ["images", one])]
    )
    flat = graph.add("Flatten", [graph.add("Cast", [inside], to=TensorProto.FLOAT)])
    least = graph.add("ReduceMin", [flat, graph.constant(np.array([1]))], keepdims=1)
    graph.add("Where", [graph.add("Equal", [least, one]), logits, nan], output="logits")
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *image_shape])]
    if is_by_level(layers):
        inputs.append(helper.make_tensor_value_info("level", TensorProto.INT32, []))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(layers.classifier_bias)])]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "puppet", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="puppet-jax",
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


class _Graph:
    """Nodes and constants, as far as they are written; names are numbers."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def add(self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """One more node; the name of its output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        """One more constant; its name."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def weight(self, value: np.ndarray, rank: int) -> str:
        """A constant, or that of the level where it has one more axis than `rank`."""
        name = self.constant(value)
        return name if value.ndim == rank else self.add("Gather", [name, "level"], axis=0)
