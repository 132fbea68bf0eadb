"""Accuracy by hand, and what a model costs by hand."""

import dataclasses
import math

import numpy as np
import pytest
from made_up import PUPPET, graded_images, make_model

import puppet_jax as pj
from experiments.evaluation import accuracy as module
from experiments.evaluation.accuracy import accuracy, agreement, evaluate
from experiments.model import Model, save_model
from puppet_jax.routing import nearest_depths

N = 12


class TestAccuracy:
    def test_by_hand(self):
        """Class 1 is right, is second and is last, of six."""
        logits = np.array([[0, 5, 1, 2, 3, 4], [0, 4, 1, 2, 3, 5], [1, 0, 2, 3, 4, 5]], np.float32)
        result = accuracy(logits, np.array([1, 1, 1], np.int32))
        total = math.log(sum(math.exp(x) for x in range(6)))
        assert set(result) == {"top1", "top5", "loss"}
        assert result["top1"] == pytest.approx(1 / 3)
        assert result["top5"] == pytest.approx(2 / 3)
        assert result["loss"] == pytest.approx(total - (5 + 4 + 0) / 3, rel=1e-6)
        assert all(type(value) is float for value in result.values())

    def test_top5_of_five_classes_is_all(self):
        logits = np.random.Generator(np.random.PCG64(0)).standard_normal((20, 5)).astype(np.float32)
        assert accuracy(logits, np.zeros(20, np.int32))["top5"] == 1

    def test_top5_counts_the_fifth_but_not_the_sixth(self):
        logits = np.arange(10, 0, -1, dtype=np.float32)[None]
        assert [accuracy(logits, np.array([label], np.int32))["top5"] for label in (4, 5)] == [1, 0]

    def test_is_that_of_the_greatest_logit(self):
        """Ties count as `argmax` decides them: a model that says the same of every class is at chance."""
        logits = np.zeros((100, 10), np.float32)
        labels = (np.arange(100) % 10).astype(np.int32)
        result = accuracy(logits, labels)
        assert result["top1"] == pytest.approx(0.1)
        assert result["top5"] == pytest.approx(0.5)
        assert result["loss"] == pytest.approx(math.log(10))

    def test_nan_is_never_right(self):
        logits = np.full((10, 10), np.nan, np.float32)
        result = accuracy(logits, np.arange(10, dtype=np.int32))
        assert result["top1"] <= 0.1
        assert result["top5"] <= 0.5


@pytest.fixture(scope="module")
def images():
    return graded_images(N)


@pytest.fixture(scope="module")
def measured(images, tmp_path_factory):
    """A model, its file, the labels, and what was measured (but for the speed)."""
    model = make_model()
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, model)
    labels = (np.arange(N) % 10).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "speed", lambda *arguments, **overrides: {"latency_s": 1.0})
        return model, path, labels, evaluate(model, images, labels, path)


class TestEvaluate:
    def test_depths(self, measured, images):
        model, _, _, result = measured
        expected = np.asarray(pj.depth(pj.complexities(images, model.complexity)))
        assert set(result["depth_counts"]) == {"1", "2"}
        assert result["depth_counts"] == {str(depth): int((expected == depth).sum()) for depth in (1, 2)}
        assert sum(result["depth_counts"].values()) == N == result["test_images"]
        assert result["depth_mean"] == pytest.approx(expected.mean())
        assert result["depth_std"] == pytest.approx(expected.std())

    def test_accuracy_is_that_of_the_predictor(self, measured, images):
        model, _, labels, result = measured
        logits = model.predictor()(images)
        assert {name: result[name] for name in ("top1", "top5", "loss")} == pytest.approx(accuracy(logits, labels))
        counts = result["depth_counts"]
        weighted = sum(result["depth_top1"][depth] * n for depth, n in counts.items()) / N
        assert result["top1"] == pytest.approx(weighted)

    def test_macs(self, measured):
        """Two 3x3 stages, 8 x 8 pixels and then 4 x 4; one or two layers in each; ten classes of eight features."""
        result = measured[3]
        one = 9 * 1 * 4 * 64 + 9 * 4 * 8 * 16 + 80
        two = 9 * 1 * 4 * 64 + 9 * 4 * 4 * 64 + 9 * 4 * 8 * 16 + 9 * 8 * 8 * 16 + 80
        share = result["depth_counts"]["2"] / N
        assert result["puppet_macs"] == round(one + share * (two - one))
        step = (8**2 + 11 * 8) * 8 * 9  # a state of 8 x 8 x 9
        assert result["generator_macs"] == round(2 * step * (1 + share))

    def test_bytes(self, measured):
        _, path, _, result = measured
        puppeteer = 9 * 8 + 8 + 8 * 8 + 8 + 4 * 8  # depthwise and pointwise with biases, two norms
        assert result["puppeteer_bytes"] == 4 * puppeteer
        assert result["trainable_bytes"] == 4 * (puppeteer + 80 + 10)
        assert result["file_bytes"] == path.stat().st_size

    def test_speed_is_included(self, measured):
        assert measured[3]["latency_s"] == 1.0

    def test_a_generated_classifier_is_one_more_step_and_stores_nothing(self, images, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "speed", lambda *arguments, **overrides: {})
        model = make_model(dataclasses.replace(PUPPET, classifier="generated"))
        save_model(tmp_path / "model", model)
        monkeypatch.setattr(Model, "predictor", lambda self, **overrides: Fixed())
        result = evaluate(model, images, np.zeros(N, np.int32), tmp_path / "model")
        assert result["trainable_bytes"] == result["puppeteer_bytes"]
        step = (10**2 + 11 * 10) * 10 * 9
        share = result["depth_counts"]["2"] / N
        assert result["generator_macs"] == round(step * (3 + 2 * share))
        assert result["top1"] == 1


class Fixed:
    """Says class 0 of every image."""

    depths = (1, 2)

    def __call__(self, images, h=None):
        return np.eye(10, dtype=np.float32)[np.zeros(len(images), int)]

    def route(self, images, h):
        return self(images), nearest_depths(h, self.depths)


def test_agreement_is_that_of_the_classes(images, monkeypatch):
    """Their own kernels put three of twelve images into another class."""

    def predictor(self, adaptation):
        classes = {"level": np.zeros(N, int), "sample": (np.arange(N) >= 9).astype(int)}[adaptation]
        return lambda images, h: np.eye(10, dtype=np.float32)[classes]

    monkeypatch.setattr(Model, "predictor", predictor)
    assert agreement(make_model(), images) == 0.75
