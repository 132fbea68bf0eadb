"""The models that ship compute what they computed when their values were recorded (`tests/pins`)."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import quick
from pictures import photo

import puppet_jax as pj

PINS = json.loads((Path(__file__).parent / "pins" / "models.json").read_text())


@pytest.mark.parametrize("name", quick(pj.pretrained_models(), "cifar10-c64-4bit", "cifar10-adaptive"))
def test_pretrained_model(name):
    pin, model = PINS[name], pj.load_pretrained(name)
    h, depth = pin["h"], pin["depth"]
    assert depth in model.batch_stats and pj.num_floats(model.params) == pin["trainable_floats"]
    if len(model.batch_stats) == 1:
        assert model.complexity == pj.CalibratedComplexity(scale=0.0, offset=h)

    kernels = pj.generate_kernels(model.params.puppeteer, h, model.puppet.kernel_shapes(depth))
    entries = [[kernel.reshape(-1)[i] for i in (0, kernel.size // 3, kernel.size - 1)] for kernel in kernels]
    # other processors sum in another order; a kernel that is wrong is off by its own size, 0.1 to 1
    np.testing.assert_allclose(entries, pin["kernels"], atol=2e-4)

    logits = model.predictor()(photo(*model.image_shape)[None])[0]
    np.testing.assert_allclose(logits, pin["logits"], atol=5e-3)
