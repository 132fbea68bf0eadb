"""Times ONNX graphs of a shipped model, and of single mirrored layers, whole and in halves, in turn."""

import json
import statistics
import sys
import time

import jax.numpy as jnp
import numpy as np
import onnxruntime

from experiments.exported import onnx_graph
from experiments.exported.plan import expanded, plan
from experiments.model import load_model
from puppet_jax.folded import FoldedPuppet
from puppet_jax.mirror import with_mirrored
from puppet_jax.pretrained import pretrained_file

OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = OPTIONS.inter_op_num_threads = 1
RNG = np.random.Generator(np.random.PCG64(0))


def times(layers, image_shape, batches, rounds):
    """Milliseconds (whole, in halves) for each size of batch."""
    sessions = [
        onnxruntime.InferenceSession(onnx_graph.graph_bytes(layers, image_shape, mirror), OPTIONS)
        for mirror in (False, True)
    ]
    found = {}
    for batch in batches:
        images = RNG.uniform(size=(batch, *image_shape)).astype(np.float32)
        calls = max(1, 16 // batch)
        seconds = [[], []]
        for _ in range(rounds):
            for session, own in zip(sessions, seconds, strict=True):
                started = time.perf_counter()
                for _ in range(calls):
                    session.run(None, {"images": images})
                own.append((time.perf_counter() - started) / calls)
        found[batch] = [1e3 * statistics.median(own) for own in seconds]
    return found


def one_layer(side, channels):
    """The same of one layer, without what surrounds it: the time of six such layers less that of one, over five."""
    kernel = RNG.normal(size=(3, 3, channels, channels // 2)).astype(np.float32) / 50
    whole = np.asarray(with_mirrored(jnp.asarray(kernel), mirrored_input=True))
    found = []
    for count in (1, 6):
        layers = FoldedPuppet(
            kernels=(whole,) * count,
            biases=(np.zeros(channels, np.float32),) * count,
            classifier_kernel=np.ones((channels, 10), np.float32),
            classifier_bias=np.zeros(10, np.float32),
            pools=(False,) * count,
            adds=(False,) * count,
        )
        found.append(times(layers, (side, side, channels), (1, 64), 5))
    few, many = found
    return {batch: [(many[batch][n] - few[batch][n]) / 5 for n in range(2)] for batch in few}


model = load_model(pretrained_file("cifar10-full"))
results = {"cifar10-full": times(expanded(model, plan(model)[0]), model.network.image_shape, (1, 64), 9)}
print(json.dumps(results), file=sys.stderr)
onnx_graph.HALVES_CHANNELS = 128
for side, channels in ((32, 128), (16, 128), (8, 128), (32, 256), (16, 256), (16, 512), (8, 512), (4, 512)):
    results[f"{side}x{side}, {channels} channels"] = one_layer(side, channels)
    print(json.dumps(results), file=sys.stderr)
print(json.dumps(results, indent=1))
