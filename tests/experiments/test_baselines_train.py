"""The systems that the papers compare with learn: each fits 64 images, and its gradient is that of its loss.

`pytest -m slow tests/experiments/test_baselines_train.py`, about twenty minutes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import (
    DDF,
    DFN,
    DRNN,
    BranchyNet,
    Config,
    DenseDDF,
    HyperWRN,
    ODENet,
    Optim,
    ResNet8,
    SkipNet,
    Tiniest,
    WeightNet,
)
from experiments.training.optimizer import make_optimizer
from experiments.training.step import Data, init_state, make_train_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 32, 32, 3), np.uint8)
LABELS = RNG.integers(0, 10, 64).astype(np.int32)
CONFIGS = {
    "DFN": DFN(width=64),
    "WeightNet": WeightNet(width=64),
    "DDF": DDF(width=128),
    "DDF, add": DDF(width=128, combine="add"),
    "DDF, dense": DenseDDF(width=128),
    "BranchyNet": BranchyNet(width=64),
    "SkipNet": SkipNet(width=64),
    "SkipNet, soft": SkipNet(width=64, gates="soft"),
    "DRNN": DRNN(width=64, num_loops=2),
    "ODE-Net, Euler": ODENet(solver="euler", num_steps=4),
    "ODE-Net, adaptive": ODENet(solver="dopri5"),
    "hypernetwork": HyperWRN(num_layers=10),
    "tiniest": Tiniest(),
    "ResNet-8": ResNet8(),
}


@functools.cache
def start(name):
    config = Config(network=CONFIGS[name], optim=Optim(learning_rate=3e-3))
    network = config.network.make(10, IMAGES.shape[1:])
    tx = make_optimizer(config.optim, network, 200)
    return config, network, tx, init_state(config, network, (network.depth,), tx)


@pytest.mark.parametrize("name", CONFIGS)
def test_fits_64_images(name):
    config, network, tx, state = start(name)
    state = jax.tree.map(jnp.array, state)  # the step takes its argument
    step = make_train_step(config, network, tx)
    data, indices = Data(IMAGES, LABELS, np.ones(64, np.float32)), np.arange(64, dtype=np.int32)
    fractions = []
    while len(fractions) < 200 and (not fractions or fractions[-1] < 1):
        state, metrics = step(state, data, indices, depth=network.depth)
        fractions.append(float(metrics["correct"]))
    assert fractions[-1] == 1
    stats = {
        network.depth: jax.jit(lambda params: network.apply(params, None, IMAGES, None, network.depth)[1])(state.params)
    }
    logits = network.predictor(state.params, stats, adaptation="level", num_levels=1)(IMAGES)
    if name != "SkipNet, soft":  # whose gates are others in evaluation
        assert (logits.argmax(axis=1) == LABELS).mean() > 0.95


# SkipNet's hard gates have no gradient; where all hidden units of a filter of DDF are 0, filters jump as one leaves 0
WITHOUT = ("SkipNet", "DDF", "DDF, add")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in WITHOUT])
def test_gradient(name):
    """Along a random direction, against a central difference."""
    _, network, _, state = start(name)
    params = dict(state.params)
    if name == "DRNN":  # gates that are sure, since the gradient of hard ones is that of soft ones
        params |= {key: leaf + 9 for key, leaf in params.items() if key.endswith("decide.bias")}
    targets = np.eye(10, dtype=np.float32)[LABELS[:8]]

    @jax.jit
    def loss(params):
        return network.loss(network.apply(params, None, IMAGES[:8], None, network.depth)[0], targets)[0]

    rng = np.random.default_rng(1)
    direction = {
        key: jnp.asarray(rng.normal(size=leaf.shape) * np.std(leaf), jnp.float32) for key, leaf in params.items()
    }
    slope = sum(jnp.vdot(direction[key], leaf) for key, leaf in jax.jit(jax.grad(loss))(params).items())
    differences = []
    for eps in (3e-3, 1e-3, 3e-4, 1e-4):  # kinks ask for small steps, rounding for large ones
        ahead, behind = ({key: leaf + sign * eps * direction[key] for key, leaf in params.items()} for sign in (1, -1))
        differences.append(float(loss(ahead) - loss(behind)) / (2 * eps))
    assert min(abs(difference - float(slope)) for difference in differences) < 0.05 * abs(float(slope)) + 1e-2
