"""`puppetize` on networks that it was not written for: training, order, values, statistics, transforms, copies."""

import copy
import hashlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest
import reference
from flax import nnx
from helpers import quick
from puppets import X, by_hand, equal_trees, find, noise, one_layer, recorded_order, small

import puppet_jax as pj
from puppet_jax.puppeteer import IDLE_BIASES
from puppet_jax.puppetized.order import Kernel

NETWORKS = {  # class, input, C, K, number of kernels
    "MobileNet-v2": (models.MobileNetV2, (4, 8, 8, 3), 12, 3, 12),
    "DenseNet": (models.DenseNet, (4, 8, 8, 3), 12, 3, 10),
    "U-Net": (models.UNet, (4, 8, 8, 3), 8, 3, 5),
    "1-D": (models.Audio, (4, 20, 2), 8, 3, 2),
    "3-D": (models.Volume, (4, 5, 6, 6, 1), 8, 3, 2),
}


# Networks it was not written for.


@pytest.mark.parametrize("name", quick(NETWORKS, "1-D"))
def test_networks_train(name, monkeypatch):
    """Shape of the result, order, sizes, a gradient for every parameter, and a loss that falls in ten steps."""
    network, shape, c, k, count = NETWORKS[name]
    net, x = models.build(network), noise(*shape)
    where = lambda path, conv: path != ("out",)  # the classifier of the U-Net's pixels is an ordinary convolution  # noqa: E731
    puppet = pj.puppetize(net, jax.ShapeDtypeStruct(shape, jnp.float32), where=where)
    order = [puppet.kernels[place].paths[0][:-1] for place in puppet.execution_order]
    assert order == [path for path in recorded_order(net, x, monkeypatch) if path != ("out",)]
    assert len(order) == len(puppet.kernels) == count
    assert puppet.puppeteer.get_value().state_shape == (c, c, k * k)
    assert pj.num_floats(puppet.puppeteer) == c * c + 15 * c
    assert {p.shape for p in jax.tree.leaves(nnx.state(puppet.model, nnx.Param))}.isdisjoint(
        one.shape for one in puppet.kernels
    )

    graphdef, params, rest = nnx.split(puppet, nnx.Param, ...)  # `...`: not every network has batch norms
    optimizer = optax.adam(1e-2)
    expected = jax.eval_shape(lambda x: nnx.clone(net)(x), x)
    target = noise(*expected.shape, seed=1)

    @jax.jit
    def step(params, rest, opt_state):
        def loss_fn(params):
            puppet = nnx.merge(graphdef, params, rest, copy=True)
            out = puppet(x, h=4.2)
            assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
            return jnp.square(out - target).mean(), nnx.split(puppet, nnx.Param, ...)[2]

        (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), rest, opt_state, loss, grads

    opt_state, losses = optimizer.init(params), []
    for n in range(10):
        params, rest, opt_state, loss, grads = step(params, rest, opt_state)
        losses.append(float(loss))
        if n == 0:
            slopes = {path[0]: np.abs(slope).max() for path, slope in nnx.to_flat_state(grads["puppeteer"])}
            assert len(slopes) == 8 and np.isfinite(list(slopes.values())).all()
            largest = max(slopes.values())
            assert all(slopes[name] > 1e-4 * largest for name in slopes.keys() - set(IDLE_BIASES)), slopes
            assert all(slopes[name] < 1e-4 * largest for name in IDLE_BIASES), slopes
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
            assert name != "U-Net" or np.any(grads["model"]["out"]["kernel"][...])
    assert losses[-1] < 0.98 * losses[0], losses


def test_training_with_an_nnx_optimizer():
    """As the README of Flax trains any model; batch statistics follow, and the model that was given stays."""
    net = models.build(models.Small)
    before = jax.tree.map(np.array, nnx.state(net))
    puppet = pj.puppetize(net)
    optimizer = nnx.Optimizer(puppet, optax.adam(1e-2), wrt=nnx.Param)
    labels = jnp.array([0, 1, 1, 0])

    @nnx.jit
    def step(puppet, optimizer, x, labels, h):
        def loss_fn(puppet):
            return optax.softmax_cross_entropy_with_integer_labels(puppet(x, h=h), labels).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(puppet)
        optimizer.update(puppet, grads)
        return loss

    start = jax.tree.map(np.array, nnx.state(puppet, nnx.Param))
    losses = [float(step(puppet, optimizer, X, labels, jnp.float32(4.2))) for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0], losses
    assert puppet.execution_order == (1, 0)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != np.asarray(b))), start, nnx.state(puppet, nnx.Param))
    stay = {"/".join(path[:2]) for path, changed in nnx.to_flat_state(moved) if not changed.get_value()}
    assert stay <= {f"puppeteer/{name}" for name in IDLE_BIASES}
    assert np.any(np.asarray(puppet.model.norm.mean) != 0)
    assert equal_trees(nnx.state(net), before)
    assert isinstance(net.a.kernel, nnx.Param) and net.a.conv_general_dilated is jax.lax.conv_general_dilated


