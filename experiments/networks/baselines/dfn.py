"""Dynamic filter networks (Jia, De Brabandere, Tuytelaars and Van Gool, NIPS 2016), with a filter a sample."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import Images, Logits, conv, global_pool, max_pool, scaled
from experiments.networks.backbones.vgg import VGG
from experiments.networks.convolution import filter_each
from experiments.networks.module import ModuleNetwork


class DFN(nnx.Module):
    """VGG-11 whose last map is filtered by what a second stack of the same convolutions makes of the image.

    The filter-generating stack has neither biases nor norms; its last map, averaged over places, is a 1x1 depthwise
    filter of each image. Stored for 10 classes at 512 channels: 18,971,402 floats, 75.886 MB (papers: 75.89). The size
    is as well explained by other layouts: medium confidence.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512.
        rngs: `params` are drawn from it.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, max_channels: int = 512, rngs: nnx.Rngs):
        self.main = VGG(num_classes, in_channels=in_channels, max_channels=max_channels, rngs=rngs)
        widths = scaled((64, 128, 256, 256, 512, 512, 512, 512), max_channels)
        pairs = zip((in_channels, *widths), widths, strict=False)
        self.generator = nnx.List([conv(c_in, c_out, rngs=rngs) for c_in, c_out in pairs])

    def filters(self, x: Images) -> Float[Array, "batch channels"]:
        """The filter of each image."""
        for index, layer in enumerate(self.generator):
            if index:
                x = nnx.relu(x)
            x = layer(x)
            if index in (0, 1, 3, 5, 7):
                x = max_pool(x)
        return global_pool(x)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        filters = self.filters(x)
        return self.main.head(filter_each(self.main.features(x), filters[:, None, None]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DFNNetwork(ModuleNetwork):
    """A DFN to train."""

    width: int

    def make(self, seed):
        channels = self.image_shape[-1]
        return DFN(self.num_classes, in_channels=channels, max_channels=self.width, rngs=nnx.Rngs(seed))
