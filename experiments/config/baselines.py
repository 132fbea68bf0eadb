"""The systems that the papers compare with, and small networks of today, as records. Imports no JAX."""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from experiments.config.puppet import ImageShape
from experiments.fields import check_at_least, require

if TYPE_CHECKING:
    from experiments.networks import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class DFN:
    """Dynamic filter networks, a filter an image."""

    width: int = 512
    """The widest layer; the others scale with it."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.dfn import DFNNetwork

        return DFNNetwork(num_classes=num_classes, image_shape=image_shape, width=self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightNet:
    """A ResNet whose kernels small networks compute from the layers' inputs."""

    width: int = 512
    """The widest layer; the others scale with it."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.weightnet import WeightNetNetwork

        return WeightNetNetwork(num_classes=num_classes, image_shape=image_shape, width=self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDF:
    """A ResNet with decoupled dynamic filters, one an image: depthwise filters in bottlenecks, as published."""

    combine: Literal["mul", "add"] = "mul"
    """How the filter of the channel and that of the image are combined."""
    width: int = 512
    """The widest layer; the others scale with it."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.ddf import DDFNetwork

        return DDFNetwork(num_classes=num_classes, image_shape=image_shape, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseDDF:
    """A ResNet with dynamic filters of an image added to ordinary kernels, of a size near the papers'."""

    width: int = 512
    """The widest layer; the others scale with it."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.ddf import DenseDDFNetwork

        return DenseDDFNetwork(num_classes=num_classes, image_shape=image_shape, width=self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchyNet:
    """Three exits; an image leaves at the first that is sure of it."""

    width: int = 512
    """The widest layer; the others scale with it."""
    exit_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Weights of the losses of the exits, the last that of the whole network."""
    fraction: float = 0.5
    """Of the validation images that reach an early exit, the fraction that is sent on; decides the thresholds."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)
        weights = self.exit_weights
        valid = all(0 <= weight < math.inf for weight in weights) and weights[-1] > 0
        require(valid, "exit_weights", "at least 0 and finite, the last positive", weights)
        require(0 < self.fraction < 1, "fraction", "in (0, 1)", self.fraction)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.branchynet import BranchyNetwork

        return BranchyNetwork(
            num_classes=num_classes,
            image_shape=image_shape,
            width=self.width,
            exit_weights=self.exit_weights,
            exit_fraction=self.fraction,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipNet:
    """A residual network whose gates skip blocks."""

    width: int = 512
    """The widest layer; the others scale with it."""
    gates: Literal["straight_through", "soft"] = "straight_through"
    """In the supervised phase: hard gates with the gradient of soft ones, or soft gates."""
    phase: Literal["supervised", "reinforcement"] = "supervised"
    """Reinforcement samples the gates; it goes on from a supervised run, see `start_from`."""
    reward: float = 0.1
    """Of a skipped block, times the number of gates."""
    reward_weight: float = 0.01
    """Of the reinforcement term beside the cross-entropy."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)
        for name in ("reward", "reward_weight"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, "at least 0 and finite", value)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.skipnet import SkipNetwork

        return SkipNetwork(num_classes=num_classes, image_shape=image_shape, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DRNN:
    """A ResNet whose blocks are run as often as their gates say; re-implemented from an abstract."""

    width: int = 512
    """The widest layer; the others scale with it."""
    num_loops: int = 3
    """Most runs of a block."""
    penalty: float = 0.001
    """Of each run beyond the first, added to the loss."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1, num_loops=2)
        require(0 <= self.penalty < math.inf, "penalty", "at least 0 and finite", self.penalty)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.drnn import DRNNNetwork

        return DRNNNetwork(num_classes=num_classes, image_shape=image_shape, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ODENet:
    """One block along a time, for many layers."""

    solver: Literal["euler", "dopri5"] = "dopri5"
    """Euler's method in `num_steps` steps, or steps as long as a tolerance of 1e-3 allows."""
    num_steps: int = 8
    """Steps of Euler's method."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, num_steps=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.odenet import ODENetwork

        return ODENetwork(num_classes=num_classes, image_shape=image_shape, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperWRN:
    """A wide residual network whose kernels a static hypernetwork makes."""

    num_layers: int = 40
    """6 n + 4."""
    widen: int = 2
    """Widths are 16, 32 and 64 times this."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, num_layers=10, widen=1)
        require(self.num_layers % 6 == 4, "num_layers", "6 n + 4, such as 10, 16 or 40", self.num_layers)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.hypernetwork import HyperWRNNetwork

        return HyperWRNNetwork(num_classes=num_classes, image_shape=image_shape, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiniest:
    """cifar10-tiniest, 97,530 floats."""

    width: int = dataclasses.field(default=80, metadata={"stored": "unless default"})
    """Of the later blocks, a multiple of 20; the earlier ones have three fifths of it."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=20)
        require(self.width % 20 == 0, "width", "a multiple of 20", self.width)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.tiniest import TiniestNetwork

        return TiniestNetwork(num_classes=num_classes, image_shape=image_shape, width=self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNet8:
    """ResNet-8 of MLPerf Tiny."""

    width: int = 64
    """The widest layer; the others have a half and a quarter of it."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, width=1)

    def make(self, num_classes: int, image_shape: ImageShape) -> "Network":
        """The network for `num_classes` and images of (height, width, channels)."""
        from experiments.networks.baselines.resnet8 import ResNet8Network

        return ResNet8Network(num_classes=num_classes, image_shape=image_shape, width=self.width)


Baseline = DFN | WeightNet | DDF | DenseDDF | BranchyNet | SkipNet | DRNN | ODENet | HyperWRN | Tiniest | ResNet8
"""Any of them."""
