"""Convolutions as a CPU computes them fast, against those of JAX, in value and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick
from jax import lax

from puppet_jax.cpu import fast_convolution, winograd as winograd_module
from puppet_jax.cpu.fast_convolution import choose, compute, convolve_one, is_convolution, is_plain, products
from puppet_jax.cpu.windows import NHWC, Windows, find_windows
from puppet_jax.cpu.winograd import FOUR, TWO, winograd, winograd_rows

CASES = {  # image, kernel, strides, padding, options
    "plain": ((6, 5, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), {}),
    "strides": ((7, 6, 2), (3, 3, 2, 3), (2, 2), ((1, 1), (1, 1)), {}),
    "same, strides": ((6, 7, 2), (3, 3, 2, 3), (2, 1), "SAME", {}),
    "even": ((9, 8, 2), (4, 4, 2, 3), (2, 2), ((1, 1), (1, 1)), {}),
    "one by one": ((6, 5, 2), (1, 1, 2, 3), (2, 2), ((0, 0), (0, 0)), {}),
    "few places": ((2, 2, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), {}),
    "depthwise": ((6, 5, 4), (3, 3, 1, 4), (1, 1), "SAME", {"feature_group_count": 4}),
    "depthwise, strides": ((6, 5, 4), (3, 3, 1, 4), (2, 2), ((1, 1), (1, 1)), {"feature_group_count": 4}),
    "depthwise, strides and dilated": (
        (9, 8, 4),
        (3, 3, 1, 4),
        (2, 3),
        ((2, 0), (1, 3)),
        {"feature_group_count": 4, "rhs_dilation": (2, 1)},
    ),
    "depthwise, dilated": ((9, 8, 4), (3, 3, 1, 4), (1, 1), "SAME", {"feature_group_count": 4, "rhs_dilation": (3, 2)}),
    "dilated": ((9, 8, 2), (3, 3, 2, 3), (1, 1), "SAME", {"rhs_dilation": (2, 2)}),
    "groups": ((6, 5, 4), (3, 3, 2, 6), (1, 1), "SAME", {"feature_group_count": 2}),
    "another layout": ((2, 6, 5), (3, 2, 3, 3), (1, 1), "SAME", {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
}


@pytest.mark.parametrize("case", CASES)
def test_is_that_of_jax(case):
    image, shape, strides, padding, options = CASES[case]
    options = {"dimension_numbers": NHWC} | options
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, *image), shape))

    def results(function, x, kernel):
        out, pull = jax.vjp(lambda x, kernel: function(x, kernel, strides, padding, **options), x, kernel)
        return out, *pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    run = jax.jit(lambda x, kernel: [results(one, x, kernel) for one in (convolve_one, lax.conv_general_dilated)])
    for own, expected in zip(*run(x, kernel), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


DENSE = {  # height, width, channels of images, channels produced, padding
    "even": (6, 8, 3, 4, ((1, 1), (1, 1))),
    "odd": (5, 7, 3, 4, ((1, 1), (1, 1))),
    "valid": (7, 6, 2, 3, ((0, 0), (0, 0))),
    "uneven": (6, 5, 2, 3, ((2, 0), (0, 3))),
    "cut": (9, 8, 2, 3, ((-1, 1), (1, -2))),
    "one place": (3, 3, 2, 3, ((0, 0), (0, 0))),
}


@pytest.mark.parametrize("pieces", quick([1, 3], 3))
@pytest.mark.parametrize("case", DENSE)
@pytest.mark.parametrize("way", [winograd, products])
def test_of_numpy(way, case, pieces, monkeypatch):
    """Sums over the taps in float64; the batch in one piece or in three."""
    height, width, channels, produced, padding = DENSE[case]
    for module, name in ((winograd_module, "PLACES"), (fast_convolution, "PATCHES_FLOATS")):
        monkeypatch.setattr(module, name, 1 if pieces == 3 else 10**9)
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(3, height, width, channels)), rng.normal(size=(3, 3, channels, produced))
    (top, bottom), (left, right) = padding
    padded = np.pad(x, ((0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)))
    padded = padded[:, max(-top, 0) :, max(-left, 0) :]
    padded = padded[:, : padded.shape[1] + min(bottom, 0), : padded.shape[2] + min(right, 0)]
    rows, columns = padded.shape[1] - 2, padded.shape[2] - 2
    expected = sum(padded[:, i : i + rows, j : j + columns] @ kernel[i, j] for i in range(3) for j in range(3))
    windows = find_windows(x.shape, (3, 3), (1, 1), padding)
    found = jax.jit(lambda x, kernel: way(x, kernel, windows))(np.float32(x), np.float32(kernel))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", DENSE)
@pytest.mark.parametrize(("function", "columns"), [(winograd, 3), (winograd_rows, 1)])
def test_gradients_of_winograd(function, columns, case):
    """Those of XLA in float64: by the image with two outputs at a time, by the kernel with two or four."""
    height, width, channels, produced, padding = DENSE[case]
    rng = np.random.default_rng(2)
    x, kernel = rng.normal(size=(3, height, width, channels)), rng.normal(size=(3, columns, channels, produced))
    windows = find_windows(x.shape, (3, columns), (1, 1), padding)

    def gradients(function, x, kernel):
        return jax.grad(lambda *both: jnp.sin(function(*both)).sum(), argnums=(0, 1))(x, kernel)

    found = jax.jit(lambda x, kernel: gradients(lambda *both: function(*both, windows), x, kernel))(
        np.float32(x), np.float32(kernel)
    )
    with jax.enable_x64(True):
        xla = jax.jit(lambda x, kernel: gradients(lambda *both: compute("xla", *both, windows), x, kernel))
        exact = jax.tree.map(np.asarray, xla(x, kernel))
    for own, expected in zip(found, exact, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "padding"),
    [
        ((3, 3), 1, 1, "SAME"),
        ((3, 3), 1, 1, ((2, 0), (0, 3))),
        ((3, 3), 2, 1, "SAME"),
        ((3, 1), 1, 2, "SAME"),
        ((5, 5), 1, 1, "SAME"),
        ((7, 5), 1, 1, ((0, 1), (4, 1))),
        ((5, 5), 2, 1, "VALID"),
        ((5, 3), 1, 2, "SAME"),
    ],
)
def test_depthwise(size, stride, dilation, padding):
    """Value and gradients of few and of many taps, those of XLA in float64."""
    rng = np.random.default_rng(4)
    x, kernel = rng.normal(size=(3, 12, 10, 4)), rng.normal(size=(*size, 1, 4))
    windows = find_windows(x.shape, size, (stride, stride), padding, (dilation, dilation))

    def results(way, x, kernel):
        return jax.value_and_grad(lambda *both: jnp.sin(compute(way, *both, windows, 4)).sum(), (0, 1))(x, kernel)

    found = jax.jit(lambda x, kernel: results("shifts", x, kernel))(np.float32(x), np.float32(kernel))
    with jax.enable_x64(True):
        exact = jax.tree.map(np.asarray, jax.jit(lambda x, kernel: results("xla", x, kernel))(x, kernel))
    for own, expected in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("tile", [TWO, FOUR])
def test_tiles_are_those_of_winograd(tile):
    """A'[(G k) * (B' x)] is the correlation of x with k, for every x and k: exact in whole numbers of a fifteenth."""
    rng = np.random.default_rng(3)
    x, kernel = rng.integers(-9, 9, tile.size + 2), rng.integers(-9, 9, 3)
    found = tile.outputs @ ((tile.kernel @ kernel) * (tile.image @ x))
    np.testing.assert_allclose(found, np.correlate(x, kernel), atol=1e-12)


@pytest.fixture(scope="module")
def dense():
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(4, 6, 5, 4)), rng.normal(size=(3, 3, 4, 4))
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


WINDOWS = Windows((3, 3), (1, 1), ((1, 1), (1, 1)))


GROUPS = {"shifts": 4, "groups": 2}


def energy(way, x, kernel, groups):
    return jnp.sin(compute(way, x, kernel[:, :, : 4 // groups], WINDOWS, groups)).sum()


@pytest.mark.parametrize("way", ["products", "winograd", "patches", "shifts", "groups"])
def test_derivatives(way, dense, monkeypatch):
    """Reverse and forward mode, second order and vmap, all of them XLA's."""
    monkeypatch.setattr(winograd_module, "PLACES", 60)  # two pieces
    monkeypatch.setattr(fast_convolution, "PATCHES_FLOATS", 60 * 36)

    @jax.jit
    def both(x, kernel):
        def results(name):
            function = lambda *args: energy(name, *args, GROUPS.get(way, 1))  # noqa: E731
            gradient = jax.grad(function, argnums=(0, 1))
            tangent = (jnp.cos(x), jnp.cos(kernel))
            return (
                gradient(x, kernel),
                jax.jvp(function, (x, kernel), tangent)[1],
                jax.jvp(gradient, (x, kernel), tangent)[1],
                jax.vmap(gradient)(jnp.stack([x, 2 * x]), jnp.stack([kernel, kernel + 1])),
            )

        return results(way), results("xla")

    for own, expected in zip(*map(jax.tree.leaves, both(*dense)), strict=True):
        np.testing.assert_allclose(own, expected, atol=5e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("images", "kernel", "stride", "groups", "way"),
    [
        ((64, 32, 32, 64), (3, 3, 64, 64), 1, 1, "winograd"),
        ((4, 32, 32, 64), (3, 3, 64, 64), 1, 1, "winograd"),
        ((1, 32, 32, 64), (3, 3, 64, 64), 1, 1, "products"),  # few tiles: the kernel's transform would not pay
        ((64, 32, 32, 3), (3, 3, 3, 64), 1, 1, "patches"),
        ((64, 32, 32, 16), (3, 3, 16, 64), 1, 1, "products"),
        ((1, 8, 8, 512), (3, 3, 512, 512), 1, 1, "patches"),
        ((64, 32, 32, 64), (3, 3, 64, 64), 2, 1, "products"),
        ((64, 32, 32, 64), (5, 5, 64, 64), 1, 1, "products"),
        ((64, 4, 4, 512), (3, 3, 512, 512), 1, 1, "patches"),
        ((64, 32, 32, 64), (3, 3, 1, 64), 1, 64, "shifts"),
        ((64, 32, 32, 64), (3, 3, 1, 128), 1, 64, "groups"),
        ((64, 32, 32, 64), (3, 3, 32, 64), 1, 2, "groups"),
        ((64, 32, 32, 64), (1, 1, 64, 64), 1, 1, "patches"),
    ],
)
def test_way_that_is_chosen(images, kernel, stride, groups, way, monkeypatch):
    monkeypatch.setattr(fast_convolution, "has_avx512", lambda: False)
    windows = find_windows(images, kernel[:2], (stride, stride), "SAME")
    assert choose(images, kernel, windows, groups) == way


