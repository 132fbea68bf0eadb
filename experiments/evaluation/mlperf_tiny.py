"""A model beside the image classification of MLPerf Tiny: its 200 images, bytes, and memory of activations."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments.evaluation.accuracy import accuracy
from experiments.evaluation.activations import peak_activations
from experiments.markdown import markdown
from experiments.model import Model
from experiments.networks import Network
from experiments.networks.module import ModuleNetwork

SEED, PER_CLASS = 8108, 20
"""Of the subset, as `get_perf_samples_idxs.py` of mlcommons/tiny draws it."""
TEST_IMAGES = 10_000
"""Of CIFAR-10, in the official order."""


def subset(labels: np.ndarray) -> np.ndarray:
    """Places of the benchmark's 200 images among CIFAR-10's test images, in its order.

    Args:
        labels: (10000,) classes of the test images in the official order.
    """
    rng = np.random.default_rng(SEED)
    of_classes = [rng.choice(np.flatnonzero(labels == label), PER_CLASS, replace=False) for label in range(10)]
    places = np.concatenate(of_classes)
    rng.shuffle(places)
    return places


def measure(name: str, model: Model, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: of the model.
        model: trained on CIFAR-10.
        images: (10000, 32, 32, 3) uint8, all test images in the official order.
        labels: (10000,).

    Returns:
        "name"; "bits" of a stored weight and "bytes" of all trainable floats; "macs" of the network and
        "generator_macs" of making its kernels; "top1" of all images and "subset_top1" of the benchmark's, fractions;
        "activation_bytes", most that are held at once in 8 bits; of generated kernels "kernel_bytes", of all in 8
        bits, and "state_bytes", of a state of the trajectory in 32. Of several depths those of the deepest.
    """
    network, depth = model.network, max(model.batch_stats)
    logits = model.predictor()(images)
    places = subset(labels)
    h, stats = jnp.asarray([pj.depth_interval(depth)[0]], jnp.float32), model.batch_stats[depth]
    one = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.uint8)
    generator_macs, macs = network.macs(model.params, depth)
    row: dict[str, Any] = {
        "name": name,
        "bits": model.bits,
        "bytes": model.stored_bytes()[1],
        "macs": macs,
        "generator_macs": generator_macs,
        "top1": accuracy(logits, labels)["top1"],
        "subset_top1": accuracy(logits[places], labels[places])["top1"],
        "activation_bytes": peak_activations(lambda x: network.apply(model.params, stats, x, h, depth)[0], one),
    }
    if isinstance(puppeteer := network.generator(model.params), pj.Puppeteer):
        row["kernel_bytes"] = sum(map(math.prod, _generated_shapes(network, depth)))
        row["state_bytes"] = math.prod(puppeteer.state_shape) * puppeteer.state_dtype.itemsize
    return row


def _generated_shapes(network: Network, depth: int) -> Sequence[tuple[int, ...]]:
    if isinstance(network, ModuleNetwork):
        return [one.shape for one in network.generated]
    return network.puppet.kernel_shapes(depth)  # type: ignore[attr-defined]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    columns = ["model", "bits", "stored bytes", "M multiply-accumulates", "top-1 of 200 (%)", "top-1 of all (%)"]
    columns += ["activations, 8 bits (bytes)", "generated kernels, 8 bits (bytes)", "a state (bytes)"]
    lines = []
    for row in rows:
        line = [row["name"], str(row["bits"]), f"{row['bytes']:,}", f"{row['macs'] / 1e6:,.1f}"]
        line += [f"{100 * row[name]:.2f}" for name in ("subset_top1", "top1")]
        found = [row.get(name) for name in ("activation_bytes", "kernel_bytes", "state_bytes")]
        lines.append(line + ["" if value is None else f"{value:,}" for value in found])
    return markdown(columns, lines)
