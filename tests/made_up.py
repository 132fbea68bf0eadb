"""A model of random floats, and a summary of figures that nobody measured: both without training."""

import dataclasses
from typing import Any

import jax
import numpy as np

import puppet_jax as pj
from experiments.config import Config, Generated
from experiments.evaluation.summary import Summary
from experiments.fields import as_json
from experiments.model import Model
from experiments.networks.puppet import PuppetNetwork

PUPPET = pj.Puppet(channels=(4, 8), num_classes=10, in_channels=1)


def graded_images(count: int = 12) -> np.ndarray:
    """Of one grey value to many, the least complex first; uint8 (count, 8, 8, 1)."""
    rng = np.random.Generator(np.random.PCG64(0))
    return np.stack([rng.integers(0, 2 * i + 1, (8, 8, 1), np.uint8) * 8 for i in range(count)])


def make_model(puppet: pj.Puppet = PUPPET, depths: tuple[int, ...] = (1, 2), **changes: Any) -> Model:
    """Of a puppet whose depths hold a part of the graded images each."""

    settings = Generated().settings(puppet.max_channels, puppet.kernel_size)

    def initial(key):
        generator = pj.init_puppeteer(key, max_channels=puppet.max_channels)
        params = pj.init_puppet(key, puppet, generator, max_depth=max(depths))
        return params, {depth: pj.init_batch_stats(puppet, depth) for depth in depths}

    rng = np.random.Generator(np.random.PCG64(0))
    params, batch_stats = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), jax.eval_shape(initial, jax.random.key(0))
    )
    model = Model(
        network=PuppetNetwork(puppet=puppet, puppeteer=settings, image_size=(8, 8)),
        params=params,
        batch_stats=batch_stats,
        class_names=tuple("0123456789"),
        adaptation="level",
        num_levels=1,
        complexity=pj.calibrate(pj.complexities(graded_images()), min(depths), max(depths)),
        step=7,
    )
    return dataclasses.replace(model, **changes)


def make_summary(config: Config, **figures: Any) -> Summary:
    """Of a run of `config`; every figure that is not given is three quarters, or three million."""
    usual = {
        **dict.fromkeys(("top1", "top5", "loss", "validation_top1", "depth_mean", "depth_std"), 0.75),
        **dict.fromkeys(("latency_s", "latency_generating_s", "images_per_s", "train_seconds"), 0.75),
        **dict.fromkeys(("puppeteer_bytes", "trainable_bytes", "file_bytes", "generator_macs"), 3_000_000),
        **dict.fromkeys(("puppet_macs", "host_peak_bytes"), 3_000_000),
        **{"experiment": "digits", "test_images": 100, "adaptation": "level", "num_levels": 1, "step": 1, "steps": 2},
        **{"depth_counts": {"1": 100}, "depth_top1": {"1": 0.75}, "versions": {"python": "3", "jax": "0"}},
        **{"device": "a device", "device_peak_bytes": None, "seed": config.seed, "config": as_json(config)},
    }
    return Summary(**usual | figures)
