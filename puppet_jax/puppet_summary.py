"""What a puppetized model stores and takes, in figures, before anything is allocated."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from puppet_jax.accounting import num_floats
from puppet_jax.puppet_plan import Generated
from puppet_jax.puppeteer import Puppeteer
from puppet_jax.trajectory import generate_kernels, num_steps

MUCH = 2**30
"""Bytes of a trajectory that are worth a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetSummary:
    """Sizes of a puppetized model.

    Attributes:
        model: name of its class.
        kernels: name, shape, floats and Euler steps of each generated kernel, in the order of use.
        replaced: floats of the kernels, which are not stored.
        generator: floats of the puppeteer.
        kept: other trained floats: biases, norms, layers left alone.
        max_channels: C.
        kernel_size: K.
        widest: the kernel with most channels, which decides C where `puppetize` does.
        largest: the kernel of the largest window, which decides K.
        steps: of the trajectory.
        state_bytes: of a state.
        trajectory_bytes: of all states, which a gradient keeps.
        notes: what may be wrong.
    """

    model: str
    kernels: tuple[tuple[str, tuple[int, ...], int, int], ...]
    replaced: int
    generator: int
    kept: int
    max_channels: int
    kernel_size: int
    widest: str
    largest: str
    steps: int
    state_bytes: int
    trajectory_bytes: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("kernel", "shape", "floats", "steps")]
        rows += [(name, str(shape), f"{floats:,}", str(steps)) for name, shape, floats, steps in self.kernels]
        widths = [max(len(row[place]) for row in rows) for place in range(4)]
        lines = [
            f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {floats:>{widths[2]}}  {steps:>{widths[3]}}"
            for name, shape, floats, steps in rows
        ]
        return "\n".join(
            [
                f"{self.model} as a puppet: C = {self.max_channels} (widest: {self.widest}), "
                f"K = {self.kernel_size} (largest window: {self.largest})",
                *lines,
                f"floats: {self.replaced:,} of kernels from {self.generator:,} of the puppeteer; {self.kept:,} kept",
                f"memory: {self.steps} steps; a state {readable(self.state_bytes)}, all that a gradient keeps "
                f"{readable(self.trajectory_bytes)}",
                *(f"note: {note}" for note in self.notes),
            ]
        )


def summarise(model: str, kernels: Sequence[Generated], puppeteer: Puppeteer, kept: int) -> PuppetSummary:
    """Sizes, and which of them are large.

    Args:
        model: name of its class.
        kernels: in the order of use.
        puppeteer: the generator; of abstract arrays too.
        kept: trained floats that are not generated.
    """
    c = puppeteer.max_channels
    steps = [num_steps([one.hwio], c, puppeteer.kernel_size) for one in kernels]
    floats = [int(np.prod(one.shape)) for one in kernels]
    state_bytes = int(np.prod(puppeteer.state_shape)) * puppeteer.state_dtype.itemsize
    found = PuppetSummary(
        model=model,
        kernels=tuple(
            (one.name, one.shape, *sizes) for one, sizes in zip(kernels, zip(floats, steps, strict=True), strict=True)
        ),
        replaced=sum(floats),
        generator=num_floats(puppeteer),
        kept=kept,
        max_channels=c,
        kernel_size=puppeteer.kernel_size,
        widest=max(kernels, key=lambda one: max(one.hwio[2:])).name,
        largest=max(kernels, key=lambda one: one.hwio[0] * one.hwio[1]).name,
        steps=sum(steps),
        state_bytes=state_bytes,
        trajectory_bytes=(sum(steps) + 1) * state_bytes,
    )
    return dataclasses.replace(found, notes=tuple(_large(found)))


def _large(summary: PuppetSummary) -> list[str]:
    """What is large, with a cure."""
    notes = []
    if summary.generator >= summary.replaced:
        notes.append(
            f"the puppeteer holds more floats ({summary.generator:,}) than it replaces ({summary.replaced:,}); a "
            "smaller max_channels holds fewer and takes more steps, and layers can be left alone with `where`"
        )
    if summary.trajectory_bytes > MUCH:
        notes.append(
            f"a gradient keeps {readable(summary.trajectory_bytes)} of states: {summary.steps} of "
            f"{readable(summary.state_bytes)}, C by {summary.widest} and K by {summary.largest}; give a smaller "
            "max_channels, or leave the layer with the largest window alone with `where`"
        )
    return notes


def unmoved(kernels: Sequence[Generated], puppeteer: Puppeteer, h: float) -> list[str]:
    """A note on the kernels that are the same at another complexity than `h`; none of abstract arrays."""
    if isinstance(puppeteer.pointwise_kernel, jax.ShapeDtypeStruct | jax.core.Tracer):
        return []
    shapes = [one.hwio for one in kernels]
    pairs = zip(kernels, *(generate_kernels(puppeteer, level, shapes) for level in (h, 1.2 * h + 0.1)), strict=True)
    names = [one.name for one, here, there in pairs if jnp.abs(here - there).max() <= 1e-6 * jnp.abs(here).max()]
    return [f"complexity does not change {', '.join(names)}"] if names else []


def readable(count: int) -> str:
    """Bytes, in the unit that fits."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