# Order and values.


@pytest.fixture(scope="module")
def misleading():
    net = models.build(models.Misleading)
    return net, pj.puppetize(net, X)


def test_kernels_are_in_the_order_in_which_they_run(misleading, monkeypatch):
    net, puppet = misleading
    record = recorded_order(net, X, monkeypatch)
    assert [puppet.kernels[place].paths[0][:-1] for place in puppet.execution_order] == record
    assert record[0] == ("z",) and record[-1] == ("a",) and len(record) == 22
    assert record != sorted(record, key=str) and record != [one.paths[0][:-1] for one in puppet.kernels]


def test_settings_of_a_new_puppeteer():
    puppet = pj.puppetize(models.build(models.Small), X, seed=3, scale=0.2, kernels_from="velocity")
    generator = puppet.puppeteer.get_value()
    assert (generator.seed, generator.scale, generator.kernels_from) == (3, 0.2, "velocity")
    shapes = [puppet.kernels[place].hwio for place in puppet.execution_order]
    for place, kernel in zip(puppet.execution_order, pj.generate_kernels(generator, 4.0, shapes), strict=True):
        found = puppet.generate(4.0)[place]
        np.testing.assert_allclose(found, kernel.reshape(found.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", [models.Misleading, models.Audio, models.Volume])
def test_kernels_are_those_of_the_reference(network):
    """Taps are read row by row, whatever the number of axes; a grouped kernel has the shape that its layer holds."""
    h = 3.2
    shape = {models.Misleading: (1, 6, 6, 3), models.Audio: (1, 20, 2), models.Volume: (1, 5, 6, 6, 1)}[network]
    net = models.build(network)
    shapes = {path: node.kernel.shape for path, node in nnx.iter_graph(net) if isinstance(node, nnx.Conv)}
    kernel_size = 7 if network is models.Volume else 3  # 27 taps in one step
    puppet = pj.puppetize(net, jax.ShapeDtypeStruct(shape, jnp.float32), kernel_size=kernel_size)
    generator = puppet.puppeteer.get_value()
    params = {name: np.asarray(value) for name, value in vars(generator).items() if isinstance(value, jax.Array)}
    pattern = generator.scale * np.asarray(pj.seeded_pattern(generator.max_channels, generator.kernel_size, 0))
    order = [puppet.kernels[place].paths[0][:-1] for place in puppet.execution_order]
    flat = [(1, int(np.prod(shapes[path][:-2])), *shapes[path][-2:]) for path in order]
    model, kernels = puppet.instantiate(h), puppet.generate(h)
    expected = reference.generate_kernels(params, h, pattern, flat)
    for place, path, kernel in zip(puppet.execution_order, order, expected, strict=True):
        placed = find(model, path).kernel
        assert isinstance(placed, Kernel) and placed.shape == puppet.kernels[place].shape
        np.testing.assert_array_equal(placed[...], kernels[place])
        assert reference.relative_error(placed[...], kernel.reshape(shapes[path])) < 1e-4
    if network is models.Misleading:
        assert set(shapes.values()) >= {(3, 3, 1, 4), (3, 3, 2, 4), (3, 3, 4, 4), (1, 1, 4, 4), (3, 3, 4, 2)}


def test_is_the_original_with_these_kernels(misleading):
    net, puppet = misleading
    assert reference.relative_error(puppet(X, h=3.7), by_hand(net, puppet, 3.7)(X)) < 1e-5
    assert np.any(np.asarray(puppet(X, h=3.7)) != np.asarray(puppet(X)))


def test_h_of_its_own_where_a_call_gives_none():
    puppet = small(h=3.3)
    np.testing.assert_array_equal(puppet(X), small(h=4.5)(X, h=3.3))
    assert puppet.h == 3.3


def test_a_puppeteer_of_one_tap_makes_windows():
    puppet = pj.puppetize(models.build(models.Small), X, kernel_size=1)
    assert puppet.puppeteer.get_value().state_shape == (4, 4, 1)
    assert sum(puppet.summary().trajectory.steps) == 2 * 9
    assert puppet(X).shape == pj.puppetize(models.build(models.Small), X)(X).shape


def test_a_small_puppeteer_makes_a_wide_model():
    puppet = pj.puppetize(models.build(models.Small), X, max_channels=3)
    assert pj.num_floats(puppet.puppeteer) == 3**2 + 15 * 3
    shapes = [puppet.kernels[place].hwio for place in puppet.execution_order]
    expected = pj.generate_kernels(puppet.puppeteer.get_value(), 4.0, shapes)
    kernels = puppet.generate(4.0)
    assert max(max(shape) for shape in shapes) > 3
    for place, kernel in zip(puppet.execution_order, expected, strict=True):
        np.testing.assert_array_equal(kernels[place].reshape(kernel.shape), kernel)
    assert np.isfinite(puppet(X, h=4.0)).all()


# Statistics, shared kernels, kernels left alone.


def test_statistics_follow_as_in_the_plain_model():
    net, puppet = small(puppet=False), small()
    puppet(X, h=3.0)
    plain = by_hand(net, puppet, 3.0)
    plain(X)
    ours, theirs = (jax.tree.leaves(nnx.state(one, nnx.BatchStat)) for one in (puppet.model, plain))
    assert all(reference.relative_error(own, other) < 1e-5 for own, other in zip(ours, theirs, strict=True))
    assert np.any(np.asarray(puppet.model.norm.mean[...]) != 0) and not np.any(np.asarray(net.norm.mean[...]))
    puppet.eval()
    plain.eval()
    before = jax.tree.map(np.array, nnx.state(puppet))
    assert reference.relative_error(puppet(X, h=3.0), plain(X)) < 1e-5
    assert equal_trees(nnx.state(puppet), before)


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.loop = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.again = self.loop  # the same module
        self.other = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.other.kernel = self.loop.kernel  # the same kernel, another bias

    def __call__(self, x):
        return self.other(self.again(self.loop(self.stem(x))))


def test_tied_convolutions_use_one_kernel():
    net = models.build(Tied)
    puppet = pj.puppetize(net, X)
    assert sorted(len(one.paths) for one in puppet.kernels) == [1, 2]
    model = puppet.instantiate(3.0)
    assert model.loop is model.again and model.loop.kernel is model.other.kernel
    assert model.other is not model.loop
    assert reference.relative_error(puppet(X, h=3.0), by_hand(net, puppet, 3.0)(X)) < 1e-5


def test_a_convolution_left_alone_is_stored():
    net, puppet = small(puppet=False), small(where=lambda path, conv: path != ("b",))
    assert [str(one) for one in puppet.kernels] == ["a (3, 3, 4, 4)"]
    np.testing.assert_array_equal(puppet.model.b.kernel[...], net.b.kernel[...])
    assert puppet.model.b.kernel is not net.b.kernel
    params = nnx.state(puppet, nnx.Param)["model"]
    assert "kernel" in params["b"] and "kernel" not in params["a"]


def test_grouped_convolutions_are_left_alone_on_request():
    net = models.build(models.MobileNetV2)
    puppet = pj.puppetize(net, X, where=lambda path, conv: conv.feature_group_count == 1)
    assert len(puppet.kernels) == 9
    assert all(path[-2] != "conv2" or len(path) == 2 for o in puppet.kernels for path in o.paths)
    assert puppet.model.layers[1].conv2.kernel.shape == (3, 3, 1, 8)


def test_splits_into_parameters_statistics_and_settings():
    puppet = small()
    graphdef, params, stats, rest = nnx.split(puppet, nnx.Param, nnx.BatchStat, ...)
    assert hash(graphdef) == hash(nnx.split(puppet)[0])
    assert [path for path, _ in nnx.to_flat_state(rest)] == [("settings", "seeded, K 3, seed 0, scale 0p1, state")]
    shapes = sorted("/".join(path) for path, _ in nnx.to_flat_state(params))
    assert [name for name in shapes if name.startswith("model")] == [
        "model/a/bias",
        "model/b/bias",
        "model/linear/bias",
        "model/linear/kernel",
        "model/norm/bias",
        "model/norm/scale",
    ]
    assert len(shapes) == 6 + 8 and len(jax.tree.leaves(stats)) == 2


@pytest.mark.parametrize("initial_state", ["constant", "learned"])
def test_other_initial_states(initial_state):
    puppet = pj.puppetize(models.build(models.Small), X, initial_state=initial_state)
    expected = 4 * 4 + 15 * 4 + (9 * 4 * 4 if initial_state == "learned" else 0)
    assert pj.num_floats(nnx.state(puppet.puppeteer, nnx.Param)) == expected
    assert puppet.puppeteer.get_value().initial_state_kind == initial_state


def test_a_trained_puppeteer_is_kept():
    trained = pj.init_puppeteer(jax.random.key(5), max_channels=6, seed=3, scale=0.2)
    puppet = pj.puppetize(models.build(models.Small), puppeteer=trained)
    back = puppet.puppeteer.get_value()
    assert equal_trees(back, trained) and jax.tree.structure(back) == jax.tree.structure(trained)


# Transformations and copies.


def test_in_jit_grad_and_vmap_over_h():
    puppet = pj.puppetize(models.build(models.Small), X)
    puppet.eval()
    graphdef, state = nnx.split(puppet)

    def total(graphdef, state, h):
        return nnx.merge(graphdef, state)(X, h=h).sum()

    values_and_slopes = jax.jit(jax.vmap(jax.value_and_grad(total, argnums=2), (None, None, 0)), static_argnums=0)
    h = jnp.array([2.98, 3.0, 3.02, 5.0])
    values, slopes = values_and_slopes(graphdef, state, h)
    np.testing.assert_allclose(values[::3], [puppet(X, h=h[0]).sum(), puppet(X, h=h[3]).sum()], rtol=1e-4)
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / 0.04, rtol=2e-2)


def test_nothing_is_allocated_before_it_is_wanted():
    """4096 channels: 16 million floats a kernel, described but never made."""

    def make():
        rngs = nnx.Rngs(0)
        return nnx.Sequential(nnx.Conv(3, 4096, (3, 3), rngs=rngs), nnx.Conv(4096, 4096, (3, 3), rngs=rngs))

    image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    with pytest.warns(UserWarning, match="keeps 1.7 GiB of states"):
        puppet = nnx.eval_shape(lambda: pj.puppetize(make(), image, max_channels=4096))
    assert pj.num_floats(puppet.puppeteer) == 4096**2 + 15 * 4096
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(puppet)))
    out = nnx.eval_shape(lambda puppet, x: puppet(x, h=jnp.array([3.0, 4.0])), puppet, image)
    assert out.shape == (2, 8, 8, 4096)


