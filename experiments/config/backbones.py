"""The networks of the literature that kernels can be generated for, as records. Imports no JAX."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from experiments.config.puppet import Adaptive, Generated, ImageShape, Ordinary
from experiments.fields import check_at_least

if TYPE_CHECKING:
    from experiments.networks import Network


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
