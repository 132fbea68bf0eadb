"""A puppeteer that is too large for one device, split over several by the output channels of its states."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from puppet_jax.puppeteer import Puppeteer, check_puppeteer

_FIRST = ("pointwise_kernel", "initial_state")
"""What has its output channels first; all other arrays have them last."""


def shard_puppeteer(puppeteer: Puppeteer, mesh: Mesh, axis: str) -> Puppeteer:
    """The same puppeteer, its arrays split over output channels along an axis of a mesh.

    XLA then splits states, and gradients, alike: a device holds C / n of the C output channels, and gets those of the
    others for the product of each step. Kernels are split where the caller's program leaves them so, by `out_shardings`
    or because a layer that uses them is split.

    Args:
        puppeteer: the parameters.
        mesh: whose axis is of the kind Auto.
        axis: its name; its size must divide C.

    Raises:
        TypeError: if `puppeteer` is none.
        ValueError: if the mesh has no such axis, of another kind, or it does not divide C.
    """
    check_puppeteer(puppeteer)
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if kinds.get(axis) != AxisType.Auto:
        raise ValueError(f"axis must name an axis of the kind Auto of the mesh, which has {kinds}, got {axis!r:.80}.")
    if puppeteer.max_channels % mesh.shape[axis]:
        raise ValueError(
            f"The {mesh.shape[axis]} devices along {axis!r} must divide the {puppeteer.max_channels} channels of the "
            "puppeteer; take fewer, or another max_channels."
        )

    def place(path: tuple[jax.tree_util.GetAttrKey, ...], leaf: jax.Array) -> jax.Array:
        others = [None] * (leaf.ndim - 1)
        parts = (axis, *others) if path[-1].name in _FIRST else (*others, axis)
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*parts)))

    return jax.tree.map_with_path(place, puppeteer)
