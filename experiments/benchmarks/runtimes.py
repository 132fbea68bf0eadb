"""How long a network takes to classify: the predictor beside plain JAX, PyTorch and onnxruntime."""

import functools
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import puppet_jax as pj
from experiments.benchmarks import in_torch
from experiments.benchmarks.rounds import error_of, is_installed, repeated, time_rounds
from experiments.exported.layers import run as run_layers
from experiments.markdown import markdown
from experiments.runs.puppet import bucket_of
from puppet_jax.folded import FoldedPuppet, fold
from puppet_jax.routing import complexities

BATCH_SIZES = (1, 64)
IMAGES = 64
"""At least so many are classified in a round."""
WAYS = ("predictor", "plain", "pytorch", "onnxruntime")


def measure(model: pj.PretrainedPuppet, images: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """A row a batch size.

    All images count as of the first one's complexity, so that they share kernels, which the predictor finds in its
    bank. The others have the network expanded: kernels stored, norms folded in.

    Args:
        model: a trained puppet.
        images: (N, H, W, C) uint8.
        rounds: how often each way takes its turn.

    Returns:
        "batch"; "ms" of a batch by way, as far as it is installed: "predictor", "plain" (XLA's own convolutions),
        "pytorch" (eager) and "onnxruntime", of as many threads as this process has cores; "error", the largest
        difference of a logit from the predictor's over the largest logit.
    """
    predictor = model.predictor()
    h = complexities(images[:1], predictor.complexity)
    depth, level = bucket_of(model, float(h[0]))
    kernels = pj.generate_kernels(model.params.puppeteer, level, model.puppet.kernel_shapes(depth))
    layers = fold(model.puppet, model.params, model.batch_stats[depth], kernels, depth)
    constant = model.complexity.constant is not None
    given = functools.cache(lambda count: None if constant else np.repeat(h, count))
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "predictor": lambda part: predictor(part, given(len(part))),
        "plain": _plain(layers),
    }
    if in_torch.is_comparable():
        ways["pytorch"] = in_torch.run_layers(layers)
    if is_installed("onnx", "onnxruntime") and jax.default_backend() == "cpu":
        ways["onnxruntime"] = _onnxruntime(layers, model.image_shape, model.puppet.mirror)
    return [_row(ways, images[: min(size, len(images))], rounds) for size in BATCH_SIZES]


def _row(ways: dict[str, Callable[[np.ndarray], np.ndarray]], images: np.ndarray, rounds: int) -> dict[str, Any]:
    calls = max(1, IMAGES // len(images))
    often = [repeated(functools.partial(way, images), calls) for way in ways.values()]
    times = time_rounds(often, rounds)
    logits = [way(images) for way in ways.values()]
    return {
        "batch": len(images),
        "ms": {name: 1e3 * statistics.median(own) / calls for name, own in zip(ways, times, strict=True)},
        "error": max(error_of(one, logits[0]) for one in logits),
    }


def _plain(layers: FoldedPuppet) -> Callable[[np.ndarray], np.ndarray]:
    program = jax.jit(lambda layers, images: run_layers(layers, images.astype(np.float32) / 255))
    return lambda images: np.asarray(program(layers, images))


def _onnxruntime(
    layers: FoldedPuppet, image_shape: tuple[int, int, int], mirror: bool
) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    from experiments.exported.onnx_graph import graph_bytes

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(graph_bytes(layers, image_shape, mirror), options)
    return lambda images: session.run(None, {"images": images / np.float32(255)})[0]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    ways = [way for way in WAYS if way in rows[0]["ms"]]
    lines = []
    for row in rows:
        times = row["ms"]
        ratios = [f"{times['predictor'] / times[way]:.2f}" for way in ways[1:]]
        lines.append([str(row["batch"]), *(f"{times[way]:.2f}" for way in ways), *ratios, f"{row['error']:.0e}"])
    header = ["batch", *(f"{way}, ms" for way in ways), *(f"predictor ÷ {way}" for way in ways[1:]), "error"]
    return markdown(header, lines)
