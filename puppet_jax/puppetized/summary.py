"""What a puppetized model stores and takes, in figures, before anything is allocated."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from puppet_jax.accounting import num_floats
from puppet_jax.generator import GeneratorModule, PuppeteerGenerator
from puppet_jax.puppetized.plan import Generated
from puppet_jax.trajectory import keeps_products, segment_length

MUCH = 2**30
"""Bytes of a trajectory that are worth a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectorySize:
    """Sizes of a puppeteer's trajectory.

    Attributes:
        max_channels: C.
        kernel_size: K.
        widest: the kernel with most channels, which decides C where `puppetize` does.
        largest: the kernel of the largest window, which decides K.
        steps: Euler steps of each kernel, in the order of use.
        state_bytes: of a state.
    """

    max_channels: int
    kernel_size: int
    widest: str
    largest: str
    steps: tuple[int, ...]
    state_bytes: int

    @property
    def kept_states(self) -> int:
        """States that a gradient keeps: all, or those that segments begin with and those of a segment."""
        count = sum(self.steps)
        segment = segment_length(count, self.state_bytes)
        return 1 + (count if segment is None else math.ceil(count / segment) + segment)

    @property
    def kept_products(self) -> int:
        """Products, as large as states, that a gradient keeps: of every step, or none."""
        count = sum(self.steps)
        return count if keeps_products(count, self.state_bytes) else 0

    @property
    def num_bytes(self) -> int:
        """Of these states and products."""
        return (self.kept_states + self.kept_products) * self.state_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetSummary:
    """Sizes of a puppetized model.

    Attributes:
        model: name of its class.
        kernels: name, shape and floats of each generated weight, in the order of use.
        replaced: floats of these weights, which are not stored.
        generator: floats of the generator.
        kept: other trained floats: biases, norms, layers left alone.
        trajectory: of a puppeteer; None of other generators.
        notes: what may be wrong.
    """

    model: str
    kernels: tuple[tuple[str, tuple[int, ...], int], ...]
    replaced: int
    generator: int
    kept: int
    trajectory: TrajectorySize | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [["weight", "shape", "floats"]] + [[name, str(shape), f"{size:,}"] for name, shape, size in self.kernels]
        title, memory = f"{self.model} as a puppet", []
        if found := self.trajectory:
            for row, steps in zip(rows, ["steps", *map(str, found.steps)], strict=True):
                row.append(steps)
            title += f": C = {found.max_channels} (widest: {found.widest}), K = {found.kernel_size} (largest window: "
            title += f"{found.largest})"
            memory = [
                f"memory: {sum(found.steps)} steps; a state {readable(found.state_bytes)}, a gradient keeps "
                f"{readable(found.num_bytes)}"
            ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = (str.ljust, str.ljust, str.rjust, str.rjust)
        lines = [
            "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=False))
            for row in rows
        ]
        floats = f"floats: {self.replaced:,} of weights from {self.generator:,} of the generator; {self.kept:,} kept"
        return "\n".join([title, *lines, floats, *memory, *(f"note: {note}" for note in self.notes)])


def summarise(model: str, kernels: Sequence[Generated], generator: GeneratorModule, kept: int) -> PuppetSummary:
    """Sizes, and which of them are large.

    Args:
        model: name of its class.
        kernels: in the order of use.
        generator: of abstract arrays too.
        kept: trained floats that are not generated.
    """
    found = PuppetSummary(
        model=model,
        kernels=tuple((one.name, one.shape, math.prod(one.shape)) for one in kernels),
        replaced=sum(math.prod(one.shape) for one in kernels),
        generator=num_floats(generator.get_value()),
        kept=kept,
        trajectory=_trajectory(kernels, generator),
    )
    return dataclasses.replace(found, notes=tuple(_large(found)))


def _trajectory(kernels: Sequence[Generated], module: GeneratorModule) -> TrajectorySize | None:
    generator = module.generator
    if not isinstance(generator, PuppeteerGenerator):
        return None
    puppeteer = module.get_value()
    read = {one.name: generator.read_shape(one.hwio, puppeteer.kernel_size) for one in kernels}
    return TrajectorySize(
        max_channels=puppeteer.max_channels,
        kernel_size=puppeteer.kernel_size,
        widest=max(read, key=lambda name: max(read[name][2:])),
        largest=max(read, key=lambda name: math.prod(read[name][:2])),
        steps=tuple(generator.num_steps(puppeteer, one.stack * [one.hwio]) for one in kernels),
        state_bytes=math.prod(puppeteer.state_shape) * puppeteer.state_dtype.itemsize,
    )


def _large(summary: PuppetSummary) -> list[str]:
    """What is large, with a cure."""
    notes = []
    found = summary.trajectory
    if summary.generator >= summary.replaced:
        cure = "a smaller max_channels holds fewer and takes more steps, and layers can be left alone with `where`"
        notes.append(
            f"the {'puppeteer' if found else 'generator'} holds more floats ({summary.generator:,}) than it replaces "
            f"({summary.replaced:,}); " + (cure if found else "give it fewer")
        )
    if found and found.num_bytes > MUCH:
        notes.append(
            f"a gradient keeps {readable(found.num_bytes)} of states: {found.kept_states} of "
            f"{readable(found.state_bytes)}, C by {found.widest} and K by {found.largest}; give a smaller "
            "max_channels, or leave the layer with the largest window alone with `where`"
        )
    return notes


def unmoved(kernels: Sequence[Generated], generator: GeneratorModule, h: float | tuple[float, ...]) -> list[str]:
    """A note on the weights that are the same under another condition than `h`; none of abstract arrays."""
    leaves = jax.tree.leaves(generator.get_value())
    if any(isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer) for leaf in leaves):
        return []
    owners = [one for one in kernels for _ in range(one.stack)]
    conditions = (jnp.asarray(h), 1.2 * jnp.asarray(h) + 0.1)
    made = (generator.generate(condition, [one.hwio for one in owners]) for condition in conditions)
    moved = {
        one
        for one, here, there in zip(owners, *made, strict=True)
        if jnp.abs(here - there).max() > 1e-6 * jnp.abs(here).max()
    }
    names = [one.name for one in kernels if one not in moved]
    if not names:
        return []
    what = "complexity" if generator.generator.condition_size is None else "the condition"
    return [f"{what} does not change {', '.join(names) if len(names) < len(kernels) else 'any weight'}"]


def readable(count: int) -> str:
    """Bytes, in the unit that fits."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
