"""Depth buckets: images are grouped by depth, groups are padded to few sizes, results return in order."""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from puppet_jax.adaptation import depth as depth_of, depth_interval
from puppet_jax.checks import as_floats, as_integer, check_complexity, check_images, check_number
from puppet_jax.complexity import CalibratedComplexity, complexity as entropy_complexity
from puppet_jax.measures import compiled_measure

Adaptation = Literal["level", "sample"]
GROUP_SIZES = (1, 4, 16, 64, 256)
CPU_LARGEST = 64
"""Largest group on a CPU: the activations of more leave its cache, and take up to a sixth longer."""
CPU_MEASURED = 16
"""Most images whose complexity is measured at once on a CPU: more take four times as long each."""
CPU_PADDING = 0.25
"""Most of a group on a CPU that may be padding, where every image takes its time: more is cut off as smaller groups."""
_MOST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Group:
    """Images that run through one compiled program together.

    Attributes:
        depth: their depth bucket.
        h: the complexity (nats) that their shared kernels are generated at, or None if each image has its own.
        indices: (n,) their places in the caller's batch.
        size: the padded size, at least n.
    """

    depth: int
    h: float | None
    indices: np.ndarray
    size: int

    def padded_indices(self) -> np.ndarray:
        """(size,) the indices, the last repeated: padding rows are real images whose results are dropped."""
        return pad_indices(self.indices, (self.size,))


def complexities(
    images: ArrayLike,
    measure: Callable[[ArrayLike], ArrayLike] = entropy_complexity,
    sizes: Sequence[int] | None = None,
) -> np.ndarray:
    """Complexity of any number of images, padded to few sizes so that few programs are compiled.

    Args:
        images: (batch, height, width, channels), uint8 or floating in [0, 1].
        measure: any function of images to (batch,) values at least 0 (v2 Sec. 3.2). It is traced once a size, and
            must be pure: what it reads beside the images is read then. One that JAX cannot trace, such as one in NumPy
            or Pillow, is called with an array of all images in each call.
        sizes: that pieces of the batch are padded to; those of groups if not given, on a CPU at most 16 images, whose
            spectra fit into its cache.

    Returns:
        (batch,) float32.

    Raises:
        ValueError: if the images are not as above, `measure` gives another shape, or a value is negative, infinite or
            NaN: which image. What `measure` itself raises passes.
    """
    images = np.asarray(check_images(images))
    if isinstance(measure, CalibratedComplexity) and measure.constant is not None:
        return np.full(len(images), measure.constant, np.float32)
    sizes = group_sizes(CPU_MEASURED) if sizes is None else sizes
    try:
        run, cut = compiled_measure(measure), pieces(len(images), sizes)
        parts = [(len(indices), len(padded), run(images[padded])) for indices, padded in cut]
    except Exception:  # of any kind: what cannot be traced says so in its own way, and an error comes again below
        parts = [(len(images), len(images), measure(images.copy()))]
    h = np.concatenate([_one_value_each(values, size)[:n] for n, size, values in parts])
    bad = np.flatnonzero(~(np.isfinite(h) & (h >= 0)))
    if len(bad):
        raise ValueError(
            f"The complexity of image {bad[0]} is {h[bad[0]]} ({len(bad)} of {len(h)} images are bad): it must be "
            "finite and at least 0. Look at what `measure` makes of it."
        )
    return h


def _one_value_each(values: Any, count: int) -> np.ndarray:
    found = np.asarray(values, np.float32)
    if found.shape != (count,):
        raise ValueError(
            f"measure must give one value per image, shape ({count},) for {count} images, got shape {found.shape}."
        )
    return found


def one_an_image(h: ArrayLike, count: int) -> np.ndarray:
    """Complexities that a caller gives, as an array; raises a ValueError unless there is one for each image."""
    h = np.asarray(h)
    if h.shape != (count,):
        raise ValueError(f"h must hold one complexity per image, shape ({count},), got shape {h.shape}.")
    return h


