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
        from experiments.networks.backbone import BackboneNetwork

        # as wide as the width that is asked for (AlexNet's widest is 384 of 512), or as the widest kernel
        c = None if self.name in ("resnet20", "mobilenet_v2") else self.width or 512
        network = BackboneNetwork(
            name=self.name,
            num_classes=num_classes,
            image_shape=image_shape,
            num_layers=self.num_layers if isinstance(self, DeepBackbone) else None,
            width=self.width,
            puppeteer=None if isinstance(self.kernels, Ordinary) else self.kernels.settings(c, None),
        )
        assert network.depth > 0  # counts its layers, so that the backbone refuses here what it refuses
        return network


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepBackbone(Backbone):
    """A backbone that the literature has in several depths."""

    name: Literal["vgg", "resnet", "resnet20"]  # type: ignore[assignment]
    """Which."""
    num_layers: int | None = None
    """Layers; the usual number if not given."""
