"""What a run computes, as records. Imports no JAX, so that `--help` answers at once.

Records nest in code and are flat on the command line. A union says what kind of thing a part is; the preset chooses its
member, and the options of the other members do not exist for that preset. `experiments.fields.replace` changes options
by their flat names.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from experiments.fields import check_at_least, require

if TYPE_CHECKING:
    from experiments.networks import Network

ImageShape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a run sees."""

    num_images: int | None = None
    """Training images drawn with the seed; all that validation leaves if not given."""
    num_validation: int = 2000
    """Images held out of the training set for validation, drawn with the seed."""
    num_test: int | None = None
    """Most test images that are evaluated, at equal distances in the test set; all if not given."""
    augment: Literal["none", "crop", "crop_flip"] = "none"
    """Random shifts by up to an eighth of the image, with or without mirror images, on the device."""
    cutout: int = 0
    """Side in pixels of a square, anywhere, that is blanked in every training image; 0 for none."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, num_images=1, num_validation=1, num_test=1, cutout=0)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptive(Generated):
    """Kernels from a puppeteer at the complexity of the image (the papers' parameter adaptation)."""

    sharing: Literal["level", "sample"] = "level"
    """Images of a narrow level of complexity share kernels, or each image has kernels of its own."""
    num_levels: int = 64
    """Levels of complexity within a depth, at evaluation."""
    levels_per_batch: int = 4
    """Sets of kernels that a training batch has, neighbours in complexity together."""

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
    kernels: Generated | Adaptive | Ordinary | FrozenBasis = Adaptive()
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
        from experiments.networks.puppet import make_puppet

        return make_puppet(self, num_classes, image_shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network of the literature, of one depth, as the papers compare with (v1 Sec. 4.3)."""

    name: Literal["alexnet", "mobilenet_v1", "mobilenet_v2", "squeezenet"]
    """Which."""
    kernels: Generated | Adaptive | Ordinary = Ordinary()
    """Fixed ones of its own, or the puppeteer-puppet scheme, or that with parameter adaptation."""
    width: int | None = None
    """Scales every layer; the widest has so many channels. The usual width if not given."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.backbone import make_backbone_network

        return make_backbone_network(self, num_classes, image_shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepBackbone(Backbone):
    """A backbone that the literature has in several depths."""

    name: Literal["vgg", "resnet", "resnet20"]  # type: ignore[assignment]
    """Which."""
    num_layers: int | None = None
    """Layers; the usual number if not given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """How a network is trained."""

    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Adam; or Muon for matrices and ordinary kernels, with updates of Adam's size, and Adam for the rest."""
    learning_rate: float = 1e-3
    """Peak of the schedule: short warm-up, cosine decay to zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay: Adam's on matrices, Muon's on what it updates; 0 for none."""
    label_smoothing: float = 0.0
    """In [0, 1)."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, epochs=1, batch_size=1)
        require(0 < self.learning_rate < math.inf, "learning_rate", "positive and finite", self.learning_rate)
        require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0 and finite", self.weight_decay)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run computes; written to `config.json`."""

    network: PuppetCNN | Backbone | DeepBackbone
    """What is trained."""
    data: Data = Data()
    """On which images."""
    optim: Optim = Optim()
    """How."""
    bits: Literal[32, 8, 4] = 32
    """Bits of a stored weight; training sees the rounded values (quantisation-aware)."""
    start_from: str | None = None
    """Folder of a run of the same network whose parameters training starts with; those of the seed if not given."""
    seed: int = 0
    """Of the subset, the split, the initial parameters and the order of the batches."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, seed=0)
        require(self.seed < 2**32, "seed", "less than 2**32", self.seed)
        if isinstance(kernels := getattr(self.network, "kernels", None), Adaptive):
            what = f"a divisor of the batch size {self.optim.batch_size}"
            divides = self.optim.batch_size % kernels.levels_per_batch == 0
            require(divides, "levels_per_batch", what, kernels.levels_per_batch)
