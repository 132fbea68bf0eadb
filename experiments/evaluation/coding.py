"""What a model takes when its bytes are entropy-coded, everything that inference needs included."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.model import Model, bits_of
from experiments.networks.puppet import PuppetLike
from puppet_jax import extras
from puppet_jax.folded import merge_statistics
from puppet_jax.puppeteer import idle_leaves

MOST_QUALITY, QUALITY, FEW_BYTES = 11, 5, 2 << 20
"""Of Brotli, at most so many bytes and beyond: 11 codes a dozen megabytes a minute, and floats hardly shrink more."""


def coded_bytes(model: Model) -> int | None:
    """Bytes of what inference needs as stored, after Brotli; None where that is not installed.

    In few bits these are codes, scales and statistics in float16; else float32. Norms that statistics are merged into
    are float16 too: their spread is wider than 8 bits with one scale hold.
    """
    try:
        import brotli
    except ImportError:
        return None
    stored: Any = needed(model)
    if model.bits < 32:
        params, stats = stored
        chosen = bits_of(model.network, params, model.bits)
        if not stats:  # merged into the norms of a puppet
            norms = {name: jax.tree.map(lambda _: 16, getattr(chosen, name)) for name in ("norm_scale", "norm_bias")}
            chosen = dataclasses.replace(chosen, **norms)
        bits = chosen, jax.tree.map(lambda _: 16, stats)
        stored = extras.quantize_tree(extras.fake_quantize(stored, bits), bits)  # values that float16 holds
    data = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(stored))
    return len(brotli.compress(data, quality=MOST_QUALITY if len(data) <= FEW_BYTES else QUALITY))


def needed(model: Model) -> tuple[Any, dict[int, Any]]:
    """The parameters, and the statistics of each depth that cannot be merged into them.

    An affine norm of one depth needs no statistics besides, and of a puppeteer the biases that change nothing are zero.
    """
    network, params, stats = model.network, model.params, model.batch_stats
    if isinstance(network, PuppetLike) and network.depth is not None and network.puppet.affine:
        params, stats = merge_statistics(network.puppet, params, stats[network.depth], network.depth), {}
    params = jax.tree.map(lambda leaf, idle: jnp.zeros_like(leaf) if idle else leaf, params, idle_leaves(params))
    return params, stats
