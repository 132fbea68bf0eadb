"""Every picture shows the numbers it should: read back from the figure and held against plain NumPy."""

import gc
import io
import subprocess
import sys
import weakref
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import reference
from matplotlib.figure import Figure

import puppet_jax as pj
from puppet_jax import plots
from puppet_jax.plots import weights

ROOT = Path(__file__).parents[1]
SHAPES = ((3, 3, 1, 4), (3, 3, 4, 4), (3, 3, 4, 4), (1, 1, 4, 6))


@pytest.fixture(scope="module")
def states():
    """Random walks of 5, 7 and 7 steps."""
    rng = np.random.default_rng(0)
    walks = {h: rng.normal(size=(n + 1, 6, 6, 9)).cumsum(axis=0) for h, n in ((2.0, 5), (4.0, 7), (6.0, 7))}
    return {h: jnp.asarray(walk, jnp.float32) for h, walk in walks.items()}


@pytest.fixture(scope="module")
def kernels():
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in SHAPES)


@pytest.fixture(scope="module")
def images():
    """Twelve of 8x6 pixels, from one grey level to many."""
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, 1 + 20 * i, (8, 6, 3), dtype=np.uint8) for i in range(12)])


@pytest.fixture(scope="module")
def figures(states, kernels, images):
    h = pj.complexity(images)
    return {
        "trajectories": plots.plot_trajectories(states),
        "kernels": plots.plot_kernels(kernels),
        "statistics": plots.plot_layer_statistics({"puppet": kernels, "free": kernels[:2]}),
        "depths": plots.plot_depths(images, h, pj.depth(h)),
        "complexity": plots.plot_complexity(images[5]),
        "accuracy": plots.plot_accuracy_compute({"puppet": ([2e7, 3e7], [0.6, 0.62]), "free": (3e7, 0.63)}),
        "bytes": plots.plot_accuracy_bytes({"puppet": ([5e3, 2e4], [0.6, 0.62]), "free": (8e4, 0.63)}),
    }


NAMES = ("trajectories", "kernels", "statistics", "depths", "complexity", "accuracy", "bytes")


def all_axes(figure):
    return figure.axes + [child for axes in figure.axes for child in axes.child_axes]


def texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_figure_renders(figures, name):
    file = io.BytesIO()
    figures[name].savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    width, height = figures[name].get_size_inches() * figures[name].dpi
    assert width == 1200 and 200 <= height <= 1200


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_drawn_over_another_thing(figures, name):
    """Axes with their labels and titles do not overlap each other, and nothing leaves the figure."""
    figure = figures[name]
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for i, a in enumerate(boxes):
        assert a.x0 >= -1 and a.y0 >= -1 and a.x1 <= figure.bbox.x1 + 1 and a.y1 <= figure.bbox.y1 + 1
        for b in boxes[:i]:
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            along = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(across, along) < 1, (a, b)


@pytest.mark.parametrize("name", NAMES)
def test_axes_have_labels(figures, name):
    assert texts(figures[name]).strip()
    for axes in all_axes(figures[name]):
        if len(axes.get_xticks()) and len(axes.get_yticks()):
            assert axes.get_xlabel() and axes.get_ylabel(), axes


