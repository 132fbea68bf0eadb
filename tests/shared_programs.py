"""Runs of several configurations that share compiled programs: compiling takes longer than all else that they do."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from tiny_run import TIMED, leave_pictures_out

from experiments.config import Config
from experiments.evaluation import accuracy
from experiments.training import rounding, run


def share_programs(patch: pytest.MonkeyPatch, same: Callable[[Config], Config]) -> None:
    """Steps and statistics are compiled once for all configurations that `same` maps to one.

    Speed is not measured, and no pictures are drawn.
    """

    def shared(make):
        cached = functools.cache(make)
        return lambda config, *others: cached(same(config), *others)

    def placed(make):
        def make_train_step(*arguments):
            train_step = make(*arguments)
            # as a restored state is; else all is compiled once more
            return lambda state, *data, depth: train_step(jax.device_put(state, jax.devices()[0]), *data, depth=depth)

        return make_train_step

    def placed_estimator(make):
        def make_stats_estimator(*arguments):
            estimate = make(*arguments)
            return lambda params, *others: estimate(jax.device_put(params, jax.devices()[0]), *others)

        return make_stats_estimator

    leave_pictures_out(patch)
    estimator = placed_estimator(shared(run.make_stats_estimator))
    patch.setattr(run, "make_stats_estimator", estimator)
    patch.setattr(rounding, "make_stats_estimator", estimator)
    patch.setattr(run, "make_train_step", placed(shared(run.make_train_step)))
    patch.setattr(run, "make_optimizer", functools.cache(run.make_optimizer))
    patch.setattr(accuracy, "speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))


def stand_still(patch: pytest.MonkeyPatch) -> None:
    """Steps of training are counted and change nothing: for what is around them. Speed is not measured."""

    def make_train_step(config, network, tx, layout=None):
        metrics = {"loss": jnp.float32(1), "correct": jnp.float32(0)}
        return lambda state, data, indices, *, depth: (state._replace(step=state.step + 1), metrics)

    patch.setattr(run, "make_train_step", make_train_step)
    patch.setattr(accuracy, "speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))
