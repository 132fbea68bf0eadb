"""Which images an ensemble answers, and what that costs, by hand."""

import types

import numpy as np
import pytest

from experiments.evaluation.accuracy import evaluate_ensemble

IMAGES = np.repeat(np.arange(4, dtype=np.uint8), 64).reshape(4, 8, 8, 1)  # image n has the grey value n, shifted or not
LABELS = np.array([0, 0, 0, 1])


class Fake:
    """A model of given logits; image n takes 100 (n + 1) multiply-accumulates. Notes which images it was asked for."""

    def __init__(self, *logits):
        self.logits = np.array(logits, np.float32)
        self.params = None
        self.network = types.SimpleNamespace(macs=lambda params, depth: (7, 100 * depth))
        self.asked = []

    def predictor(self):
        return self

    def route(self, images):
        which = np.asarray(images)[:, 0, 0, 0].astype(int)
        self.asked.append(which.tolist())
        return self.logits[which], which + 1


SURE, UNSURE, WRONG = [9.0, 0.0], [0.1, 0.0], [0.0, 9.0]


def test_all_images():
    """Twice the same network: what it answers by itself, for twice the multiply-accumulates."""
    model = Fake(SURE, UNSURE, SURE, SURE)
    found = evaluate_ensemble([model, model], False, (IMAGES, LABELS), (IMAGES[:2], LABELS[:2]), 1.0)
    assert (found["top1"], found["validation_top1"]) == (0.75, 1)
    assert (found["test_fraction"], found["threshold"]) == (1, 2)
    assert found["puppet_macs"] == 2 * 100 * (1 + 2 + 3 + 4) / 4


def test_images_of_least_confidence():
    """The second model answers what the first is unsure of: image 1 alone, of both halves."""
    first, second = Fake(SURE, UNSURE, SURE, SURE), Fake(*[WRONG] * 4)
    found = evaluate_ensemble([first, second], False, (IMAGES, LABELS), (IMAGES, LABELS), 0.25)
    assert second.asked == [[1], [1]]
    assert found["top1"] == 0.5  # image 1 becomes wrong, image 3 is
    assert found["test_fraction"] == 0.25
    assert np.tanh(0.05) < found["threshold"] < 1  # the confidence of image 1: the difference of its probabilities
    assert found["puppet_macs"] == round(100 * (1 + 2 + 3 + 4 + 2) / 4)


@pytest.mark.parametrize(("fraction", "seen"), [(1.0, [0, 1, 2, 3]), (0.25, [1])])
def test_shifted_views(fraction, seen):
    """Four more looks at the images of least confidence, here at what is the same image."""
    model = Fake(SURE, UNSURE, SURE, SURE)
    found = evaluate_ensemble([model], True, (IMAGES, LABELS), (IMAGES, LABELS), fraction)
    assert model.asked == [[0, 1, 2, 3], *[seen] * 4] * 2
    assert (found["top1"], found["test_fraction"]) == (0.75, fraction)
    assert found["puppet_macs"] == 100 * (10 + 4 * sum(n + 1 for n in seen)) / 4
