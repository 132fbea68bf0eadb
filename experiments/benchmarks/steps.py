"""How long a training step of a puppet takes, beside the same layers with stored weights, and both in PyTorch."""

import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments.benchmarks import in_torch
from experiments.benchmarks.rounds import error_of, time_rounds
from experiments.cifar10 import BEST, FULL, LIGHT, PAPER, PRESETS, SMALL
from experiments.config import Config, OneDepth, Ordinary, PuppetCNN
from experiments.devices import start_jax
from experiments.fields import replace
from experiments.markdown import markdown
from experiments.networks.puppet import PuppetLike
from experiments.tables.definitions import NARROW
from experiments.training.optimizer import make_optimizer
from experiments.training.step import Data, TrainState, init_state, kernel_levels, make_train_step

IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 10
LOW, HIGH = 4.0, 4.8
"""Complexities of the images, nats: of one depth, around the mean of CIFAR-10."""


class Case(NamedTuple):
    """A configuration whose step is timed: its name, itself, images a batch, the most rounds of a long step."""

    name: str
    config: Config
    batch: int
    most_rounds: int | None = None


CASES = (
    Case("best", BEST, 64),
    Case("light", LIGHT, 64),
    Case("small", SMALL, 64),
    Case("narrow", NARROW, 64),
    Case("narrow", NARROW, 256),
    Case("paper", PAPER, 64, 3),
    Case("paper", PAPER, 256, 3),
)

ON_GPU = (
    Case("best", BEST, 512),
    Case("narrow", NARROW, 512),
    Case("paper", PAPER, 512),
    Case("full", FULL, 512),
)
"""More of them, where there is a GPU: batches that fill it. PyTorch has no bfloat16 here, so is left out of `full`."""

STARTED = "best"
"""The preset whose first step is timed in a process of its own."""


