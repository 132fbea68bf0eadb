"""Draws the README's picture: three images, their complexity, and the kernels and trajectories that follow from it.

    python notebooks/make_readme_figure.py FILE

FILE ends in .png or .svg. Takes seconds; needs no data. The puppeteer is untrained.
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure

import puppet_jax as pj
from puppet_jax import plots


def scene(detail: int, size: int = 96) -> np.ndarray:
    """A smooth sky (detail 0), sun and hills in flat colours (1), the same with light and grain (2); uint8."""
    y, x = np.mgrid[:size, :size] / size
    sky = 0.3 if detail == 1 else y
    image = np.stack([0.55 + 0.45 * sky + 0 * y, 0.7 + 0 * y, 0.95 - 0.4 * sky + 0 * y], axis=-1)
    if detail > 0:
        image[np.hypot(x - 0.68, y - 0.3) < 0.14] = (1.0, 0.85, 0.3)
        image[y > 0.62 + 0.09 * np.sin(7 * x + 0.4)] = (0.25, 0.55, 0.35)
        image[y > 0.78 + 0.07 * np.sin(5 * x + 2.6)] = (0.15, 0.35, 0.3)
    if detail > 1:
        light = 0.5 + 0.5 * np.stack([x, 1 - y, 0.5 * (x + y)], axis=-1)
        image = image * light + 0.06 * np.random.default_rng(0).normal(size=image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def readme_figure() -> Figure:
    """The picture: an image a row with its kernels, and all trajectories beside them."""
    images = np.stack([scene(detail) for detail in range(3)])
    h = np.asarray(pj.complexity(images))
    depths = np.asarray(pj.depth(h)).tolist()
    puppet = pj.Puppet(channels=(16, 32), depth_rule="total")
    puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=puppet.max_channels)

    figure = Figure(figsize=(10, 4.4), dpi=120, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.3])
    rows = left.subfigures(len(images), 2, width_ratios=[1, 1.6])
    walks = {}
    for (left_part, right_part), image, level, depth in zip(rows, images, h, depths, strict=True):
        axes = left_part.subplots()
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"H = {level:.2f} nats", fontsize=11)

        kernels = pj.generate_kernels(puppeteer, level, puppet.kernel_shapes(depth))
        plots.plot_kernels(kernels, filters=range(3), figure=right_part)
        axes = right_part.axes[0]
        axes.child_axes[0].remove()  # the colour bar
        axes.set_xlim(-0.5, 4 * max(depths) - 1.5)  # kernels of one size in all rows
        axes.set(yticks=[], xlabel="", ylabel="", title="")
        axes.set_title(f"kernels of {depth} layers", fontsize=11, loc="left")

        name = f"{depth} steps of {pj.step_size(level):.2f}"
        walks[name] = pj.trajectory(puppeteer, level, depth)
    plots.plot_trajectories(walks, figure=right)
    right.axes[0].set_title("the trajectories that the kernels are read from", fontsize=11)
    return figure


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    readme_figure().savefig(sys.argv[1])
