"""Networks whose weights are matrices, and networks all of whose weights are generated, as records. Imports no JAX."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from experiments.config.baselines import ResNet8, Tiniest
from experiments.config.puppet import FrozenBasis, Generated, ImageShape, OtherGenerator
from experiments.fields import check_at_least, require

if TYPE_CHECKING:
    from experiments.networks import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer:
    """A small vision transformer, or MLP-Mixer."""

    name: Literal["vit", "mixer"] = "vit"
    """Which."""
    width: int = 64
    """Of a token, a multiple of 4."""
    num_blocks: int = 4
    """Pairs of a layer across tokens and a perceptron."""
    patch: int = 4
    """Side of a patch in pixels."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=4, num_blocks=1, patch=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.transformers import TransformerNetwork

        return TransformerNetwork(num_classes=num_classes, image_shape=image_shape, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Puppetized:
    """A network all of whose weights a generator makes; biases, norms and a gain a weight are trained."""

    plain: Transformer | ResNet8 | Tiniest = Transformer()
    """The network."""
    kernels: Generated | FrozenBasis | OtherGenerator = Generated(max_channels=48)
    """The generator."""
    matrices: Literal["mean", "taps"] = "taps"
    """Whether a puppeteer's matrix is the average of the taps of a state, or put together from them."""

    def __post_init__(self):
        """Refuses options that mean nothing here."""
        if isinstance(self.kernels, Generated):
            start = self.kernels.initial_state
            require(start == "seeded", "initial_state", "seeded in a network of layers", start)
        else:
            require(self.matrices == "taps", "matrices", "left out without a puppeteer", self.matrices)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.puppetized import PuppetizedNetwork, Source

        kernels = self.kernels
        source = Source(
            kind=kernels.kind if isinstance(kernels, FrozenBasis) else "puppeteer",
            max_channels=kernels.max_channels or 64,
            seed=kernels.pattern_seed,
            matrices=self.matrices,
            kernels_from=getattr(kernels, "kernels_from", "state"),
            scale=getattr(kernels, "scale", 0.1),
        )
        plain: Any = self.plain.make(num_classes, image_shape)
        return PuppetizedNetwork(num_classes=num_classes, image_shape=image_shape, plain=plain, source=source)
