"""How a puppetized model starts, what is kept of a call, and what is refused when a state is loaded."""

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
from puppet_jax.gains import response
from puppet_jax.puppetized.order import Kernel

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 8, 3)), jnp.float32)


class Stack(nnx.Module):
    """Convolutions without norms."""

    def __init__(self, rngs, activation, width=64, layers=16):
        widths = [3] + [width] * layers
        pairs = zip(widths, widths[1:], strict=False)
        self.convs = nnx.List([nnx.Conv(c_in, c_out, (3, 3), rngs=rngs) for c_in, c_out in pairs])
        self.head = nnx.Linear(width, 10, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        for conv in self.convs:
            x = self.activation(conv(x))
        return self.head(x.mean((1, 2)))


class Residual(nnx.Module):
    """Branches that add nothing at the start."""

    def __init__(self, rngs):
        zeros = nnx.initializers.zeros
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.inner = nnx.List([nnx.Conv(8, 8, (3, 3), rngs=rngs) for _ in range(2)])
        self.outer = nnx.List([nnx.Conv(8, 8, (3, 3), kernel_init=zeros, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(nnx.relu(inner(x)))
        return x.mean((1, 2))


class Decoder(nnx.Module):
    """From ten numbers to an image, tanh throughout."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(10, 2 * 2 * 32, rngs=rngs)
        self.up = nnx.List([nnx.ConvTranspose(32, c, (3, 3), strides=(2, 2), rngs=rngs) for c in (32, 16)])
        self.out = nnx.Conv(16, 1, (3, 3), rngs=rngs)

    def __call__(self, z):
        x = jnp.tanh(self.linear(z)).reshape(-1, 2, 2, 32)
        for up in self.up:
            x = jnp.tanh(up(x))
        return jnp.tanh(self.out(x))


class DQN(nnx.Module):
    """Strided convolutions and two linear layers (Mnih et al. 2015), thin."""

    def __init__(self, rngs):
        self.convs = nnx.List(
            [
                nnx.Conv(c_in, c_out, (k, k), strides=stride, rngs=rngs)
                for c_in, c_out, k, stride in ((3, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
            ]
        )
        self.hidden, self.out = nnx.Linear(256, 64, rngs=rngs), nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


class FreshResNet(nnx.Module):
    """In evaluation before any training: its batch norms have the statistics of nothing, and normalise nothing."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.convs = nnx.List([nnx.Conv(32, 32, (3, 3), rngs=rngs) for _ in range(8)])
        self.norms = nnx.List([nnx.BatchNorm(32, use_running_average=True, rngs=rngs) for _ in range(8)])
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for n in range(0, 8, 2):
            y = nnx.relu(self.norms[n](self.convs[n](x)))
            x = nnx.relu(x + self.norms[n + 1](self.convs[n + 1](y)))
        return self.head(x.mean((1, 2)))


WITHOUT_NORMS = {
    "U-Net": (models.UNet, (8, 8, 8, 3)),
    "decoder": (Decoder, (8, 10)),
    "DQN": (DQN, (8, 16, 16, 3)),
    "fresh ResNet": (FreshResNet, (8, 8, 8, 3)),
}


class TestScale:
    @pytest.mark.parametrize("kernels_from", quick(["state", "velocity"], "velocity"))
    @pytest.mark.parametrize("name", quick(WITHOUT_NORMS, "DQN"))
    def test_networks_without_norms(self, name, kernels_from):
        network, shape = WITHOUT_NORMS[name]
        x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        net = network(nnx.Rngs(0))
        puppet = pj.puppetize(net, x, kernels_from=kernels_from, keep_scale=True)
        assert 0.2 < float(puppet(x).std() / net(x).std()) < 5

    @pytest.mark.parametrize("kernels_from", quick(["state", "velocity"], "velocity"))
    @pytest.mark.parametrize("activation", [nnx.relu, jnp.tanh])
    def test_logits_start_as_those_of_the_original(self, activation, kernels_from):
        """Sixteen layers behind ReLUs, without norms, would start 1e14 times as large; eight behind tanh."""
        x = X[:, :4, :4]
        net = Stack(nnx.Rngs(1), activation, layers=16 if activation is nnx.relu else 8)
        puppet = pj.puppetize(net, x, kernels_from=kernels_from, keep_scale=True)
        ratio = float(puppet(x).std() / net(x).std())
        assert 0.2 < ratio < 5
        without = float(pj.puppetize(net, x, kernels_from=kernels_from)(x).std() / net(x).std())
        assert (without > 1e9) == (activation is nnx.relu)

    def test_each_kernel_has_the_response_of_the_one_it_replaces(self):
        net = Stack(nnx.Rngs(1), nnx.relu, width=16, layers=3)
        puppet = pj.puppetize(net, X, h=3.7, keep_scale=True)
        for one, kernel in zip(puppet.kernels, puppet.generate(), strict=True):
            original = net.convs[one.paths[0][1]].kernel[...]
            np.testing.assert_allclose(response(kernel), response(original), rtol=1e-4)
        assert puppet.gains.shape == (3,) and puppet.zero_gains is None
        assert pj.num_floats(nnx.state(puppet, nnx.Param)) == pj.num_floats(nnx.state(pj.puppetize(net), nnx.Param))

    def test_zero_kernels_start_at_zero_and_learn(self):
        net = Residual(nnx.Rngs(0))
        puppet = pj.puppetize(net, X, keep_scale=True)
        np.testing.assert_allclose(puppet(X), puppet.instantiate().stem(X).mean((1, 2)), atol=1e-6)
        assert puppet.zero_gains.shape == (2,)
        optimizer = nnx.Optimizer(puppet, optax.adam(1e-2), wrt=nnx.Param)
        target = jnp.asarray(np.random.default_rng(1).normal(size=(8, 8)), jnp.float32)

        @nnx.jit
        def step(puppet, optimizer):
            loss, grads = nnx.value_and_grad(lambda puppet: jnp.square(puppet(X) - target).mean())(puppet)
            optimizer.update(puppet, grads)
            return loss

        losses = [float(step(puppet, optimizer)) for _ in range(20)]
        assert losses[-1] < losses[0]
        assert np.all(np.asarray(puppet.zero_gains[...]) != 0)

    def test_copies_and_states_keep_it(self):
        net = Residual(nnx.Rngs(0))
        puppet, other = (pj.puppetize(net, X, keep_scale=True, key=jax.random.key(n)) for n in range(2))
        assert np.any(np.asarray(other(X)) != np.asarray(puppet(X)))
        nnx.update(other, nnx.state(puppet))
        np.testing.assert_array_equal(other(X), puppet(X))
        np.testing.assert_array_equal(nnx.merge(*nnx.split(puppet))(X), puppet(X))

    @pytest.mark.parametrize("keeps", [True, False])
    def test_a_state_of_the_other_kind_is_refused(self, keeps):
        """Its arrays fit, but for the gains, and would make other kernels."""
        puppets = {kind: pj.puppetize(Stack(nnx.Rngs(0), nnx.relu, 8, 2), X, keep_scale=kind) for kind in (True, False)}
        with pytest.raises(ValueError, match="gains|, state' was loaded into a puppet of .*kept scale'"):
            nnx.update(puppets[keeps], nnx.state(puppets[not keeps]))
            puppets[keeps](X)

    def test_of_shapes(self):
        """He's, for kernels that are put into other models."""
        puppeteer, shapes = pj.init_puppeteer(jax.random.key(0), 16), [(3, 3, 3, 8), (1, 1, 8, 16), (3, 3, 16, 16)]
        gains = pj.start_gains(puppeteer, 4.5, shapes)
        for kernel in pj.generate_kernels(puppeteer, 4.5, shapes, gains=gains):
            assert float(response(kernel)) == pytest.approx(2, rel=1e-4)
        found = [
            response(one)
            for one in pj.generate_kernels(
                puppeteer, 4.5, shapes, pj.start_gains(puppeteer, 4.5, shapes, [1.0, 2.0, 3.0])
            )
        ]
        np.testing.assert_allclose(found, [1, 2, 3], rtol=1e-4)
        slope = jax.grad(lambda h: pj.start_gains(puppeteer, h, shapes).sum())(4.5)
        assert float(slope) == 0  # constants

    def test_refusals(self):
        net = Stack(nnx.Rngs(0), nnx.relu, width=16, layers=2)
        with pytest.raises(ValueError, match="keep_scale and difference need an example"):
            pj.puppetize(net, keep_scale=True)
        with pytest.raises(ValueError, match=r"keep_scale needs the numbers of convs.0 \(3, 3, 3, 64\)"):
            nnx.eval_shape(lambda: pj.puppetize(Stack(nnx.Rngs(0), nnx.relu), X, keep_scale=True))
        puppeteer, shapes = pj.init_puppeteer(jax.random.key(0), 8), [(3, 3, 3, 8)]
        with pytest.raises(ValueError, match="one number or 1, one a kernel, got shape"):
            pj.start_gains(puppeteer, 4.5, shapes, [1.0, 2.0])
        with pytest.raises(ValueError, match="gains must be one a kernel, got 2 for 1 shapes"):
            pj.generate_kernels(puppeteer, 4.5, shapes, gains=[1.0, 2.0])


def test_response_is_the_mean_square_of_outputs():
    """Of independent inputs whose mean has the share of their mean square that the docstring says."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 6)) + 0.1
    mean = (1 / np.pi) ** 0.5
    x = mean + (1 - mean**2) ** 0.5 * rng.normal(size=(200_000, 36))
    np.testing.assert_allclose(response(jnp.asarray(kernel)), np.square(x @ kernel.reshape(36, 6)).mean(), rtol=0.01)


class TestNothingIsOff:
    def test_kernels_are_parameters_of_an_instance(self):
        puppet = pj.puppetize(models.build(models.Small), X)
        model = puppet.instantiate(3.0)
        assert isinstance(model.a.kernel, Kernel) and isinstance(model.a.kernel, nnx.Param)
        shapes = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
        assert {"a/kernel", "b/kernel"} <= shapes
        ours = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(puppet, nnx.Param))}
        assert not {name for name in ours if name.endswith("a/kernel")}

    def test_spectral_norm(self):
        """It divides by the largest singular value of what it finds as nnx.Param."""

        class Normed(nnx.Module):
            def __init__(self, rngs):
                self.norm = nnx.SpectralNorm(nnx.Conv(3, 4, (3, 3), rngs=rngs), rngs=rngs, n_steps=20)

            def __call__(self, x):
                return self.norm(x, update_stats=True)

        puppet = pj.puppetize(Normed(nnx.Rngs(0)), X)
        for _ in range(3):
            normed = puppet(X)
        kernel, bias = puppet.generate()[0], puppet.model.norm.layer_instance.bias[...]
        plain = jax.lax.conv_general_dilated(X, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        sigma = np.linalg.svd(np.asarray(kernel).reshape(-1, 4), compute_uv=False)[0]
        np.testing.assert_allclose(normed, plain / sigma + bias[None, None, None], rtol=1e-3, atol=1e-3)

    def test_what_a_call_makes_arrives(self):
        class Making(nnx.Module):
            def __init__(self, rngs):
                self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
                self.calls = 0
                self.last = nnx.data(jnp.zeros(()))

            def __call__(self, x):
                self.calls += 1
                y = self.conv(x)
                self.last = y.mean()
                if not hasattr(self, "cache"):
                    self.cache = nnx.Cache(y)
                return y

        puppet = pj.puppetize(Making(nnx.Rngs(0)), X)
        first, _ = puppet(X), puppet(2 * X)
        assert puppet.model.calls == 2
        np.testing.assert_array_equal(puppet.model.cache[...], first)
        assert float(puppet.model.last) != float(first.mean())
        assert puppet.model.conv.kernel is None

    def test_a_state_of_other_settings_is_refused(self, tmp_path):
        net = models.build(models.Small)
        puppet = pj.puppetize(net, X, seed=3)
        state = nnx.state(puppet)
        for other in ({"seed": 4}, {"scale": 0.2}, {"kernels_from": "velocity"}, {"initial_state": "constant"}):
            loaded = pj.puppetize(net, X, **{"seed": 3} | other)
            nnx.update(loaded, state)
            with pytest.raises(ValueError, match="settings 'seeded, K 3, seed 3, .*puppetize with those."):
                jax.jit(lambda graphdef, state: nnx.merge(graphdef, state)(X), static_argnums=0)(*nnx.split(loaded))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", nnx.to_pure_dict(state))
            checkpointer.wait_until_finished()
            like = nnx.to_pure_dict(nnx.state(pj.puppetize(net, X, seed=4)))
            with pytest.raises(ValueError, match="seed 4"):
                checkpointer.restore(tmp_path / "state", like)
            same = checkpointer.restore(tmp_path / "state", nnx.to_pure_dict(state))
        jax.tree.map(np.testing.assert_array_equal, same, nnx.to_pure_dict(state))


class Autoencoder(nnx.Module):
    def __init__(self, rngs):
        self.down = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 3, (3, 3), strides=(2, 2), rngs=rngs)

    def encode(self, x):
        return nnx.relu(self.down(x))

    def decode(self, z, scale=1.0):
        return scale * self.up(z)


class TestOtherMethods:
    def test_a_function_is_an_example(self):
        puppet = pj.puppetize(Autoencoder(nnx.Rngs(0)), lambda model: model.decode(model.encode(X), scale=2.0))
        assert [puppet.kernels[place].name for place in puppet.execution_order] == ["down", "up"]
        model = puppet.instantiate(4.0)
        assert model.decode(model.encode(X)).shape == X.shape

    def test_errors_name_what_does(self):
        puppet = pj.puppetize(Autoencoder(nnx.Rngs(0)), lambda model: model.decode(model.encode(X)))
        with pytest.raises(AttributeError, match=r"no 'encode', but its Autoencoder has: use puppet.instantiate"):
            puppet.encode(X)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            puppet.nothing  # noqa: B018
        with pytest.raises(TypeError, match="Autoencoder has no __call__. Give puppetize a function"):
            puppet(X)

    def test_numbers_of_numpy_stay_concrete(self):
        class Sized(nnx.Module):
            def __init__(self, rngs):
                self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)

            def __call__(self, x, size, flip):
                y = self.conv(x)
                y = y[:, ::-1] if flip else y
                return jnp.broadcast_to(y.mean(), (size,))

        puppet = pj.puppetize(Sized(nnx.Rngs(0)))
        assert puppet(X, np.int64(5), np.bool_(True)).shape == (5,)


@pytest.fixture(scope="module")
def parts():
    puppet = pj.puppetize(models.build(models.Small), X)
    puppet.eval()
    graphdef, params, rest = nnx.split(puppet, nnx.Param, ...)
    return lambda params, x: jnp.square(nnx.merge(graphdef, params, rest)(x, h=4.0)).mean(), params


class TestTransforms:
    """Of a puppetized model, as of `generate_kernels` in test_transforms.py."""

    def test_forward_mode(self, parts):
        loss, params = parts
        tangent = jax.tree.map(jnp.cos, params)
        grads = jax.grad(loss)(params, X)
        dot = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(tangent), strict=True))
        assert float(jax.jvp(lambda p: loss(p, X), (params,), (tangent,))[1]) == pytest.approx(dot, rel=1e-3)

    def test_mesh(self, parts):
        """Images over a mesh of explicit axes, the kind of `jax.make_mesh`."""
        loss, params = parts
        mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
        wanted = jax.grad(loss)(params, X)
        with jax.set_mesh(mesh):
            x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
            placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
            found = jax.jit(jax.grad(loss))(placed, x)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)

    def test_export(self, parts):
        loss, params = parts
        leaves, treedef = jax.tree.flatten(params)
        exported = jax.export.export(jax.jit(lambda leaves, x: loss(treedef.unflatten(leaves), x)))(leaves, X)
        read = jax.export.deserialize(exported.serialize())
        np.testing.assert_allclose(read.call(leaves, X), loss(params, X), rtol=1e-6)


class TestSummary:
    def test_figures(self):
        net = models.build(models.Small)
        puppet = pj.puppetize(net, X, where=lambda path, conv: path != ("b",))
        found = puppet.summary()
        assert found.kernels == (("a", (3, 3, 4, 4), 144),)
        assert found.replaced == 144
        assert found.generator == pj.num_floats(puppet.puppeteer)
        size = found.trajectory
        total = pj.num_floats(nnx.state(net, nnx.Param))
        assert found.kept == total - found.replaced
        assert (size.steps, size.state_bytes) == ((1,), 4 * 4 * 9 * 4)
        assert size.num_bytes == 3 * size.state_bytes  # two states and a product
        for text in ("Small as a puppet: C = 4 (widest: a)", "1 steps; a state 576 bytes", "144 of weights from 76"):
            assert text in str(found)

    def test_warns_of_more_floats_than_it_replaces(self):
        with pytest.warns(UserWarning, match=r"Small: the puppeteer holds more floats \(324\) than it replaces"):
            pj.puppetize(models.build(models.Small), max_channels=12)

    def test_warns_of_memory_before_anything_is_allocated(self):
        def make():
            rngs = nnx.Rngs(0)
            return nnx.Sequential(nnx.Conv(3, 2048, (7, 7), rngs=rngs), nnx.Conv(2048, 2048, (1, 1), rngs=rngs))

        with pytest.warns(
            UserWarning, match=r"keeps 1.3 GiB of states: 7 of 196.0 MiB, C by layers.0 and K by layers.0"
        ):
            nnx.eval_shape(lambda: pj.puppetize(make(), max_channels=1024, kernel_size=7))

    def test_c_is_at_most_that_of_the_papers(self):
        def make():
            return nnx.Sequential(nnx.Conv(3, 1024, (3, 3), rngs=nnx.Rngs(0)))

        puppet = nnx.eval_shape(lambda: pj.puppetize(make(), jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)))
        assert puppet.puppeteer.get_value().max_channels == 512
        assert puppet.summary().trajectory.steps == (2,)

    def test_kernels_that_nothing_depends_on(self):
        class Cut(nnx.Module):
            def __init__(self, rngs):
                self.a, self.b = (nnx.Conv(3, 4, (3, 3), rngs=rngs) for _ in range(2))

            def __call__(self, x):
                return self.a(x) + jax.lax.stop_gradient(self.b(x))

        puppet = pj.puppetize(Cut(nnx.Rngs(0)))
        found = puppet.summary(X)
        assert [note for note in found.notes if "does not depend on b:" in note]
        assert not [note for note in found.notes if "complexity" in note]
        assert not [note for note in puppet.summary().notes if "does not depend" in note]

    def test_kernels_that_complexity_does_not_change(self):
        """A field of constants: every velocity is the same."""
        puppet = pj.puppetize(models.build(models.Small), X, kernels_from="velocity")
        for name in ("norm1_scale", "norm2_scale"):
            variable = getattr(puppet.puppeteer, name)
            variable.set_value(jnp.zeros_like(variable.get_value()))
        puppet.puppeteer.norm2_bias.set_value(jnp.ones(puppet.puppeteer.norm2_bias.shape))
        assert "complexity does not change any weight" in puppet.summary().notes
