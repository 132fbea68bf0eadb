"""Trains as `experiments.cifar10` does, and measures averages of the parameters beside: averages.py FLAGS..."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.cifar10 import PRESETS
from experiments.cli import main, run_experiment
from experiments.evaluation.accuracy import accuracy
from experiments.training import run
from experiments.training.step import rounded

DECAYS = (0.98, 0.99, 0.995, 0.998, 0.999)
averages: dict[float, object] = {}
held: dict[str, object] = {}
make_step, make_estimator, validate, load = run.make_train_step, run.make_stats_estimator, run.validated, run._load


@jax.jit
def moved(average, params, decay):
    """The exponential average after one more step."""
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)


def make_train_step(config, network, tx, layout=None):
    """The same step, after which every average moves."""
    step = make_step(config, network, tx, layout)
    held.update(config=config, network=network)

    def stepped(state, data, indices, *, depth):
        state, metrics = step(state, data, indices, depth=depth)
        for decay in DECAYS:
            before = averages.get(decay)
            averages[decay] = (
                jax.tree.map(jnp.copy, state.params) if before is None else moved(before, state.params, decay)
            )
        return state, metrics

    return stepped


def make_stats_estimator(*settings):
    """The same, and keeps how statistics of other parameters are estimated."""
    estimate = make_estimator(*settings)

    def estimated(params, data, batches):
        held.update(estimate=lambda params: estimate(params, data, batches))
        return estimate(params, data, batches)

    return estimated


def validated(model, images, labels, h):
    """The same, and measures every average; after the last step on test images too."""
    config, network = held["config"], held["network"]
    of = {"0": (model.params, model.batch_stats)}
    for decay, params in averages.items():
        of[str(decay)] = (rounded(config, network, params), held["estimate"](params))
    row = {"step": model.step}
    last = model.step == held["steps"]
    for name, (params, stats) in of.items():
        predictor = dataclasses.replace(model, params=params, batch_stats=stats).predictor(max_sets=1)
        found = accuracy(predictor(images, h), labels)
        row[name] = [found["top1"], found["loss"]]
        if last:
            data = held["dataset"]
            row[name].append(accuracy(predictor(data.test_images), data.test_labels)["top1"])
    with Path(sys.argv[sys.argv.index("--workdir") + 1]).with_suffix(".averages").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return validate(model, images, labels, h)


def loaded(experiment, options):
    """The same, and keeps the images."""
    held["dataset"] = load(experiment, options)
    return held["dataset"]


class Schedule(run.Schedule):
    """The same, and keeps the number of steps."""

    def __init__(self, **settings):
        super().__init__(**settings)
        held["steps"] = self.steps


run.make_train_step, run.make_stats_estimator, run.validated, run._load = (
    make_train_step,
    make_stats_estimator,
    validated,
    loaded,
)
run.Schedule = Schedule
main(run_experiment, "cifar10", PRESETS, "averages")
