"""Statistics of batch norms for evaluation (precise batch norm)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import puppet_jax as pj
from experiments.config import Config
from experiments.networks import Network
from experiments.training.parallel import Layout, put
from experiments.training.step import Data, apply_batch, pick, seed_of

STATS_BATCHES = 8
"""Batches of a depth bucket whose statistics are averaged for evaluation."""


def make_stats_estimator(config: Config, network: Network, layout: Layout | None = None) -> Callable:
    """Returns `(params, data, batches) -> {depth: statistics of the network}` for evaluation.

    Each depth's statistics are those of up to `STATS_BATCHES` of its training batches under the parameters as they
    are now (precise batch norm). A running average would describe kernels that are gone: a step of the puppeteer
    moves every kernel of the puppet, and a rare depth has one step an epoch.

    With a layout each device takes a part of a batch; parameters and data must lie whole on each.

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021.
    """
    whole = None if layout is None else layout.whole

    @functools.partial(jax.jit, static_argnames="depth", out_shardings=whole)
    def batch_moments(params, data: Data, indices, seed, step, *, depth):
        return apply_batch(config, network, params, pick(config, data, indices, seed, step), depth)[1]

    def estimate(params, data: Data, batches):
        collected: dict[int, list] = {}
        for step, (depth, indices) in enumerate(batches):
            moments = collected.setdefault(depth, [])
            if len(moments) < STATS_BATCHES:
                if layout is not None:
                    indices = put(indices, layout.split)
                moments.append(batch_moments(params, data, indices, seed_of(config), step, depth=depth))
        return {
            depth: jax.tree.map(lambda *batches: _pool(batches), *moments, is_leaf=_is_stats)
            for depth, moments in collected.items()
        }

    return estimate


def _is_stats(node: Any) -> bool:
    return isinstance(node, pj.BatchStats)


def _pool(batches: tuple[pj.BatchStats, ...]) -> pj.BatchStats:
    """Mean and variance over equal batches: within them and between them, never a difference of squares."""
    means, variances = (jnp.stack(leaves) for leaves in zip(*batches, strict=True))
    return pj.BatchStats(means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0))
