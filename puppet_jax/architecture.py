"""Which layers a puppet has: static facts, no arrays (v1 Sec. 3.5)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from puppet_jax.checks import as_integer, check_number

MAX_DEPTH = 10_000
"""Layers of a puppet whose depth follows the complexity: more are a mistake."""

DepthRule = Literal["per_stage", "total"]
Classifier = Literal["linear", "generated"]


class Layer(NamedTuple):
    """Place of one convolution in a puppet: its stage, its place in the stage, its width, whether pooling precedes."""

    stage: int
    place: int
    channels: int
    pool: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Puppet:
    """Architecture of a puppet: hashable, no arrays.

    Stages of equal width with 2x2 max-pooling between them. A layer is a 'SAME' convolution, batch norm and ReLU.
    Global average pooling and a classifier stand at the end.

    Attributes:
        channels: width of each stage.
        layers: convolutions of each stage, such as (1, 3, 3); the only depth is then their sum. None: the depth follows
            the complexity of the image, and `depth_rule` says what it means.
        depth_rule: "per_stage" (v1): depth D means D layers in each stage. "total" (v2): D layers in all, at least
            one a stage, spread as evenly as can be, later stages first.
        stem: the first stage has one layer at every depth. The rule is for the others ("total": for what is left of D).
        num_classes: number of logits.
        in_channels: channels of the images.
        kernel_size: size of every kernel, odd.
        residual: within a stage a layer is added to its input (v1 Eq. 3) instead of replacing it.
        dropout: fraction of the activations behind each pooling that training sets to zero, in [0, 1).
        mirror: the network is reflection-equivariant: the second half of every layer's channels has the kernels of the
            first half, mirrored left to right, with the halves of their input channels exchanged. An image (of even
            width at every pooling) and its mirror image get the same logits. Half the kernels, norms and classifier
            weights are needed. Every width must be even.
        affine: batch norms have a trainable scale and bias, shared by all depths: two floats a channel of each layer
            of the deepest puppet. Without them only statistics are kept.
        classifier: "linear" stores channels[-1] x num_classes + num_classes floats. "generated" stores nothing: one
            more Euler step gives a 1x1 kernel, as the papers' 1.08 MB require.

    References:
        Mirror: Cohen and Welling, Group equivariant convolutional networks, 2016.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    layers: tuple[int, ...] | None = None
    depth_rule: DepthRule = "per_stage"
    stem: bool = False
    num_classes: int = 10
    in_channels: int = 3
    kernel_size: int = 3
    residual: bool = False
    dropout: float = 0.0
    mirror: bool = False
    affine: bool = False
    classifier: Classifier = "linear"

    def __post_init__(self):
        """Refuses values outside their range."""
        for name in ("channels", "layers"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(as_integer(name, one) for one in getattr(self, name)))
        if not self.channels:
            raise ValueError(f"channels must be at least one positive integer, got {self.channels}.")
        if self.layers is not None and len(self.layers) != len(self.channels):
            raise ValueError(
                f"layers must be a positive integer for each of {len(self.channels)} stages, got {self.layers}."
            )
        if self.layers is not None and (self.depth_rule != "per_stage" or self.stem):
            raise ValueError(
                f"layers {self.layers} leave nothing to depth_rule {self.depth_rule!r} and stem {self.stem}; give "
                "either layers or those."
            )
        if self.stem and len(self.channels) < 2:
            raise ValueError(f"a stem needs at least one stage behind it, got channels {self.channels}.")
        if self.mirror and any(width % 2 for width in self.channels):
            raise ValueError(f"channels must be even with mirror, got {self.channels}.")
        for name in ("num_classes", "in_channels", "kernel_size"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {self.kernel_size}.")
        check_number("dropout", self.dropout)
        for name in ("stem", "residual", "mirror", "affine"):
            if not isinstance(getattr(self, name), bool | np.bool):
                raise TypeError(f"{name} must be a bool, got {getattr(self, name)!r:.80}.")
            object.__setattr__(self, name, bool(getattr(self, name)))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        object.__setattr__(self, "dropout", float(self.dropout))
        if self.depth_rule not in ("per_stage", "total"):
            raise ValueError(f"depth_rule must be 'per_stage' or 'total', got {self.depth_rule!r}.")
        if self.classifier not in ("linear", "generated"):
            raise ValueError(f"classifier must be 'linear' or 'generated', got {self.classifier!r}.")

    @property
    def max_channels(self) -> int:
        """The least C of a puppeteer that generates every kernel in one step."""
        classes = self.num_classes if self.classifier == "generated" else 1
        return max(*self.channels, self.in_channels, classes)

    @property
    def only_depth(self) -> int:
        """The depth of a puppet of given `layers`; raises a ValueError if the depth follows the complexity."""
        if self.layers is None:
            raise ValueError(
                f"a puppet of layers None has many depths, by the rule {self.depth_rule!r}; give its layers."
            )
        return sum(self.layers)

    def free_channels(self, channels: int) -> int:
        """How many of a layer's channels have kernels, norms and classifier weights of their own."""
        return channels // 2 if self.mirror else channels

    def layers_per_stage(self, depth: int) -> tuple[int, ...]:
        """Number of convolutions in each stage at `depth`.

        Raises:
            ValueError: if the puppet has no such depth.
        """
        if self.layers is not None:
            if depth != self.only_depth:
                raise ValueError(f"the only depth of layers {self.layers} is {self.only_depth}, got {depth}.")
            return self.layers
        depth = as_integer("depth", depth, most=MAX_DEPTH)
        stem = (1,) * self.stem
        stages = len(self.channels) - len(stem)
        if self.depth_rule == "per_stage":
            return stem + (depth,) * stages
        total = max(depth - len(stem), stages)
        return stem + tuple(total // stages + (stage >= stages - total % stages) for stage in range(stages))

    def convolutions(self, depth: int) -> tuple[Layer, ...]:
        """The convolutions of the puppet of `depth`, in order."""
        counts = self.layers_per_stage(depth)
        return tuple(
            Layer(stage, place, channels, pool=place == 0 and stage > 0)
            for stage, (channels, count) in enumerate(zip(self.channels, counts, strict=True))
            for place in range(count)
        )

    def kernel_shapes(self, depth: int) -> tuple[tuple[int, int, int, int], ...]:
        """HWIO shapes of the kernels that the puppet of `depth` takes, in order; with `mirror` those of a half."""
        size, previous, shapes = self.kernel_size, self.in_channels, []
        for layer in self.convolutions(depth):
            shapes.append((size, size, previous, self.free_channels(layer.channels)))
            previous = layer.channels
        if self.classifier == "generated":
            shapes.append((1, 1, self.free_channels(previous), self.num_classes))
        return tuple(shapes)

    def puppeteer_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of `init_puppeteer`, in which the puppet's own width and kernel size stand for None."""
        own = {"max_channels": self.max_channels, "kernel_size": self.kernel_size}
        return {name: own.get(name) if value is None else value for name, value in settings.items()}

    def check_shapes(self, images: Sequence[int], kernels: Sequence[Sequence[int]], depth: int) -> None:
        """Raises a ValueError unless images and kernels of these shapes fit the puppet of `depth`."""
        if len(images) != 4 or images[-1] != self.in_channels:
            raise ValueError(f"images must have shape (batch, height, width, {self.in_channels}), got {tuple(images)}.")
        shapes = self.kernel_shapes(depth)
        if tuple(tuple(kernel[-4:]) for kernel in kernels) != shapes:  # an axis before these is one of sets
            raise ValueError(
                f"kernels must have the {len(shapes)} shapes of puppet.kernel_shapes({depth}), got {list(kernels)}."
            )
        self.check_image_size(images[1], images[2])

    def check_image_size(self, height: int, width: int) -> None:
        """Raises a ValueError if images become smaller than one pixel before the last stage."""
        pools = len(self.channels) - 1
        if min(height, width) >> pools < 1:
            raise ValueError(
                f"Images of {height} x {width} pixels are too small for {pools} poolings; use at least "
                f"{1 << pools} x {1 << pools} or fewer stages than {self.channels}."
            )
