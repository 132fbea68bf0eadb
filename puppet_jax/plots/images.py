"""Pictures of images: their complexity, and the depth that it gives them."""

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from puppet_jax.complexity import BINS, entropy, spectrum_bins, to_8_bit
from puppet_jax.plots.canvas import COLORS, checked_images, color_bar, finite_array, new_canvas, root_of, show_image


def plot_depths(
    images: ArrayLike,
    h: ArrayLike,
    depths: ArrayLike,
    num_examples: int = 10,
    *,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """How many images have which complexity and depth (v1 Eqs. 9 and 10), and examples from shallowest to deepest.

    Args:
        images: (B, H, W, C), one or three channels; uint8, or floating in [0, 1].
        h: (B,) complexities, nats.
        depths: (B,) depths, integers at least 1.
        num_examples: images shown, evenly spaced in rank of complexity; at most B of them.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure: a histogram of 60 bins, stacked by depth, above a strip of images.

    Raises:
        ValueError: if a shape, a dtype or a value is wrong, or the numbers of images, `h` and `depths` differ.

    Example:
        >>> import numpy as np, puppet_jax as pj
        >>> from puppet_jax import plots
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
        >>> h = pj.complexity(images)
        >>> figure = plots.plot_depths(images, h, pj.depth(h))
    """
    pixels = checked_images(images, "images", "(B, H, W, C)", 4)
    h = finite_array(h, "h", "(B,)", 1).astype(np.float64)
    depths = np.asarray(depths)
    if not (len(pixels) == len(h) == len(depths)) or depths.ndim != 1:
        raise ValueError(
            f"images, h and depths must have one entry each per image, got shapes {pixels.shape}, {h.shape} and "
            f"{depths.shape}."
        )
    if depths.dtype.kind not in "iu" or depths.min() < 1:
        raise ValueError(
            f"depths must be integers of at least 1, got dtype {depths.dtype}, least value {depths.min()}. Pass "
            "pj.depth(h)."
        )
    if num_examples < 1:
        raise ValueError(f"num_examples must be at least 1, got {num_examples}.")
    num_examples = min(num_examples, len(h))

    canvas = new_canvas(figure, 4.2)
    grid = canvas.add_gridspec(2, num_examples, height_ratios=[2.4, 1])
    axes = canvas.add_subplot(grid[0, :])
    edges = np.linspace(h.min(), max(h.max(), h.min() + 1e-3), 61)
    values = np.unique(depths).tolist()
    groups = [h[depths == depth] for depth in values]
    labels = [f"depth {depth}: {len(group)} of {len(h)}" for depth, group in zip(values, groups, strict=True)]
    colors = [COLORS(x) for x in np.linspace(0.92, 0.05, len(values))]
    axes.hist(groups, edges.tolist(), stacked=True, color=colors, label=labels, edgecolor="white", linewidth=0.3)
    axes.set(title="Complexity and depth", xlabel="complexity H (nats)", ylabel="images")
    # Beside the bars, not on them.
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)
    chosen = np.argsort(h, kind="stable")[np.linspace(0, len(h) - 1, num_examples).round().astype(int)]
    for column, i in enumerate(chosen):
        axes = canvas.add_subplot(grid[1, column])
        show_image(axes, pixels[i])
        axes.set_title(f"H {h[i]:.2f}\ndepth {depths[i]}", fontsize=9)
    return root_of(canvas)


def plot_complexity(image: ArrayLike, *, figure: Figure | SubFigure | None = None) -> Figure:
    """What the complexity of an image is made of (v1 Eqs. 8 and 9).

    The two histograms are those whose entropies `complexity` averages: H = E(X) / 2 + E(Y) / 2.

    Args:
        image: (H, W, C), one or three channels; uint8, or floating in [0, 1], which counts as `round(255 x)`.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure: the image, the histogram of its 8-bit values, its log spectrum Y (mean over channels, zero frequency
        in the centre), the histogram of Y over all channels; E(X), E(Y) and H in the titles.

    Raises:
        ValueError: if the shape or dtype is wrong, or a floating pixel is NaN or outside [0, 1].

    Example:
        >>> import numpy as np
        >>> from puppet_jax import plots
        >>> figure = plots.plot_complexity(np.eye(8)[..., None])
    """
    shown = checked_images(image, "image", "(H, W, C)", 3)
    pixels = to_8_bit(np.asarray(image)[None])[0]
    spectrum = spectrum_bins(pixels)
    parts = [float(entropy(bins)[0]) for bins in (pixels, spectrum)]

    canvas = new_canvas(figure, 4.6)
    ((top_left, top_right), (bottom_left, bottom_right)) = canvas.subplots(2, 2, width_ratios=[1, 2.2])
    canvas.suptitle(f"Complexity H = ½ E(X) + ½ E(Y) = {0.5 * sum(parts):.3f} nats")
    show_image(top_left, shown)
    top_left.set_title("image X", fontsize=11)
    spectrum_map = np.fft.fftshift(np.asarray(spectrum[0]).mean(axis=-1))
    drawn = bottom_left.imshow(spectrum_map, cmap=COLORS, vmin=0, vmax=BINS - 1, interpolation="nearest")
    bottom_left.set(xticks=[], yticks=[], xlabel="horizontal frequency", ylabel="vertical frequency")
    bottom_left.set_title("log spectrum Y", fontsize=11)
    color_bar(bottom_left, drawn, "bin")
    for axes, bins, part, name, label in (
        (top_right, pixels, parts[0], "X", "8-bit value"),
        (bottom_right, spectrum, parts[1], "Y", f"log magnitude, its range cut into {BINS} bins"),
    ):
        counts = np.bincount(np.asarray(bins).ravel(), minlength=BINS)
        axes.stairs(counts, np.arange(BINS + 1) - 0.5, fill=True, color=COLORS(0.15))
        axes.set_title(f"histogram of {name}: E({name}) = {part:.3f} nats", fontsize=11)
        axes.set(xlabel=label, ylabel="count", xlim=(-4, BINS + 3), xticks=[0, 64, 128, 192, 255])
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return root_of(canvas)
