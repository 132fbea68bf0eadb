"""The papers' CNN, as records: where its kernels come from, what decides its depth. Imports no JAX."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

from experiments.fields import check_at_least, require

if TYPE_CHECKING:
    from experiments.networks import Network
    from experiments.networks.puppet import PuppeteerSettings

ImageShape = tuple[int, int, int]
GeneratorKind = Literal["frozen_basis", "low_rank", "inverse_dct", "hypernetwork", "shared"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """Kernels from a puppeteer, the same for all images of a depth."""

    max_channels: int | None = None
    """Channels C of the puppeteer's state; the network's widest layer if not given. Fewer store less."""
    initial_state: Literal["seeded", "constant", "learned"] = "seeded"
    """How a trajectory starts; "constant" is v1 Eq. 11 to the letter and does not train."""
    pattern_seed: int = 0
    """Seed of the seeded pattern; part of the model."""
    scale: float = 0.1
    """Standard deviation of the seeded pattern."""
    kernels_from: Literal["state", "velocity"] = "state"
    """What a layer reads of the trajectory: the state S_{n+1} (v1 Eq. 12), or the velocity G(S_n)."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, max_channels=1, pattern_seed=0)
        require(self.pattern_seed < 2**32, "pattern_seed", "less than 2**32", self.pattern_seed)
        require(0 < self.scale < math.inf, "scale", "positive and finite", self.scale)

    def settings(self, max_channels: int | None, kernel_size: int | None) -> "PuppeteerSettings":
        """Those of the puppeteer, in a network whose widest layer and largest kernel these are."""
        from experiments.networks.puppet import PuppeteerSettings

        return PuppeteerSettings(
            max_channels=self.max_channels or max_channels,
            kernel_size=kernel_size,
            initial_state=self.initial_state,
            seed=self.pattern_seed,
            scale=self.scale,
            kernels_from=self.kernels_from,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptive(Generated):
    """Kernels from a puppeteer at the complexity of the image (the papers' parameter adaptation)."""

    sharing: Literal["level", "sample"] = "level"
    """Images of a narrow level of complexity share kernels, or each image has kernels of its own."""
    num_levels: int = 64
    """Levels of complexity within a depth, at evaluation; none where each image has kernels of its own."""
    levels_per_batch: int = 4
    """Sets of kernels that a training batch has, neighbours in complexity together; with "sample" one an image."""

    def __post_init__(self):
        """Refuses values outside their range."""
        super().__post_init__()
        check_at_least(self, num_levels=1, levels_per_batch=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ordinary:
    """Kernels that are trained and stored one by one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenBasis:
    """Kernels that are sums of frozen random ones; the coefficients are trained and stored (after PRANC)."""

    max_channels: int | None = None
    """There are as many coefficients as a puppeteer of so many channels has floats; None as for a puppeteer."""
    pattern_seed: int = 0
    """Seed of the frozen kernels; part of the model."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, max_channels=1, pattern_seed=0)
        require(self.pattern_seed < 2**32, "pattern_seed", "less than 2**32", self.pattern_seed)

    @property
    def kind(self) -> GeneratorKind:
        """A name of `experiments.networks.controls.GENERATORS`."""
        return "frozen_basis"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherGenerator(FrozenBasis):
    """Kernels from another generator than a puppeteer, of as many floats."""

    generator: Literal["low_rank", "inverse_dct", "hypernetwork", "shared"]
    """Which: outer products, low frequencies, chunks from a small network, or floats that all weights share."""

    @property
    def kind(self) -> GeneratorKind:
        """A name of `experiments.networks.controls.GENERATORS`."""
        return self.generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneDepth:
    """All images run through the same layers."""

    layers: tuple[int, ...]
    """Convolutions of each stage. Their sum D is the depth, and kernels are those of the middle complexity of D."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByComplexity:
    """Depth follows the complexity of the image (v1 Eq. 10)."""

    rule: Literal["per_stage", "total"] = "per_stage"
    """Depth counts layers in each stage (first paper) or in total (second)."""
    stem: bool = False
    """The first stage has one layer at every depth; the rule is for the others."""
    depths: tuple[int, int] | None = None
    """Complexity is scaled so that the training images spread over depths LOW to HIGH; as it is if not given."""

    def __post_init__(self):
        """Refuses values outside their range."""
        low, high = self.depths or (1, 1)
        require(1 <= low <= high, "depths", "two depths, 1 <= LOW <= HIGH", self.depths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByConfidence:
    """Early exit: a classifier behind the first layers answers where it is confident, the whole network elsewhere."""

    layers: tuple[int, ...]
    """Convolutions of each stage of the whole network."""
    exit_layer: int
    """The early classifier stands behind this many convolutions."""
    fraction: float = 0.4
    """Fraction of the validation images that are sent on; decides the threshold of confidence."""

    def __post_init__(self):
        """Refuses values outside their range."""
        inside = 1 <= self.exit_layer < sum(self.layers)
        require(inside, "exit_layer", f"in [1, {sum(self.layers) - 1}]", self.exit_layer)
        require(0 < self.fraction < 1, "fraction", "in (0, 1)", self.fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetCNN:
    """The CNN of the papers (v1 Sec. 3.5)."""

    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Width of each stage."""
    depth: OneDepth | ByComplexity | ByConfidence = ByComplexity()
    """Which layers an image runs through."""
    kernels: Generated | Adaptive | Ordinary | FrozenBasis | OtherGenerator = Adaptive()
    """Where its kernels come from."""
    kernel_size: int = 3
    """Size of every kernel, odd."""
    residual: bool = False
    """Within a stage, add each layer to its input."""
    dropout: float = 0.0
    """Fraction of the activations behind each pooling that training sets to zero, in [0, 1)."""
    mirror: bool = False
    """Reflection-equivariant: half of the channels mirror the other half, so that mirror images get the same logits."""
    affine: bool = False
    """Trainable scale and bias in the batch norms; stored beside the puppeteer."""
    classifier: Literal["linear", "generated"] = "linear"
    """Store a linear classifier, or generate it with one more step (stores nothing)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and convolutions in training; trajectory and parameters stay float32."""

    def __post_init__(self):
        """Refuses values outside their range, and kernels that cannot follow what the depth follows."""
        require(len(self.channels) > 0 and min(self.channels) >= 1, "channels", "positive", self.channels)
        check_at_least(self, kernel_size=1)
        require(self.kernel_size % 2 == 1, "kernel_size", "odd", self.kernel_size)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        fixed = isinstance(self.kernels, Ordinary | FrozenBasis) and isinstance(self.depth, ByComplexity)
        several = isinstance(self.kernels, Adaptive) and isinstance(self.depth, ByConfidence)
        require(not fixed and not several, "kernels", f"of another kind with {self.depth}", self.kernels)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        import puppet_jax as pj
        from experiments.networks.early_exit import EarlyExitNetwork
        from experiments.networks.puppet import ControlNetwork, PuppetNetwork

        depth, kernels = self.depth, self.kernels
        if isinstance(depth, ByComplexity):
            layers: dict[str, Any] = {"depth_rule": depth.rule, "stem": depth.stem}
        else:
            layers = {"layers": depth.layers}
        puppet = pj.Puppet(
            channels=self.channels,
            num_classes=num_classes,
            in_channels=image_shape[-1],
            kernel_size=self.kernel_size,
            residual=self.residual,
            dropout=self.dropout,
            mirror=self.mirror,
            affine=self.affine,
            classifier=self.classifier,
            **layers,
        )
        common: dict[str, Any] = {"puppet": puppet, "image_size": image_shape[:2], "dtype": self.dtype}
        if isinstance(kernels, Ordinary):
            return ControlNetwork(kernels="ordinary", num_coefficients=None, seed=0, **common)
        if isinstance(kernels, FrozenBasis):
            settings = Generated(max_channels=kernels.max_channels).settings(puppet.max_channels, self.kernel_size)
            floats = settings.num_floats()
            return ControlNetwork(kernels=kernels.kind, num_coefficients=floats, seed=kernels.pattern_seed, **common)
        common["puppeteer"] = kernels.settings(puppet.max_channels, self.kernel_size)
        if isinstance(depth, ByConfidence):
            return EarlyExitNetwork(exit_layer=depth.exit_layer, exit_fraction=depth.fraction, **common)
        return PuppetNetwork(**common)
