"""The sheet that pictures are drawn on, and checks of what they are given."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

COLORS = matplotlib.colormaps["cividis"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def new_canvas(figure: Figure | SubFigure | None, height: float) -> Figure | SubFigure:
    """A figure 8 inches wide, 1,200 pixels: text of 10 points is 14 pixels high where it is shown at 800."""
    return Figure(figsize=(8.0, height), dpi=150, layout="constrained") if figure is None else figure


def root_of(canvas: Figure | SubFigure) -> Figure:
    """The figure that holds the canvas."""
    root = canvas.figure
    assert isinstance(root, Figure)
    return root


def color_bar(axes: Axes, image: AxesImage, label: str) -> None:
    """A colour bar as high as the image beside it, which a bar of its own axes is not."""
    axes.figure.colorbar(image, cax=axes.inset_axes((1.03, 0.0, 0.035, 1.0)), label=label)


def series_style(index: int, count: int) -> dict[str, Any]:
    """Colour, marker and line style of one of `count` series."""
    return {
        "color": COLORS(0.1 if count == 1 else 0.02 + 0.75 * index / (count - 1)),
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": STYLES[index % len(STYLES)],
        "markersize": 5.5,
        "linewidth": 1.5,
    }


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Shows an image (H, W, C) of one or three channels in [0, 1]."""
    axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def named_values(values: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    """The mapping; raises a ValueError unless it is one, of at least one entry."""
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"{name} must be a mapping of at least one entry, got {type(values).__name__} {values!r:.80}.")
    return values


def finite_array(value: ArrayLike, name: str, shape: str, ndim: int) -> np.ndarray:
    """`value` as a NumPy array of a real dtype, not empty, of `ndim` axes, all finite."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    if array.ndim != ndim or not array.size:
        raise ValueError(f"{name} must have shape {shape} and not be empty, got shape {array.shape}.")
    if array.dtype.kind not in "iuf":
        array = array.astype(np.float32)
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must be finite, got {array[where]} at index {where} ({int(bad.sum())} of {array.size} values are "
            "bad). Look for the step at which training or the trajectory diverged."
        )
    return array


def checked_kernels(kernels: Sequence[ArrayLike], name: str) -> list[np.ndarray]:
    """HWIO arrays in float64; raises a ValueError unless there is one at least, and all are finite."""
    arrays = [finite_array(kernel, f"{name}[{n}]", "(kh, kw, c_in, c_out)", 4) for n, kernel in enumerate(kernels)]
    if not arrays:
        raise ValueError(f"{name} must hold at least one kernel, got none.")
    return [array.astype(np.float64) for array in arrays]


def checked_images(images: ArrayLike, name: str, shape: str, ndim: int) -> np.ndarray:
    """Images as float32 in [0, 1]."""
    array = finite_array(images, name, shape, ndim)
    if array.shape[-1] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels, got shape {array.shape}. A grey one needs [..., None].")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype.kind != "f" or array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"{name} must be uint8, or floating in [0, 1], got dtype {array.dtype} with values in "
            f"[{array.min()}, {array.max()}]. For 8-bit values pass dtype uint8."
        )
    return array.astype(np.float32)