def measure(rounds: int, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row a case, measured in a process of its own: median seconds of a training step of each way.

    All weights are of 32 bits and all steps Adam's, so that nothing but the networks differs.

    Args:
        rounds: how often each way takes its turn.
        cases: which.

    Returns:
        "name", "batch", "depth", "sets" (of kernels in a batch), "seconds" by way: "puppet" and "plain" (the same
        layers, weights stored), and "pytorch" and "pytorch_plain", the same in PyTorch, where it is comparable, see
        `in_torch.is_comparable`; "error", the largest difference of its logits from ours, of the largest logit.
    """
    alone = multiprocessing.get_context("spawn")  # what other cases leave in memory slows the large ones down
    with ProcessPoolExecutor(max_workers=1, mp_context=alone, max_tasks_per_child=1) as pool:
        return list(pool.map(_row, cases, itertools.repeat(rounds)))


def measure_start(preset: str) -> dict[str, float]:
    """Seconds of a new process to the end of its first step, with an empty cache of compiled programs and a warm one.

    Returns:
        "cold" and "warm".
    """
    child = "import sys; from experiments.benchmarks import steps; steps.first_step(sys.argv[1])"
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", child, preset], env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}, check=True
            )
            seconds[name] = time.perf_counter() - begin
    return seconds


def first_step(preset: str) -> None:
    """A training step of a preset on images of chance."""
    start_jax()
    config = PRESETS[preset]
    network = _network(config)
    data = _data(config.optim.batch_size)
    _step(config, network, data, _depth(network, data.h))()


def _row(case: Case, rounds: int) -> dict[str, Any]:
    config = replace(case.config, optimizer="adam", batch_size=case.batch, bits=32)
    network = _network(config)
    data = _data(case.batch)
    depth = _depth(network, data.h)
    layers = network.puppet.layers_per_stage(depth)
    plain = replace(config, kernels=Ordinary(), depth=OneDepth(layers=layers))
    calls: dict[str, Callable[[], Any]] = {}
    errors = []
    for name, one in (("puppet", config), ("plain", plain)):
        own = _network(one)
        own_depth = _depth(own, data.h)
        calls[name] = _step(one, own, data, own_depth)
        if in_torch.is_comparable() and network.dtype == "float32":
            way = "pytorch" if name == "puppet" else "pytorch_plain"
            calls[way], error = _torch_step(one, own, data, own_depth)
            errors.append(error)
    times = time_rounds(list(calls.values()), min(rounds, case.most_rounds or rounds))
    return {
        "name": case.name,
        "batch": case.batch,
        "depth": depth,
        "sets": len(kernel_levels(config, network, jnp.asarray(data.h), depth)),
        "seconds": dict(zip(calls, map(statistics.median, times), strict=True)),
        "error": max(errors, default=None),
    }


def _data(batch: int) -> Data:
    rng = np.random.default_rng(0)
    return Data(
        images=rng.integers(0, 256, (batch, *IMAGE_SHAPE), np.uint8),
        labels=rng.integers(0, NUM_CLASSES, batch).astype(np.int32),
        h=np.linspace(LOW, HIGH, batch, dtype=np.float32),
    )


def _depth(network: PuppetLike, h: Any) -> int:
    return int(np.asarray(pj.depth(h)).min()) if network.depth is None else network.depth


def _network(config: Config) -> PuppetLike:
    assert isinstance(config.network, PuppetCNN)
    network = config.network.make(NUM_CLASSES, IMAGE_SHAPE)
    assert isinstance(network, PuppetLike)
    return network


def _step(config: Config, network: PuppetLike, data: Data, depth: int) -> Callable[[], None]:
    tx = make_optimizer(config.optim, network, 1000)
    step, data = make_train_step(config, network, tx), jax.device_put(data)
    state: list[TrainState] = [init_state(config, network, (depth,), tx)]
    indices = np.arange(len(data.images), dtype=np.int32)

    def call() -> None:
        state[0] = jax.block_until_ready(step(state[0], data, indices, depth=depth)[0])

    return call


def _torch_step(config: Config, network: PuppetLike, data: Data, depth: int) -> tuple[Callable[[], None], float]:
    """The step in PyTorch, and by how much logits differ."""
    import torch

    params = network.init(config.seed, (depth,))
    h = kernel_levels(config, network, jnp.asarray(data.h), depth)
    made = in_torch.PuppetInTorch(network.puppet, params, np.asarray(h), depth)
    images = in_torch.tensor(np.asarray(data.images).transpose(0, 3, 1, 2))
    labels = in_torch.tensor(np.asarray(data.labels, np.int64))
    ours = np.asarray(network.apply(params, None, data.images, h, depth)[0])
    theirs = made.logits(images, training=False).detach().cpu().numpy()
    optimizer = torch.optim.AdamW(made.leaves, config.optim.learning_rate, weight_decay=config.optim.weight_decay)
    indices = in_torch.tensor(np.arange(len(labels)))

    def call() -> None:
        optimizer.zero_grad()
        logits = made.logits(images[indices])
        smoothing = config.optim.label_smoothing
        torch.nn.functional.cross_entropy(logits, labels[indices], label_smoothing=smoothing).backward()
        optimizer.step()
        in_torch.wait()

    return call, error_of(theirs, ours)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.1f}"


def table(rows: Sequence[dict[str, Any]], start: dict[str, float]) -> str:
    """Markdown tables: milliseconds, and ratios of times; seconds of `measure_start`."""
    pairs = [("puppet", "plain"), ("puppet", "pytorch"), ("plain", "pytorch_plain")]
    pairs = [pair for pair in pairs if pair[1] in rows[0]["seconds"]]

    def ratio(seconds: dict[str, float], one: str, other: str) -> str:
        return f"{seconds[one] / seconds[other]:.2f}" if other in seconds else ""

    lines = []
    for row in rows:
        seconds = row["seconds"]
        times = [_milliseconds(seconds[way]) if way in seconds else "" for way in rows[0]["seconds"]]
        ratios = [ratio(seconds, *pair) for pair in pairs]
        lines.append([row["name"], str(row["batch"]), *times, *ratios])
    ways = [f"{way}, ms".replace("_", " ") for way in rows[0]["seconds"]]
    header = ["preset", "batch", *ways, *(f"{one} ÷ {other}".replace("_", " ") for one, other in pairs)]
    first = [f"{start['cold']:.1f}", f"{start['warm']:.1f}", f"{start['warm'] / start['cold']:.2f}"]
    starts = markdown([f"first step of {STARTED}: empty cache, s", "warm cache, s", "warm ÷ empty"], [first])
    return markdown(header, lines) + "\n" + starts