def pieces(count: int, sizes: Sequence[int] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of a batch, cut as `make_groups` does it: their places in it, and the same padded to one of `sizes`."""
    every, sizes = np.arange(count), group_sizes() if sizes is None else tuple(check_sizes(sizes))
    for part, size in _parts(count, sizes, most_padding()):
        yield every[part], pad_indices(every[part], (size,))


def run_pieces(count: int, run: Callable[[np.ndarray], Any]) -> Any:
    """What `run` gives for the padded places of each piece of a batch, put together without the padding.

    Args:
        count: images.
        run: from places (size,) to a pytree of arrays, a row for each. All pieces are dispatched before the first
            result is awaited.

    Returns:
        A pytree of NumPy arrays, a row an image.
    """
    parts = [(len(places), run(padded)) for places, padded in pieces(count)]
    cut = [jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[:rows], found) for rows, found in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *cut)


def batch_sharding(params: Any) -> NamedSharding | None:
    """How batches are split over the devices of the mesh that parameters lie on, or None if they are not.

    The axes of the mesh must be of the kind Auto.

    Args:
        params: a pytree; its arrays lie whole on every device of a `jax.sharding.Mesh`, or on one device.
    """
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    sharding = leaves[0].sharding if leaves else None
    if not isinstance(sharding, NamedSharding):
        return None
    mesh = sharding.mesh
    if any(kind != AxisType.Auto for kind in mesh.axis_types):  # programs would have to say where each array lies
        return None
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def spread(images: np.ndarray, sharding: NamedSharding | None) -> np.ndarray | jax.Array:
    """Images (batch, ...) split as `batch_sharding` says, if its devices divide them; else as they are."""
    if sharding is None or len(images) % sharding.num_devices:
        return images
    return jax.device_put(images, sharding)


def check_sizes(sizes: Sequence[int]) -> list[int]:
    """The sizes in rising order; raises unless they are positive integers, one at least."""
    if not len(sizes):
        raise ValueError("sizes must hold at least one integer, got none.")
    return sorted(as_integer("sizes", size) for size in sizes)


def pad_indices(indices: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The indices, at least one, the last repeated up to the next of `sizes`."""
    size = min(size for size in sizes if size >= len(indices))
    return np.concatenate([indices, np.repeat(indices[-1:], size - len(indices))])


def check_adaptation(adaptation: str) -> None:
    """Raises a ValueError unless it is "level" or "sample"."""
    if adaptation not in ("level", "sample"):
        raise ValueError(f"adaptation must be 'level' or 'sample', got {adaptation!r:.80}.")


_depth_of = jax.jit(depth_of)


def nearest_depths(h: np.ndarray, depths: Sequence[int]) -> np.ndarray:
    """For each complexity the depth D(h), or the nearest of `depths` (the shallower of two) if it is not one.

    Args:
        h: (batch,) nats.
        depths: the depths a puppet was trained at.

    Returns:
        (batch,) int64, each one of `depths`.

    Raises:
        ValueError: if `h` has another rank than 1, is empty or has bad values, or `depths` is empty.
    """
    depths = _sorted(depths)
    check_complexity(h)
    h = np.asarray(h, np.float32)
    if h.ndim != 1 or not len(h):
        raise ValueError(f"h must hold one complexity per image of a batch that is not empty, got shape {h.shape}.")
    available, bounds = _bounds(depths)
    return np.array(available)[np.searchsorted(np.array(bounds, np.float32), h, side="right")]


def _sorted(depths: Sequence[int]) -> tuple[int, ...]:
    available = tuple(sorted(as_integer("depths", depth) for depth in depths))
    if not available:
        raise ValueError("depths must name at least one depth, got none.")
    return available


@functools.lru_cache(256)
def _bounds(depths: tuple[int, ...]) -> tuple[tuple[int, ...], list[float]]:
    """Rising depths, and the least complexity, a float32, that goes to each of them but the first.

    D(h) rises with h, so that a batch is routed by comparisons on the host. D itself, asked by bisection, decides where
    they lie: `depth_interval` rounds otherwise.
    """
    nearer = np.array([(low + high) // 2 + 1 for low, high in itertools.pairwise(depths)])  # to the deeper of two
    above = np.array([depth_interval(int(depth))[1] for depth in nearer], np.float32).view(np.int32)
    below = np.zeros_like(above)
    while (above - below > 1).any():  # bits of floats of one sign rise with their values
        middle = below + (above - below) // 2
        reached = np.asarray(_depth_of(middle.view(np.float32))) >= nearer
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return depths, above.view(np.float32).tolist()


def level_centre(h: np.ndarray, depth: int, num_levels: int) -> np.ndarray:
    """The centre of the level of complexity that holds `h`, inside the bucket of one depth.

    The interval of a depth is cut into `num_levels` equal levels; all images of a level share the kernels that
    are generated at its centre. The centre is a function of `h` alone, so that what an
    image is classified as never depends on the other images of its batch. A complexity outside the interval
    (an image routed to the nearest depth that was trained) counts as the nearest level.

    Args:
        h: (batch,) complexities, nats.
        depth: the bucket, at least 1.
        num_levels: at least 1.

    Returns:
        (batch,) float64, nats.

    Raises:
        ValueError: if `num_levels` or `depth` is less than 1.
    """
    num_levels = as_integer("num_levels", num_levels)
    low, high = depth_interval(depth)
    width = (high - low) / num_levels
    index = np.clip(np.floor((as_floats("h", h, np.float64) - low) / width), 0, num_levels - 1)
    return low + (index + 0.5) * width


@functools.lru_cache(256, typed=True)
def groups_of_equals(
    h: float, count: int, depths: tuple[int, ...], num_levels: int | None, sizes: tuple[int, ...], padding: float
) -> tuple[Group, ...]:
    """What `make_groups` gives for images of one complexity, kept: models of one depth ask for nothing else.

    Args:
        h: a float32, nats.
        count: images.
        depths: in rising order.
        num_levels: as there.
        sizes: in rising order.
        padding: as there.
    """
    depth, centre = nearest_depth(h, depths), None
    if num_levels is not None:
        low, high = depth_interval(depth)
        width = (high - low) / as_integer("num_levels", num_levels)
        index = min(max(math.floor((h - low) / width), 0), num_levels - 1)
        centre = low + (index + 0.5) * width
    every = np.arange(count)
    every.flags.writeable = False
    return tuple(Group(depth, centre, every[part], size) for part, size in _parts(count, sizes, padding))


@functools.lru_cache(1024)
def _parts(count: int, sizes: tuple[int, ...], padding: float) -> tuple[tuple[slice, int], ...]:
    """Where groups of `count` images lie, and their sizes: the next of `sizes`, or a full one if that pads too much."""
    parts, first = [], 0
    while first < count:
        left = count - first
        size = next((size for size in sizes if size >= left), sizes[-1])
        full = [size for size in sizes if size <= left]
        if full and size - left > padding * size:
            size = full[-1]
        parts.append((slice(first, min(first + size, count)), size))
        first += size
    return tuple(parts)


def group_sizes(most: int = CPU_LARGEST) -> tuple[int, ...]:
    """Sizes of groups on the default device, at most so large on a CPU."""
    return tuple(size for size in GROUP_SIZES if size <= most or jax.default_backend() != "cpu")


def most_padding() -> float:
    """Most of a group that may be padding on the default device: a whole group is as fast as a part of it on a GPU."""
    return CPU_PADDING if jax.default_backend() == "cpu" else 1.0


def nearest_depth(h: float, depths: Sequence[int]) -> int:
    """`nearest_depths` of one complexity, taken as a float32."""
    available, bounds = _bounds(_sorted(depths))
    return available[bisect.bisect_right(bounds, np.float32(h).item())]


def make_groups(
    h: ArrayLike,
    depths: Sequence[int],
    num_levels: int | None = None,
    sizes: Sequence[int] | None = None,
    padding: float | None = None,
) -> list[Group]:
    """Groups a batch by depth, and by level of complexity where kernels are shared.

    Args:
        h: (batch,) complexities, nats.
        depths: the depths in use; an image of another depth goes to the nearest.
        num_levels: levels of complexity in each bucket whose images share kernels (see `level_centre`), or None for
            kernels of each image's own.
        sizes: sizes that groups are padded to; a group larger than the largest is cut. If not given 1, 4, 16, 64, and
            but for a CPU 256.
        padding: most of a group that may be padding, in [0, 1]; one that needs more is cut into smaller ones, as far
            as there are smaller sizes. A quarter on a CPU, and any on other devices, if not given.

    Returns:
        Groups that hold every index of the batch once; the number of different (depth, size) pairs, and so of
        compiled programs, is at most len(depths) x len(sizes).

    Raises:
        ValueError: if the batch is empty, `h` has another rank than 1 or bad values, `depths` is empty, or `padding` is
            out of range.
    """
    h, sizes = np.asarray(h), group_sizes() if sizes is None else tuple(check_sizes(sizes))
    padding = most_padding() if padding is None else padding
    check_number("padding", padding)
    if not 0 <= padding <= 1:
        raise ValueError(f"padding must be in [0, 1], got {padding}.")
    if h.ndim == 1 and len(h) and h.dtype.char in "fd" and 0 <= (first := h.item(0)) < _MOST:
        if len(h) == 1 or (h == first).all():
            return list(groups_of_equals(first, len(h), _sorted(depths), num_levels, sizes, padding))
    assigned = nearest_depths(h, depths)  # looks at both
    groups = []
    for depth in sorted(set(assigned.tolist())):
        members = np.flatnonzero(assigned == depth)
        parts: list[tuple[float | None, np.ndarray]]
        if num_levels is None:
            parts = [(None, members)]
        else:
            centres = level_centre(h[members], depth, num_levels)
            parts = [(float(c), members[centres == c]) for c in np.unique(centres)]
        for centre, indices in parts:
            for part, size in _parts(len(indices), sizes, padding):
                groups.append(Group(depth=depth, h=centre, indices=indices[part], size=size))
    return groups


def run_groups(groups: Sequence[Group], run: Callable[[Group], jax.Array]) -> np.ndarray:
    """What `run` gives for each group, put back in the order of the batch.

    Args:
        groups: from `make_groups`, which hold every index of the batch once.
        run: from a group to an array (group.size, ...), a row for each of its padded indices. All groups are
            dispatched before the first result is awaited.

    Returns:
        (batch, ...) float32, without the padding.

    Raises:
        TypeError: if something else is among the groups.
        ValueError: if an index is missing or there twice.
    """
    return start_groups(groups, run)()


def start_groups(groups: Sequence[Group], run: Callable[[Group], jax.Array]) -> Callable[[], np.ndarray]:
    """`run_groups` in two: dispatches all groups, and returns what awaits and orders their results."""
    if not all(isinstance(group, Group) for group in groups):
        raise TypeError(f"groups must be those of make_groups, got {groups!r:.80}.")
    parts = [group.indices for group in groups]
    indices = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])
    batch = len(indices)
    if not batch or (np.sort(indices) != np.arange(batch)).any():
        raise ValueError("groups must hold every index of a batch that is not empty once; make_groups makes such.")
    outputs = [run(group) for group in groups]

    def finish() -> np.ndarray:
        result = np.empty((batch, *outputs[0].shape[1:]), np.float32)
        for group, output in zip(groups, outputs, strict=True):
            result[group.indices] = np.asarray(output)[: len(group.indices)]
        return result

    return finish
