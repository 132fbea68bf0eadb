"""Puppets of several sets of kernels, each for a part of the batch."""

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import reference
from flax import nnx
from puppets import X, by_hand, noise, one_layer, small

import puppet_jax as pj


@pytest.mark.parametrize(
    "network, sets", [(models.Misleading, 2), pytest.param(models.Small, 4, marks=pytest.mark.slow)]
)
def test_each_set_serves_its_part_of_the_batch(network, sets):
    puppet = pj.puppetize(models.build(network), X)
    puppet.eval()
    h = jnp.linspace(2.0, 5.0, sets)
    expected = jnp.concatenate([puppet(part, h=one) for part, one in zip(jnp.split(X, sets), h, strict=True)])
    actual = puppet(X, h=h)
    assert reference.relative_error(actual, expected) < 1e-5
    assert reference.relative_error(actual, puppet(X, h=h[0])) > 1e-2


def test_batch_norm_sees_the_whole_batch_whatever_the_sets():
    """In train mode its statistics are those of the batch, so the parts are no longer independent."""
    net, puppet = small(puppet=False), small()
    puppet(X, h=jnp.array([2.0, 5.0]))
    parts = zip((2.0, 5.0), jnp.split(X, 2), strict=True)
    features = jnp.concatenate([by_hand(net, puppet, h).b(part) for h, part in parts])
    np.testing.assert_allclose(puppet.model.norm.mean[...], 0.01 * features.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    biased = 0.99 + 0.01 * features.var((0, 1, 2))
    np.testing.assert_allclose(puppet.model.norm.var[...], biased, rtol=1e-4)


def test_sets_for_many_frames_an_image():
    """Further axes of a batch are folded in order: a set serves all frames of its images."""
    puppet = pj.puppetize(one_layer())
    video, h = noise(2, 3, 6, 6, 3), jnp.array([2.0, 5.0])
    expected = jnp.stack([puppet(video[n], h=h[n]) for n in range(2)])
    np.testing.assert_allclose(puppet(video, h=h), expected, rtol=1e-4, atol=1e-5)


class Standardised(nnx.Conv):
    """Changes its kernel before it uses it, over all axes but the last: with sets it would mix them."""

    def __call__(self, x):
        kernel = self.kernel[...]
        kernel = kernel - kernel.mean(range(kernel.ndim - 1))
        return self.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def weight_norm():
    return nnx.WeightNorm(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))


def own_convolution():
    function = lambda *args, **kwargs: jax.lax.conv_general_dilated(*args, **kwargs)  # noqa: E731
    return nnx.Conv(3, 4, (3, 3), conv_general_dilated=function, rngs=nnx.Rngs(0))


@jax.numpy_rank_promotion("allow")  # a layer of a user may rely on it
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: nnx.ConvTranspose(3, 4, (3, 3), rngs=nnx.Rngs(0)), id="transposed"),
        pytest.param(lambda: Standardised(3, 4, (3, 3), rngs=nnx.Rngs(0)), id="standardised"),
        pytest.param(weight_norm, id="weight norm"),
        pytest.param(own_convolution, id="a convolution of its own"),
    ],
)
def test_layers_that_take_one_set_only(layer):
    puppet = pj.puppetize(nnx.Sequential(layer()), X)
    with pytest.raises(ValueError, match=r"differ within a batch need an nnx.Conv.*Give one h.*layers\.0"):
        puppet(X, h=jnp.array([3.0, 4.0]))
    assert puppet(X, h=3.0).shape == (4, 6, 6, 4)


@jax.numpy_rank_promotion("allow")  # Flax multiplies kernel and mask
def test_masks_apply_to_every_set():
    mask = jnp.ones((3, 3, 3, 4)).at[1:].set(0).at[:, 2:].set(0)
    puppet = pj.puppetize(nnx.Sequential(nnx.Conv(3, 4, (3, 3), mask=mask, rngs=nnx.Rngs(0))), X)
    h = jnp.array([2.0, 5.0])
    expected = jnp.concatenate([puppet(part, h=one) for part, one in zip(jnp.split(X, 2), h, strict=True)])
    np.testing.assert_allclose(puppet(X, h=h), expected, rtol=1e-4, atol=1e-5)
    pixel = puppet(jnp.zeros((1, 6, 6, 3)).at[0, 2, 2].set(1.0))  # reaches right and down only
    assert np.any(pixel) and not np.any(np.asarray(pixel)[:, :2]) and not np.any(np.asarray(pixel)[:, :, :2])


class Layers(nnx.Module):
    """Convolutions in a stack, one after the other."""

    def __init__(self, rngs, count):
        @nnx.split_rngs(splits=count)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def create(rngs):
            return nnx.Conv(3, 3, (3, 3), rngs=rngs)

        self.convs = create(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(conv, x):
            return nnx.relu(conv(x))

        return run(self.convs, x)


@pytest.mark.parametrize("layers, sets", [(1, 1), (2, 2), (4, 2)])
def test_a_stack_takes_one_set_only(layers, sets):
    """Its first axis is that of the layers, also where there are as many sets."""
    puppet = pj.puppetize(Layers(nnx.Rngs(0), layers), X)
    h = jnp.linspace(2.0, 5.0, sets)
    with pytest.raises(ValueError, match=r"no stack of such.*Give one h, leave alone convs"):
        puppet(X, h=h)
    assert puppet(X, h=3.0).shape == X.shape


def test_a_mask_does_not_excuse_a_kernel_that_is_changed():
    layer = Standardised(3, 4, (3, 3), mask=jnp.ones((3, 3, 3, 4)), rngs=nnx.Rngs(0))
    with jax.numpy_rank_promotion("allow"):
        puppet = pj.puppetize(nnx.Sequential(layer), X)
        with pytest.raises(ValueError, match=r"Give one h, leave alone layers\.0"):
            puppet(X, h=jnp.array([3.0, 4.0]))
