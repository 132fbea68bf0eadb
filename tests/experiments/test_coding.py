"""Bytes of what inference needs, after Brotli."""

import dataclasses
import sys

import jax
import numpy as np
import pytest
from made_up import PUPPET, make_model

from experiments.evaluation import coding
from experiments.evaluation.coding import coded_bytes, needed
from experiments.model import load_model
from puppet_jax.pretrained import pretrained_file
from puppet_jax.puppeteer import IDLE_BIASES

brotli = pytest.importorskip("brotli")
ONE_DEPTH = dataclasses.replace(PUPPET, layers=(1, 1), affine=True)


def test_statistics_count_where_they_cannot_be_merged():
    model = make_model()
    leaves = jax.tree.leaves((model.params, model.batch_stats))
    idle = sum(getattr(model.params.puppeteer, name).size for name in IDLE_BIASES)
    floats = sum(leaf.size for leaf in leaves) - idle
    assert 0.8 * 4 * floats < coded_bytes(model) < 4 * floats  # numbers of chance hardly shrink


def test_statistics_of_one_depth_cost_nothing():
    model = make_model(ONE_DEPTH, (2,))
    floats = sum(leaf.size for leaf in jax.tree.leaves(model.params)) - 3 * 8
    assert 0.8 * 4 * floats < coded_bytes(model) < 4 * floats
    params, stats = needed(model)
    assert (stats, jax.tree.structure(params)) == ({}, jax.tree.structure(model.params))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    merged = dataclasses.replace(model, params=params, batch_stats={2: model.network.init_stats(2)})
    wanted = model.predictor()(images)
    np.testing.assert_allclose(merged.predictor()(images), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_of_a_model_of_the_package():
    model = load_model(pretrained_file("cifar10-c64-4bit"))
    assert model.stored_bytes()[1] == 3890
    assert coded_bytes(model) == pytest.approx(4195, abs=20)  # by version


def test_values_that_float16_does_not_hold_are_the_nearest():
    model = dataclasses.replace(make_model(ONE_DEPTH, (2,)), bits=4)
    stats = jax.tree.map(lambda leaf: 1e5 * leaf, model.batch_stats)
    norms = sum(leaf.size for leaf in jax.tree.leaves((model.params.norm_scale, model.params.norm_bias)))
    assert 0 < coded_bytes(dataclasses.replace(model, batch_stats=stats)) < model.stored_bytes()[1] + norms + 20


def test_many_bytes_are_coded_in_less_time(monkeypatch):
    """Which Brotli is asked for, not how long it takes."""
    asked, compress = [], brotli.compress
    monkeypatch.setattr(brotli, "compress", lambda data, quality: asked.append(quality) or compress(data, quality=5))
    few, model = coded_bytes(make_model()), make_model()
    monkeypatch.setattr(coding, "FEW_BYTES", 1000)
    many = coded_bytes(model)
    assert (asked, many) == ([11, 5], few)


def test_without_the_library_nobody_knows(monkeypatch):
    monkeypatch.setitem(sys.modules, "brotli", None)
    assert coded_bytes(make_model()) is None