@pytest.mark.parametrize(
    ("images", "kernel", "way"),
    [
        ((64, 32, 32, 64), (3, 3, 64, 64), "products"),
        ((64, 32, 32, 128), (3, 3, 128, 128), "winograd"),
        ((64, 32, 32, 3), (3, 3, 3, 64), "products"),
        ((64, 4, 4, 512), (3, 3, 512, 512), "xla"),
        ((1, 8, 8, 64), (3, 3, 64, 64), "xla"),
        ((1, 8, 8, 512), (3, 3, 512, 512), "patches"),
        ((64, 2, 2, 64), (3, 3, 64, 64), "patches"),
        ((64, 32, 32, 64), (1, 1, 64, 64), "patches"),
    ],
)
def test_wide_vectors_leave_values_to_xla(images, kernel, way, monkeypatch):
    monkeypatch.setattr(fast_convolution, "has_avx512", lambda: True)
    assert choose(images, kernel, find_windows(images, kernel[:2], (1, 1), "SAME")) == way


@pytest.mark.parametrize(("flags", "found"), [("fma avx512f bmi", True), ("fma avx512fp16", False), (None, False)])
def test_whether_a_cpu_has_wide_vectors(flags, found, monkeypatch):
    def read(path):
        if flags is None:
            raise FileNotFoundError(path)
        return f"flags\t\t: {flags}\n"

    monkeypatch.setattr(fast_convolution.Path, "read_text", read)
    assert fast_convolution.has_avx512.__wrapped__() == found


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (3, 3, 32, 32), (3, 3, 16, 40)])
def test_gradients_of_products(shape, monkeypatch):
    """By the kernel: of few taps, of Winograd's tiles, of products of patches."""
    monkeypatch.setattr(fast_convolution, "WINOGRAD_PLACES", 2 * 6 * 8)
    rng = np.random.default_rng(5)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 6, 8, shape[2]), shape))
    windows = find_windows(x.shape, (3, 3), (1, 1), "SAME")

    @jax.jit
    def gradients(x, kernel):
        def energy(way):
            return lambda *both: jnp.sin(compute(way, *both, windows)).sum()

        return [jax.grad(energy(way), argnums=(0, 1))(x, kernel) for way in ("products", "xla")]

    for own, expected in zip(*gradients(x, kernel), strict=True):
        np.testing.assert_allclose(own, expected, atol=2e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("x", "kernel"),
    [
        (jnp.ones((2, 6, 5, 3), jnp.bfloat16), jnp.ones((3, 3, 3, 4), jnp.bfloat16)),
        (jnp.ones((0, 6, 5, 3)), jnp.ones((3, 3, 3, 4))),
        (jnp.ones((2, 1, 1, 3)), jnp.ones((3, 3, 3, 4))),
    ],
    ids=["half precision", "no images", "no places"],
)
def test_is_left_to_xla(x, kernel):
    function = lambda x, kernel: convolve_one(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)  # noqa: E731
    expected = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)
    found = function(x, kernel)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert "conv_general_dilated" in str(jax.make_jaxpr(function)(x, kernel))


def test_is_seen_to_be_a_convolution():
    """In a program that was traced, whatever computes it."""
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))

    def function(x, kernel):
        return convolve_one(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC) + 1

    def equations(jaxpr):
        return [is_convolution(equation) for equation in jaxpr.jaxpr.eqns]

    assert equations(jax.make_jaxpr(function)(x, kernel)) == [True, False]
    assert equations(jax.make_jaxpr(function)(x.astype("bfloat16"), kernel.astype("bfloat16"))) == [True, False]


def test_what_is_plain():
    x = jnp.ones((2, 6, 5, 3))
    assert is_plain(x, (3, 3, 3, 4), dimension_numbers=NHWC)
    assert not is_plain(x, (3, 3, 3, 4))
    assert not is_plain(x, (3, 3, 3, 4), dimension_numbers=NHWC, lhs_dilation=(2, 1))
    assert not is_plain(x, (3, 3, 3, 4), dimension_numbers=NHWC, batch_group_count=2)
