"""`puppetize` on networks of many kinds: what a user does with any NNX model works with each."""

import warnings

import architectures
import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from helpers import quick
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import puppet_jax as pj
from puppet_jax.puppetized.order import Kernel
from puppet_jax.puppetized.weights import at

REFUSE_EXPLICIT = ("GRU", "language model", "super-resolution")
"""`nnx.RNN`, `nnx.Embed` and a reshape that merges axes fail under explicit axes, whatever the weights."""
NAMES = quick(architectures.ARCHITECTURES, "scan")


def puppetized(name, inputs):
    """The plain model and its puppet; the example may be shapes."""
    network, _, weights = architectures.ARCHITECTURES[name]
    net = models.build(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a puppeteer for networks as small as these holds more than they
        return net, pj.puppetize(net, inputs, weights=weights, max_channels=6, keep_scale=True)


@pytest.fixture(scope="module", params=NAMES)
def made(request):
    """Name, the plain model, the puppet, and inputs."""
    network, shapes, _ = architectures.ARCHITECTURES[request.param]
    rng = np.random.default_rng(0)
    if network is architectures.LanguageModel:
        inputs = tuple(jnp.asarray(rng.integers(0, 11, shape)) for shape in shapes)
    else:
        inputs = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return request.param, *puppetized(request.param, inputs), inputs


@jax.jit
def run(puppet, *inputs):
    return puppet(*inputs, h=4.2)


@pytest.fixture(scope="module")
def outputs(made):
    _, _, puppet, inputs = made
    return run(nnx.clone(puppet), *inputs)


@pytest.fixture(scope="module")
def loss(made):
    """A function of the parameters and the inputs, and the parameters."""
    _, net, puppet, inputs = made
    graphdef, params, rest = nnx.split(puppet, nnx.Param, ...)
    expected = jax.eval_shape(lambda *x: nnx.clone(net)(*x), *inputs)
    target = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), jnp.float32)

    def loss(params, *inputs):
        return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(*inputs, h=4.2) - target).mean()

    return loss, params


@pytest.fixture(scope="module")
def slopes(made, loss):
    function, params = loss
    return jax.jit(jax.value_and_grad(function))(params, *made[-1])


def test_shape_and_scale_are_those_of_the_original(made, outputs):
    _, net, _, inputs = made
    expected = nnx.clone(net)(*inputs)
    assert outputs.shape == expected.shape and outputs.dtype == expected.dtype
    assert 0.1 < float(outputs.std() / expected.std()) < 10


def test_every_weight_that_is_generated_has_a_gradient(made, slopes):
    _, net, puppet, _ = made
    for one in puppet.kernels:
        assert {at(net, path).shape for path in one.paths} == {one.shape}
    flat = nnx.to_flat_state(slopes[1])
    assert all(np.isfinite(slope[...]).all() for _, slope in flat)
    generator = {path[1]: np.abs(slope[...]).max() for path, slope in flat if path[0] == "puppeteer"}
    assert generator["pointwise_kernel"] > 0 and generator["depthwise_kernel"] > 0


def test_ten_steps_lower_the_loss(made, loss):
    function, params = loss
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(function)(params, *made[-1])
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(11):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < losses[0]


def test_a_checkpoint_brings_it_back(made, outputs, tmp_path):
    name, _, puppet, inputs = made
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs)
    other = puppetized(name, shapes)[1]
    keys = nnx.RngState  # of dropout and the like: Orbax wants raw keys
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.to_pure_dict(nnx.split(puppet, keys, ...)[2]))
        checkpointer.wait_until_finished()
        like = nnx.split(other, keys, ...)[2]
        nnx.replace_by_pure_dict(like, checkpointer.restore(tmp_path / "state", nnx.to_pure_dict(like)))
    nnx.update(other, like)
    np.testing.assert_array_equal(run(other, *inputs), outputs)


def test_baked_it_is_a_plain_model(made, outputs):
    """The class that was given, with kernels that are parameters; saved and loaded without a puppeteer."""
    name, net, puppet, inputs = made
    baked = nnx.clone(puppet.instantiate(4.2))
    assert type(baked) is type(net)
    assert len(jax.tree.leaves(nnx.state(baked, Kernel))) == len(puppet.kernels)
    values = jax.tree.leaves(nnx.state(baked, nnx.Param))
    assert [v.shape for v in values] == [v.shape for v in jax.tree.leaves(nnx.state(net, nnx.Param))]
    np.testing.assert_allclose(jax.jit(lambda model, *x: model(*x))(baked, *inputs), outputs, rtol=1e-3, atol=1e-3)


def test_gradient_under_a_mesh(made, loss, slopes):
    """Inputs over a mesh, of explicit axes where the layers of Flax allow it."""
    function, params = loss
    kind = AxisType.Auto if made[0] in REFUSE_EXPLICIT else AxisType.Explicit
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        inputs = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in made[-1]]
        placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        found = jax.jit(jax.grad(function))(placed, *inputs)
    expected = jax.tree.leaves(slopes[1])
    largest = max(np.abs(one).max() for one in expected)
    for one, other in zip(jax.tree.leaves(found), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3 * largest)


def test_export(made, loss, slopes):
    function, params = loss
    leaves, treedef = jax.tree.flatten(params)
    exported = jax.export.export(jax.jit(lambda leaves, *x: function(treedef.unflatten(leaves), *x)))(leaves, *made[-1])
    read = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(read.call(leaves, *made[-1]), slopes[0], rtol=1e-5)
