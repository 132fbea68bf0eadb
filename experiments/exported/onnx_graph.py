"""Layers as a graph of ONNX operators: convolutions with their bias, as runtimes have them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from experiments.exported.layers import is_by_level
from puppet_jax.folded import FoldedPuppet
from puppet_jax.mirrored_convolution import halves_of

OPSET, IR_VERSION = 18, 9  # of 2023, so that runtimes in use take the file
HALVES_CHANNELS = 256  # from so many on onnxruntime is faster in halves on a CPU; docs/records/2026-11-30-onnx


def graph_bytes(layers: FoldedPuppet, image_shape: tuple[int, int, int], mirror: bool) -> bytes:
    """An ONNX model from `images` (batch, height, width, channels) float32 in [0, 1] to `logits` (batch, classes).

    Layers of several levels of complexity have a second input `level`, () int32. An image with a value outside [0, 1]
    gets logits of NaN.

    Args:
        layers: from `expanded`.
        image_shape: (height, width, channels).
        mirror: channels are mirrored pairs; wide layers of such take half of the multiply-accumulates.
    """
    graph = _Graph()
    x = graph.add("Transpose", ["images"], perm=[0, 3, 1, 2])
    x = graph.add("Sub", [graph.add("Mul", [x, graph.constant(np.float32(4))]), graph.constant(np.float32(2))])
    for kernel, bias, pool, add in zip(layers.kernels, layers.biases, layers.pools, layers.adds, strict=True):
        if pool:
            x = graph.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
        wide = mirror and min(kernel.shape[-2:]) >= HALVES_CHANNELS  # an image has fewer channels
        y = graph.add("Relu", [(graph.convolve_pairs if wide else graph.convolve)(x, kernel, bias)])
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


_Neighbours = list[tuple[str, str]]


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

    def convolve(self, x: str, kernel: Any, bias: Any) -> str:
        """'SAME' convolution with a kernel (kh, kw, c_in, c_out), or one a level, and a bias."""
        size = kernel.shape[-4:-2]
        oihw = np.moveaxis(np.asarray(kernel), (-1, -2), (-4, -3))
        weights = [self.weight(oihw, 4), self.constant(bias)]
        return self.add("Conv", [x, *weights], kernel_shape=[*size], pads=[n // 2 for n in size] * 2)

    def convolve_pairs(self, x: str, kernel: Any, bias: Any) -> str:
        """The same of mirrored pairs of channels, with half of the products: `convolve_halves` in operators."""
        pairs = len(bias) // 2
        take_apart = jax.vmap(halves_of) if kernel.ndim == 5 else halves_of
        to_sum, to_difference = take_apart(jnp.asarray(kernel[..., :pairs]))
        one, other = self.split(x)
        total, difference = self.add("Add", [one, other]), self.add("Sub", [one, other])
        reach = kernel.shape[-3] // 2
        of_total, of_difference = self.neighbours(total, reach), self.neighbours(difference, reach)
        u = self.folded(total, of_total, of_difference, to_sum, bias[:pairs])
        v = self.folded(difference, of_difference, of_total, to_difference, 0 * bias[:pairs])
        return self.add("Concat", [self.add("Add", [u, v]), self.add("Sub", [u, v])], axis=1)

    def folded(self, x: str, even: _Neighbours, odd: _Neighbours, kernel: Any, bias: Any) -> str:
        """What the even part of a kernel makes of one input and its neighbours, and the odd part of the other's."""
        sums = [self.add("Add", [right, left]) for left, right in even]
        differences = [self.add("Sub", [right, left]) for left, right in odd]
        return self.convolve(self.add("Concat", [x, *sums, *differences], axis=1), kernel, bias)

    def split(self, x: str) -> tuple[str, str]:
        """The first and the second half of the channels."""
        names = [f"split_{len(self.nodes)}_{n}" for n in range(2)]
        self.nodes.append(helper.make_node("Split", [x], names, axis=1, num_outputs=2))
        return names[0], names[1]

    def neighbours(self, x: str, reach: int) -> _Neighbours:
        """What lies so far to the left and to the right of each pixel, for each distance up to `reach`."""
        padded = self.add("Pad", [x, self.constant(np.array([0, 0, 0, reach, 0, 0, 0, reach]))])
        axis = self.constant(np.array([3]))

        def shifted(by: int) -> str:
            ends = [self.constant(np.array([end])) for end in (reach + by, by - reach or np.iinfo(np.int64).max)]
            return self.add("Slice", [padded, *ends, axis])

        return [(shifted(-distance), shifted(distance)) for distance in range(1, reach + 1)]
