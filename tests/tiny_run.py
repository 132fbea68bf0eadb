"""A run so small that tests can afford it, what is noted of its steps, and how two runs are compared."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import plots
from experiments.cli import run_experiment
from experiments.config import Adaptive, ByComplexity, Config, Data, Optim, PuppetCNN
from experiments.evaluation.summary import Summary
from experiments.runs import folder as run_folder
from experiments.training import run
from experiments.training.checkpoint import Checkpoints
from experiments.training.step import init_state

CONFIG = Config(
    network=PuppetCNN(
        channels=(8,),  # one layer, and one depth: one small program to compile
        depth=ByComplexity(depths=(1, 1)),
        kernels=Adaptive(levels_per_batch=1, num_levels=4),
        affine=True,
    ),
    data=Data(num_images=64, num_validation=200, augment="crop_flip"),
    optim=Optim(epochs=4, batch_size=16, learning_rate=0.1),
)
PER_EPOCH, STEPS = 4, 16
SUMMARY = {field.name for field in dataclasses.fields(Summary)}
TIMED = {"latency_s", "latency_generating_s", "images_per_s"}


def leave_pictures_out(patch: pytest.MonkeyPatch) -> None:
    """Empty ones are drawn instead."""
    for name in ("plot_curves", "plot_depths"):
        patch.setattr(plots, name, lambda *_: Figure(figsize=(0.1, 0.1)))


class Recorder:
    """Notes every step that is taken; sends a signal after some, spoils the loss of others."""

    def __init__(self, cache: Path):
        self.cache = cache
        names = ("make_train_step", "make_optimizer", "make_stats_estimator", "load_dataset")
        self.makers = {name: functools.cache(getattr(run, name)) for name in names}  # compiled once for all runs
        self.reset()

    def reset(self, signals=None, spoilt=()):
        self.signals, self.spoilt = dict(signals or {}), spoilt
        self.steps: list[tuple[Any, ...]] = []

    @contextlib.contextmanager
    def watching(self, pictures: bool = False) -> Iterator[None]:
        """Runs within are noted; without pictures, which take longer than the rest, unless they are wanted."""
        with pytest.MonkeyPatch.context() as patch:
            if not pictures:
                leave_pictures_out(patch)
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(self.cache))
            for name, maker in self.makers.items():
                patch.setattr(run, name, maker)
            patch.setattr(run, "make_train_step", self.make_train_step)
            yield

    def make_train_step(self, config, network, tx, layout=None):
        train_step = self.makers["make_train_step"](config, network, tx, layout)

        def step(state, data, indices, *, depth):
            number = int(state.step) + 1
            state = jax.device_put(state, jax.devices()[0])  # as a restored one is; else all is compiled once more
            state, metrics = train_step(state, data, indices, depth=depth)
            if number in self.spoilt:
                metrics = metrics | {"loss": jnp.float32(self.spoilt[number])}
            self.steps.append((number, depth, indices.tolist(), float(metrics["loss"])))
            if number in self.signals:
                os.kill(os.getpid(), self.signals.pop(number))
            return state, metrics

        return step


@dataclasses.dataclass
class Done:
    """A finished run."""

    folder: Path
    steps: list[tuple[Any, ...]]
    summary: Summary


def command_line(folder, *flags, config=CONFIG):
    return run_experiment("digits", {"tiny": config}, "Trains.", ["--workdir", str(folder), *flags])


def rows(folder):
    return run_folder.read_metrics(folder)


def without_times(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "images_per_s")}


def final_state(folder):
    """Every float of the newest checkpoint."""
    network = CONFIG.network.make(10, (8, 8, 1))
    tx = run.make_optimizer(CONFIG.optim, network, STEPS)
    shapes = jax.eval_shape(lambda: init_state(CONFIG, network, (1,), tx))
    like = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes)
    with Checkpoints(folder / run_folder.CHECKPOINTS) as checkpoints:
        return checkpoints.latest_step, jax.tree.leaves(checkpoints.restore(like))


def assert_same_run(folder, straight):
    step, leaves = final_state(folder)
    expected_step, expected = final_state(straight.folder)
    assert step == expected_step == STEPS
    assert len(leaves) == len(expected)
    for one, other in zip(leaves, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    ours = (folder / run_folder.MODEL).read_bytes()
    assert ours == (straight.folder / run_folder.MODEL).read_bytes()