def test_no_pyplot_and_no_matplotlib_before_it_is_asked_for():
    code = (
        "import sys, puppet_jax; assert 'matplotlib' not in sys.modules; "
        "from puppet_jax import plots; plots.plot_accuracy_compute({'a': (1e6, 0.5)}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_holds_a_figure():
    figure = weakref.ref(plots.plot_accuracy_compute({"a": (1e6, 0.5)}))
    gc.collect()
    assert figure() is None


def test_draws_into_what_is_given(states, kernels):
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    assert plots.plot_trajectories(states, figure=left) is figure
    assert plots.plot_kernels(kernels, figure=right) is figure
    assert left.axes and right.axes
    assert plots.plot_trajectories(states) is not plots.plot_trajectories(states)


# Trajectories


def principal_components(states):
    """Coordinates and shares of the variance from the SVD of the centred states."""
    x = np.concatenate([np.asarray(value, np.float64).reshape(len(value), -1) for value in states])
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    points = u[:, :2] * s[:2]
    signs = np.sign(points[np.abs(points).argmax(axis=0), [0, 1]])
    return points * signs, s[:2] ** 2 / np.sum(s**2)


@pytest.mark.parametrize("block", [1, 100, 1 << 16])
def test_trajectories_are_principal_components(states, monkeypatch, block):
    monkeypatch.setattr(weights, "_BLOCK", block)
    axes = plots.plot_trajectories(states).axes[0]
    drawn = np.concatenate([line.get_xydata() for line in axes.lines])
    expected, shares = principal_components(states.values())
    np.testing.assert_allclose(drawn, expected, atol=1e-6 * np.abs(expected).max())
    assert [len(line.get_xydata()) for line in axes.lines] == [6, 8, 8]
    assert f"{100 * shares[0]:.1f} %" in axes.get_xlabel()
    assert f"{100 * shares[1]:.1f} %" in axes.get_ylabel()


def test_trajectories_keep_distances_of_a_plane():
    """States in a plane lose nothing: distances in the picture are those in parameter space."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 4 * 4 * 9))
    values = (rng.normal(size=(5, 2)) @ plane).reshape(5, 4, 4, 9)
    drawn = plots.plot_trajectories({3.0: values}).axes[0].lines[0].get_xydata()
    flat = values.reshape(5, -1)
    for points in (drawn, flat):
        points -= points.mean(axis=0)
    np.testing.assert_allclose(drawn @ drawn.T, flat @ flat.T, rtol=1e-9, atol=1e-9)


def test_trajectories_colour_points_by_place_and_name_lines(states):
    figure = plots.plot_trajectories({**states, "other": next(iter(states.values()))})
    axes = figure.axes[0]
    assert [dots.get_array().tolist() for dots in axes.collections] == [list(range(n)) for n in (6, 8, 8, 6)]
    assert {dots.get_clim() for dots in axes.collections} == {(0, 7)}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["H = 2 nats", "H = 4 nats", "H = 6 nats", "other"]
    styles = {(h.get_marker(), h.get_linestyle()) for h in axes.get_legend().legend_handles}
    assert len(styles) == 4


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, ml_dtypes.bfloat16, np.float64], ids=str)
def test_trajectories_of_any_dtype(states, dtype):
    rounded = {h: np.asarray(value).astype(dtype) for h, value in states.items()}
    axes = plots.plot_trajectories(rounded).axes[0]
    expected, _ = principal_components(rounded.values())
    drawn = np.concatenate([line.get_xydata() for line in axes.lines])
    np.testing.assert_allclose(drawn, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "states_by_h must be a mapping of at least one"),
        (np.ones((3, 4, 4, 9)), "states_by_h must be a mapping"),
        ({4.0: np.ones((4, 4, 9))}, r"must have shape \(N \+ 1, C, C, K\*\*2\).*got shape \(4, 4, 9\)"),
        ({4.0: np.ones((3, 4, 5, 9))}, r"same C and K, got \(3, 4, 5, 9\)"),
        ({4.0: np.ones((1, 4, 4, 9))}, "N at least 1"),
        ({4.0: np.eye(4)[None, ..., None] * np.ones((3, 1, 1, 9)), 5.0: np.ones((3, 6, 6, 9))}, "same C and K"),
        ({4.0: np.ones((3, 4, 4, 9))}, "must differ"),
        ({4.0: np.ones((3, 0, 0, 9))}, "not be empty"),
        ({4.0: np.full((3, 4, 4, 9), np.nan)}, r"must be finite, got nan at index \(0, 0, 0, 0\)"),
        ({4.0: np.full((3, 4, 4, 9), 1j)}, "real numbers, got dtype complex128"),
    ],
)
def test_trajectories_refuse(value, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_trajectories(value)


# Kernels


def strip_of(figure):
    return np.asarray(figure.axes[0].images[0].get_array().filled(np.nan), np.float64)


def test_kernels_stand_where_they_should(kernels):
    filters = [3, 1, 5]
    strip = strip_of(plots.plot_kernels(kernels, filters))
    assert strip.shape == (3 * 4 - 1, 4 * 4 - 1)
    for row, index in enumerate(filters):
        for column, kernel in enumerate(kernels[:3]):
            cell = strip[4 * row : 4 * row + 3, 4 * column : 4 * column + 3]
            if index < kernel.shape[3]:
                np.testing.assert_allclose(cell, np.asarray(kernel)[..., index].mean(axis=2), rtol=1e-6, atol=1e-7)
            else:
                assert np.isnan(cell).all()
        cell = strip[4 * row : 4 * row + 3, 12:15]  # a 1x1 kernel in the middle of the cell of a 3x3 one
        assert cell[1, 1] == pytest.approx(float(kernels[3][0, 0, :, index].mean()), rel=1e-5)
        assert np.isnan(cell).sum() == 8
    assert np.isnan(strip[3::4]).all() and np.isnan(strip[:, 3::4]).all()


def test_kernels_of_one_input_channel_leave_gaps(kernels):
    strip = strip_of(plots.plot_kernels(kernels, [2], input_channel=3))
    assert np.isnan(strip[:, :3]).all()  # the first layer has one input channel
    np.testing.assert_allclose(strip[:, 4:7], kernels[1][:, :, 3, 2], rtol=1e-6)


def test_kernels_share_a_colour_scale_symmetric_about_zero(kernels):
    figure = plots.plot_kernels(kernels)
    image = figure.axes[0].images[0]
    low, high = image.get_clim()
    assert -low == high == np.nanmax(np.abs(strip_of(figure)))
    # lightness grows with the weight, so that grey printing keeps the order
    light = image.get_cmap()(np.linspace(0, 1, 256))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(light) > -0.002).all() and light[-1] - light[0] > 0.6
    red, green, blue, _ = image.cmap(image.norm(0.0))
    assert max(red, green, blue) - min(red, green, blue) < 0.05


def test_kernels_of_zeros_and_of_half_precision():
    figure = plots.plot_kernels([np.zeros((3, 3, 2, 2), np.float16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)])
    assert np.unique(strip_of(figure)[:, :3][:3]).tolist() == [0.0]
    assert plots.plot_kernels([np.zeros((3, 3, 2, 2))]).axes[0].images[0].get_clim() == (-1, 1)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kernels": []}, "at least one kernel"),
        ({"kernels": [np.ones((3, 3, 4))]}, r"kernels\[0\] must have shape \(kh, kw, c_in, c_out\).*\(3, 3, 4\)"),
        ({"kernels": [np.ones((3, 3, 1, 4)), np.full((3, 3, 4, 4), np.inf)]}, r"kernels\[1\] must be finite, got inf"),
        ({"kernels": [np.ones((3, 3, 1, 4))], "filters": []}, "filters must name at least one"),
        ({"kernels": [np.ones((3, 3, 1, 4))], "filters": [0, 4]}, r"filters must lie in \[0, 4\).*got 4"),
        ({"kernels": [np.ones((3, 3, 1, 4))], "filters": [-1]}, "got -1"),
        ({"kernels": [np.ones((3, 3, 1, 4))], "input_channel": 1}, r"input_channel must lie in \[0, 1\).*got 1"),
    ],
)
def test_kernels_refuse(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_kernels(**kwargs)


# Statistics


def statistics(kernels):
    figure = plots.plot_layer_statistics({"one": kernels})
    return [np.asarray(axes.lines[0].get_ydata()) for axes in figure.axes]


def test_norms(kernels):
    norms = statistics(kernels)[0]
    np.testing.assert_allclose(norms, [np.sqrt(np.square(np.asarray(k, np.float64)).sum()) for k in kernels])


def test_effective_rank_of_equal_singular_values_is_their_number():
    identity = np.eye(5).reshape(1, 1, 5, 5)
    one = np.ones((3, 3, 2, 4))
    half = np.diag([3.0, 3.0, 0.0, 0.0]).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(statistics([identity, 7 * identity, one, half])[1], [5, 5, 1, 2])


def test_effective_rank_by_hand():
    """Singular values 3 and 1: p = (3/4, 1/4)."""
    p = np.array([0.75, 0.25])
    kernel = np.zeros((1, 2, 1, 2))
    kernel[0, 0, 0, 0], kernel[0, 1, 0, 1] = 3.0, -1.0
    np.testing.assert_allclose(statistics([kernel])[1], [np.exp(-np.sum(p * np.log(p)))])


def test_cosine_of_equal_opposite_and_orthogonal_layers():
    a = np.random.default_rng(0).normal(size=(3, 3, 2, 2))
    b = np.zeros_like(a)
    b[0, 0, 0, 0] = 1.0
    c = np.zeros_like(a)
    c[1, 0, 0, 0] = 1.0
    cosines = statistics([a, 2 * a, -a, b, c])[2]
    assert np.isnan(cosines[0])
    np.testing.assert_allclose(cosines[[1, 2, 4]], [1, -1, 0], atol=1e-12)


def test_gaps_where_there_is_nothing_to_say():
    a = np.ones((3, 3, 2, 2))
    norms, ranks, cosines = statistics([a, np.ones((3, 3, 2, 4)), 0 * a, a, a])
    assert norms[2] == 0.0
    assert np.isnan(ranks).tolist() == [False, False, True, False, False]
    assert np.isnan(cosines).tolist() == [True, True, True, True, False]
    assert "nothing to compare" in texts(plots.plot_layer_statistics({"one": [a]}))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=str)
def test_statistics_of_half_precision(kernels, dtype):
    rounded = [np.asarray(kernel).astype(dtype) for kernel in kernels]
    for a, b in zip(statistics(rounded), statistics(kernels), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2)


def test_sets_differ_by_marker_and_style():
    sets = {f"set {i}": [np.ones((1, 1, 2, 2))] * (i + 1) for i in range(5)}
    figure = plots.plot_layer_statistics(sets)
    for axes in figure.axes:
        assert len({(line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 5
        assert [len(line.get_ydata()) for line in axes.lines] == [1, 2, 3, 4, 5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(sets)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "kernels_by_name must be a mapping of at least one"),
        ([np.ones((3, 3, 2, 2))], "kernels_by_name must be a mapping"),
        ({"a": []}, r"kernels_by_name\['a'\] must hold at least one kernel"),
        ({"a": [np.full((1, 1, 2, 2), np.nan)]}, r"kernels_by_name\['a'\]\[0\] must be finite"),
    ],
)
def test_statistics_refuse(value, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_layer_statistics(value)


# Depths


def test_depths_count_every_image(images):
    h = np.linspace(2.0, 5.0, 12)
    depths = np.array([1] * 3 + [2] * 5 + [4] * 4)
    figure = plots.plot_depths(images, h, depths, num_examples=4)
    axes, *examples = figure.axes
    assert [sum(bar.get_height() for bar in container) for container in axes.containers] == [3, 5, 4]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["depth 1: 3 of 12", "depth 2: 5 of 12", "depth 4: 4 of 12"]
    assert [axes.get_title() for axes in examples] == [
        "H 2.00\ndepth 1", "H 3.09\ndepth 2", "H 3.91\ndepth 2", "H 5.00\ndepth 4"
    ]  # fmt: skip
    for axes, index in zip(examples, [0, 4, 7, 11], strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), images[index] / 255, rtol=1e-6)


def test_depths_stack_in_distinct_lightness(images):
    figure = plots.plot_depths(images, np.linspace(2.0, 5.0, 12), np.repeat([1, 2, 3, 4], 3))
    bars = [container[0] for container in figure.axes[0].containers]
    light = [np.dot(bar.get_facecolor()[:3], [0.299, 0.587, 0.114]) for bar in bars]
    assert (np.diff(light) < -0.1).all()


def test_depths_of_few_equal_grey_images():
    image = np.zeros((2, 4, 4, 1), ml_dtypes.bfloat16)
    figure = plots.plot_depths(image, np.zeros(2, np.float16), np.ones(2, np.int64))
    assert len(figure.axes) == 3
    assert sum(bar.get_height() for bar in figure.axes[0].containers[0]) == 2


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((12, 8, 6), np.uint8)}, r"images must have shape \(B, H, W, C\).*\(12, 8, 6\)"),
        ({"images": np.zeros((0, 8, 6, 3), np.uint8)}, "not be empty"),
        ({"images": np.zeros((12, 8, 6, 2), np.uint8)}, "1 or 3 channels"),
        ({"images": np.full((12, 8, 6, 3), 200.0)}, r"in \[0, 1\], got dtype float64 with values in \[200"),
        ({"images": np.zeros((12, 8, 6, 3), np.int32)}, "got dtype int32"),
        ({"h": np.ones(11)}, "one entry each per image"),
        ({"h": np.full(12, np.nan)}, r"h must be finite, got nan at index \(0,\) \(12 of 12"),
        ({"h": 3.0}, r"h must have shape \(B,\).*got shape \(\)"),
        ({"depths": np.ones((12, 1), np.int64)}, "one entry each per image"),
        ({"depths": np.ones(12)}, "integers of at least 1, got dtype float64"),
        ({"depths": np.zeros(12, np.int64)}, "least value 0"),
        ({"num_examples": 0}, "num_examples must be at least 1, got 0"),
    ],
)
def test_depths_refuse(images, change, message):
    arguments = {"images": images, "h": np.linspace(2, 5, 12), "depths": np.ones(12, np.int64), **change}
    with pytest.raises(ValueError, match=message):
        plots.plot_depths(**arguments)


# Complexity


def entropy(counts):
    p = counts[counts > 0] / counts.sum()
    return -np.sum(p * np.log(p))


@pytest.mark.parametrize("size", [(8, 6, 3), (5, 7, 1)], ids=str)
def test_histograms_are_those_of_the_complexity(size):
    image = np.random.default_rng(0).integers(0, 100, size, dtype=np.uint8)
    figure = plots.plot_complexity(image)
    pixel_axes, spectrum_axes = figure.axes[1], figure.axes[3]
    pixels, spectrum = (np.asarray(axes.patches[0].get_data().values) for axes in (pixel_axes, spectrum_axes))
    assert len(pixels) == len(spectrum) == 256
    assert pixels.sum() == spectrum.sum() == np.prod(size)
    np.testing.assert_array_equal(pixels, np.bincount(image.ravel(), minlength=256))
    np.testing.assert_array_equal(spectrum, np.bincount(reference.spectrum_bins(image).ravel(), minlength=256))
    h = 0.5 * entropy(pixels) + 0.5 * entropy(spectrum)
    assert h == pytest.approx(float(pj.complexity(image[None])[0]), rel=1e-5)
    assert f"E(X) = {entropy(pixels):.3f} nats" in pixel_axes.get_title()
    assert f"E(Y) = {entropy(spectrum):.3f} nats" in spectrum_axes.get_title()
    assert f"= {h:.3f} nats" in figure.get_suptitle()


def test_spectrum_map_has_frequency_zero_in_the_centre():
    image = np.full((8, 6, 1), 200, np.uint8)
    image[0, 0] = 190
    spectrum = np.asarray(plots.plot_complexity(image).axes[2].images[0].get_array())
    assert spectrum.shape == (8, 6)
    assert np.unravel_index(spectrum.argmax(), spectrum.shape) == (4, 3)
    assert spectrum.max() == 255


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
def test_complexity_of_floating_images(dtype):
    image = (np.arange(64).reshape(8, 8, 1) / 64).astype(dtype)
    title = plots.plot_complexity(jnp.asarray(image)).get_suptitle()
    assert f"= {float(pj.complexity(image[None])[0]):.3f} nats" in title


def test_complexity_of_a_constant_image():
    """One frequency of sixteen stands out: E(X) = 0, E(Y) = -(1/16) log(1/16) - (15/16) log(15/16) = 0.234."""
    figure = plots.plot_complexity(np.full((4, 4, 3), 7, np.uint8))
    assert "E(X) = 0.000 nats" in figure.axes[1].get_title()
    assert "E(Y) = 0.234 nats" in figure.axes[3].get_title()
    assert "= 0.117 nats" in figure.get_suptitle()


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"image must have shape \(H, W, C\).*got shape \(8, 8\)"),
        (np.zeros((8, 0, 3), np.uint8), "not be empty"),
        (np.zeros((8, 8, 4), np.uint8), "1 or 3 channels"),
        (np.full((8, 8, 1), np.nan), "must be finite"),
        (np.full((8, 8, 1), 1.5), r"in \[0, 1\]"),
        (np.zeros((8, 8, 1), np.int64), "uint8, or floating"),
        (np.full((8, 8, 1), "a"), "real numbers"),
    ],
)
def test_complexity_refuses(image, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_complexity(image)


# Accuracy against compute


def test_accuracy_points_in_percent_on_a_log_axis():
    series = {"puppet": (np.array([2e7, 3e7, 2.5e7]), jnp.array([0.5, 0.62, 0.6], jnp.float16)), "free": (4e9, 0.63)}
    axes = plots.plot_accuracy_compute(series).axes[0]
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[2e7, 50], [3e7, 62], [2.5e7, 60]], rtol=1e-3)
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[4e9, 63]])
    assert len({(line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["puppet", "free"]


def test_accuracy_against_bytes():
    axes = plots.plot_accuracy_bytes({"puppet": ([5e3, 2e4], [0.6, 0.62])}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[5e3, 60], [2e4, 62]])
    assert axes.get_xlabel().startswith("stored bytes")
    with pytest.raises(ValueError, match="the bytes of 'a' must be positive, got -1"):
        plots.plot_accuracy_bytes({"a": (-1, 0.5)})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2.7e7, 4e7, ["20 M", "50 M"]),
        (1e6, 1e6, ["500 k", "1 M", "2 M"]),
        (3e6, 1.1e9, ["2 M", "5 M", "10 M", "20 M", "50 M", "100 M", "200 M", "500 M", "1 G", "2 G"]),
        (1e6, 3e11, ["1 M", "10 M", "100 M", "1 G", "10 G", "100 G", "1 T"]),
    ],
)
def test_ticks_enclose_the_points(low, high, expected):
    figure = plots.plot_accuracy_compute({"a": ([low, high], [0.1, 0.2])})
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == expected
    left, right = figure.axes[0].get_xlim()
    assert left < low and high < right


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({}, "series must be a mapping of at least one"),
        ({"a": 3.0}, r"series\['a'\] must be a pair"),
        ({"a": ([1e6, 2e6], [0.5])}, "must pair its values, got 2 and 1"),
        ({"a": ([], [])}, "not be empty"),
        ({"a": ([[1e6]], [0.5])}, "must have shape"),
        ({"a": (0.0, 0.5)}, "must be positive, got 0.0"),
        ({"a": (1e6, 62.3)}, r"fractions in \[0, 1\], got 62.3; divide percents by 100"),
        ({"a": (1e6, np.nan)}, "the accuracies of 'a' must be finite"),
    ],
)
def test_accuracy_refuses(series, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_accuracy_compute(series)
