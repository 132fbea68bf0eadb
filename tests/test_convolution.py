"""`convolve` against one convolution per image, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from puppet_jax.convolution import convolve

BATCH = 4
NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {
    "plain": ((6, 5, 2), (3, 3, 2, 3), (1, 1), "SAME", {}),
    "tall": ((6, 5, 2), (5, 1, 2, 3), (1, 1), "SAME", {}),
    "strides": ((6, 5, 2), (3, 3, 2, 3), (2, 1), "SAME", {}),
    "padded and cut": ((6, 7, 2), (3, 3, 2, 3), (2, 3), ((1, 1), (2, -1)), {}),
    "valid": ((6, 5, 2), (3, 3, 2, 3), (1, 1), "VALID", {}),
    "even": ((6, 5, 2), (2, 4, 2, 3), (1, 1), "SAME", {}),
    "dilated": ((6, 5, 2), (3, 3, 2, 3), (1, 1), "SAME", {"rhs_dilation": (2, 1)}),
    "explicit": ((6, 5, 2), (3, 3, 2, 3), (1, 1), ((2, 0), (1, 1)), {"lhs_dilation": (2, 1)}),
    "groups": ((6, 5, 4), (3, 3, 2, 6), (1, 1), "SAME", {"feature_group_count": 2}),
    "depthwise": ((6, 5, 3), (3, 3, 1, 3), (1, 1), "SAME", {"feature_group_count": 3}),
    "other layout": ((2, 6, 5), (3, 2, 3, 3), (1, 1), "SAME", {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    "1-D": ((7, 2), (3, 2, 3), (1,), "SAME", {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    "3-D": ((3, 4, 3, 2), (3, 1, 2, 2, 2), (1, 1, 1), "SAME", {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")}),
}


@pytest.mark.parametrize("case", CASES)
def test_is_one_convolution_per_image(case):
    image, shape, strides, padding, options = CASES[case]
    options = {"dimension_numbers": NHWC, **options}
    rng = np.random.default_rng(0)
    x, kernels = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((BATCH, *image), (BATCH, *shape)))

    def run(function, x, kernel, cotangent):
        out, pull = jax.vjp(lambda x, kernel: function(x, kernel, strides, padding, **options), x, kernel)
        return out, *pull(cotangent)

    one = jax.jit(functools.partial(run, lax.conv_general_dilated))
    several = jax.jit(functools.partial(run, convolve))
    size = jax.eval_shape(lambda: lax.conv_general_dilated(x, kernels[0], strides, padding, **options)).shape
    g = jnp.asarray(rng.normal(size=size), jnp.float32)

    for sets in {"plain": (1, 2, BATCH), "groups": (2, BATCH), "1-D": (2, BATCH)}.get(case, (BATCH,)):
        own = [n * sets // BATCH for n in range(BATCH)]  # the set that serves image n
        each = [one(x[n : n + 1], kernels[own[n]], g[n : n + 1]) for n in range(BATCH)]
        slopes = [sum(slope for _, _, slope in each[n * BATCH // sets : (n + 1) * BATCH // sets]) for n in range(sets)]
        expected = (np.concatenate([y for y, _, _ in each]), np.concatenate([dx for _, dx, _ in each]), slopes)
        for a, b in zip(several(x, kernels[:sets], g), expected, strict=True):
            b = np.asarray(b)
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=f"{sets} sets")


def test_one_kernel_is_the_ordinary_convolution():
    image, shape, strides, padding, _ = CASES["strides"]
    x, kernel = jnp.ones((BATCH, *image)), jnp.ones(shape)
    one = convolve(x, kernel, strides, padding, dimension_numbers=NHWC)
    np.testing.assert_array_equal(one, lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC))


def test_half_precision_stays():
    x, kernels = jnp.ones((BATCH, 4, 4, 2), jnp.bfloat16), jnp.ones((BATCH, 3, 3, 2, 2), jnp.bfloat16)
    assert convolve(x, kernels, (1, 1), "SAME", dimension_numbers=NHWC).dtype == jnp.bfloat16
    assert convolve(x, kernels[:2], (1, 1), "SAME", dimension_numbers=NHWC).dtype == jnp.bfloat16


@pytest.mark.parametrize("sets", [0, 3, 8])
def test_sets_that_do_not_divide_the_batch(sets):
    with pytest.raises(ValueError, match=f"divide the batch, got {sets} for 4"):
        convolve(jnp.ones((BATCH, 4, 4, 2)), jnp.ones((sets, 3, 3, 2, 2)), (1, 1), "SAME", dimension_numbers=NHWC)
