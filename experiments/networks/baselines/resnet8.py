"""ResNet-8, the image classifier of MLPerf Tiny (Banbury et al., NeurIPS 2021 datasets and benchmarks)."""

import dataclasses

from flax import nnx

from experiments.networks.backbones.blocks import ConvNorm, Head, Images, Logits, check_positive, conv, scaled
from experiments.networks.module import ModuleNetwork


class _Block(nnx.Module):
    """Two convolutions with biases and norms; a projected shortcut where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, rngs: nnx.Rngs):
        self.first = ConvNorm(c_in, c_out, stride=stride, bias=True, rngs=rngs)
        self.second = ConvNorm(c_out, c_out, bias=True, rngs=rngs)
        projects = c_in != c_out
        self.shortcut = conv(c_in, c_out, kernel_size=1, stride=stride, bias=True, rngs=rngs) if projects else None

    def __call__(self, x: Images) -> Images:
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet8(nnx.Module):
    """A 3x3 stem, three blocks of 16, 32 and 64 channels, a linear layer.

    Stored for 10 classes: 78,186 floats, and 480 statistics; with the norms folded into the convolutions 77,706.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: width of the last block; the others have a half and a quarter of it.
        rngs: `params` are drawn from it.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, max_channels: int = 64, rngs: nnx.Rngs):
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        widths = scaled((128, 256, 512), max_channels)
        self.stem = ConvNorm(in_channels, widths[0], bias=True, rngs=rngs)
        pairs = zip((widths[0], *widths), widths, (1, 2, 2), strict=False)
        self.blocks = nnx.List([_Block(c_in, c_out, stride, rngs) for c_in, c_out, stride in pairs])
        self.head = Head((widths[-1],), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNet8Network(ModuleNetwork):
    """ResNet-8 to train."""

    width: int

    def make(self, seed):
        channels, rngs = self.image_shape[-1], nnx.Rngs(seed)
        return ResNet8(self.num_classes, in_channels=channels, max_channels=self.width, rngs=rngs)
