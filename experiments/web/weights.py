"""The weights of a puppet as its page downloads them, and what the page must know to use them."""

from pathlib import Path
from typing import Any

import numpy as np

import puppet_jax as pj
from experiments.errors import UsageError
from experiments.runs.puppet import bucket_of, calibrate_number
from puppet_jax.puppet import norm_terms
from puppet_jax.puppeteer import IDLE_BIASES

_KINDS = {np.dtype(np.int8): "8", np.dtype(np.uint8): "4"}
MAX_MACS = 1_000_000_000
"""Of kernels and network together: some seconds in a browser."""


def check_puppet(model: pj.PretrainedPuppet) -> None:
    """Raises a UsageError unless the page's program can run this puppet."""
    puppet, puppeteer = model.puppet, model.params.puppeteer
    height, width, channels = model.image_shape
    depth = min(model.batch_stats)
    num_steps = pj.num_steps(puppet.kernel_shapes(depth), puppeteer.max_channels, puppeteer.kernel_size)
    cost = pj.generator_macs(puppeteer, num_steps) + pj.puppet_macs(puppet, depth, (height, width))
    fits = {
        "one depth and one complexity for all images": len(model.batch_stats) == 1
        and model.complexity.constant is not None,
        "kernels of 3 x 3": puppet.kernel_size == puppeteer.kernel_size == 3,
        "an even C no smaller than its channels": puppet.max_channels <= puppeteer.max_channels
        and puppeteer.max_channels % 2 == 0,
        "mirrored channels": puppet.mirror,
        "affine norms": puppet.affine,
        "a linear classifier": puppet.classifier == "linear",
        "a seeded initial state": puppeteer.initial_state_kind == "seeded",
        f"at most {MAX_MACS / 1e6:,.0f} million multiply-accumulates": cost <= MAX_MACS,
        "square colour images that every pooling halves": channels == 3
        and height == width
        and height % 2 ** (len(puppet.channels) - 1) == 0,
    }
    for what, is_so in fits.items():
        if not is_so:
            raise UsageError(f"the page runs puppets with {what}, and this is none; take cifar10-c64-4bit.")


def describe(model: pj.PretrainedPuppet) -> dict[str, Any]:
    """What the page must know beside the weights: JSON values, without the list of tensors."""
    (depth,) = model.batch_stats
    puppet, puppeteer = model.puppet, model.params.puppeteer
    inputs = [puppet.in_channels, *(layer.channels for layer in puppet.convolutions(depth))]
    return {
        "class_names": model.class_names,
        "size": model.image_shape[0],
        "max_channels": puppeteer.max_channels,
        "kernels_from": puppeteer.kernels_from,
        "scale": puppeteer.scale,
        "seed": [puppeteer.seed & 0xFFFFFFFF, puppeteer.seed >> 32],
        "h": bucket_of(model, calibrate_number(model.complexity, 0.0))[1],
        "layers": [
            {
                "inputs": inputs[n],
                "channels": layer.channels,
                "pooled": layer.pool,
                "added": puppet.residual and layer.place > 0,
            }
            for n, layer in enumerate(puppet.convolutions(depth))
        ],
    }


def pack(path: Path, model: pj.PretrainedPuppet) -> tuple[bytes, list[dict[str, Any]]]:
    """The weights as they are stored, one after the other, and what is where.

    Codes of few bits stay codes, each tensor of them followed by its scales. A batch norm becomes a factor and a shift
    of each channel, float32, which take fewer bytes than its scale, bias, mean and variance.

    Args:
        path: of the model file.
        model: read from it.

    Returns:
        The bytes; and for each tensor "name", "kind" ("float32", "float16", "8" or "4" bits), "size" (values) and
        "channels" (scales behind it, 0 for none).
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    data, tensors = bytearray(), []

    def add(name: str, array: np.ndarray, size: int, scales: np.ndarray | None = None) -> None:
        channels = 0 if scales is None else len(scales)
        kind = _KINDS.get(array.dtype, array.dtype.name)
        tensors.append({"name": name, "kind": kind, "size": size, "channels": channels})
        for part in (array,) if scales is None else (array, scales):
            data.extend(part.astype(part.dtype.newbyteorder("<")).tobytes())

    leaves: dict[str, Any] = {f"puppeteer.{name}": leaf for name, leaf in vars(model.params.puppeteer).items()}
    leaves |= {name: getattr(model.params, name) for name in ("classifier_bias", "classifier_kernel")}
    for name in sorted(leaves):
        if name.removeprefix("puppeteer.") in IDLE_BIASES or not hasattr(leaves[name], "shape"):
            continue
        array = stored[name] if name in stored else stored[f"{name}.codes"]
        add(name.removeprefix("puppeteer."), array, leaves[name].size, stored.get(f"{name}.scale"))
    for n, (factor, shift) in enumerate(folded_norms(model)):
        add(f"factor.{n}", factor, factor.size)
        add(f"shift.{n}", shift, shift.size)
    return bytes(data), tensors


def folded_norms(model: pj.PretrainedPuppet) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each batch norm the factor and the shift, (channels,) float32: it is `x * factor + shift`."""
    ((depth, stats),) = model.batch_stats.items()
    layers = model.puppet.convolutions(depth)
    # without the mirrored half, which the page takes from the same numbers
    terms = [norm_terms(model.params, used, layer, mirror=False) for layer, used in zip(layers, stats, strict=True)]
    return [(np.asarray(factor), np.asarray(shift)) for factor, shift in terms]