def test_copies_keep_the_order_and_the_kernels():
    puppet = pj.puppetize(models.build(models.Misleading))
    merged = nnx.merge(*nnx.split(puppet))
    before = nnx.clone(puppet)
    puppet(X)
    copies = [merged, before, nnx.clone(puppet), copy.deepcopy(puppet)]
    assert all(one.execution_order == puppet.execution_order for one in copies)
    expected = puppet.generate(3.0)
    assert all(equal_trees(one.generate(3.0), expected) for one in copies)


PROCESS = """
import hashlib, sys
sys.path[:0] = [".", "tests"]
import jax, jax.numpy as jnp, numpy as np, models, puppet_jax as pj
from flax import nnx
puppet = pj.puppetize(models.build(models.Small), jax.ShapeDtypeStruct((3, 9, 9, 3), jnp.float32))
kernels = b"".join(np.asarray(kernel).tobytes() for kernel in puppet.generate(3.3))
print(puppet.execution_order, hashlib.sha256(kernels).hexdigest())
"""


def test_the_same_kernels_in_another_process_and_after_another_first_batch(pytestconfig):
    command = [sys.executable, "-c", PROCESS]
    with subprocess.Popen(command, cwd=pytestconfig.rootpath, stdout=subprocess.PIPE, text=True) as process:
        puppet = small()
        puppet(X[:2])
        kernels = b"".join(np.asarray(kernel).tobytes() for kernel in puppet.generate(3.3))
        theirs = process.communicate()[0].strip()
    assert theirs == f"{puppet.execution_order} {hashlib.sha256(kernels).hexdigest()}"


def test_half_precision_as_in_the_plain_model():
    """Parameters of bfloat16: generated in float32, handed over in the type in which the convolution held them."""
    net = one_layer(param_dtype=jnp.bfloat16)
    puppet, x = pj.puppetize(net), X.astype(jnp.bfloat16)
    out = puppet(x, h=3.0)
    assert out.dtype == net(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, by_hand(net, puppet, 3.0)(x))
    assert {one.dtype for one in puppet.generate(3.0)} == {jnp.dtype(jnp.float32)}
    assert puppet.instantiate(3.0).layers[0].kernel.dtype == jnp.bfloat16
    for options in ({"param_dtype": jnp.bfloat16}, {"dtype": jnp.bfloat16}, {}):
        net = one_layer(**options)
        for x in (X, X.astype(jnp.bfloat16)):
            for h in (3.0, jnp.array([3.0, 4.0])):
                out = jax.eval_shape(lambda x: pj.puppetize(net)(x, h=h), x)  # noqa: B023
                assert out.dtype == jax.eval_shape(net, x).dtype
