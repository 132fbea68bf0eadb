"""What is timed, and how."""

import numpy as np
from made_up import graded_images, make_model

from experiments.evaluation.speed import speed
from experiments.model import Model


def test_speed_measures_each_kind_of_call(monkeypatch):
    batches, settings = [], []

    def predictor(self, **overrides):
        settings.append(overrides)
        return lambda images: batches.append(len(images)) or np.zeros((len(images), 10), np.float32)

    monkeypatch.setattr(Model, "predictor", predictor)
    result = speed(make_model(), graded_images(), adaptation="level")
    assert set(result) == {"latency_s", "latency_generating_s", "images_per_s"}
    assert all(value > 0 for value in result.values())
    assert set(batches) == {1, 256}
    assert [setting["adaptation"] for setting in settings] == ["level", "sample"]
