"""Networks in the sizes that people use, written as anyone would, for measures of memory by shapes alone."""

import functools

import architectures
import jax.numpy as jnp
from flax import nnx

conv = functools.partial(architectures.conv, use_bias=False)


def pooled(x, size=2, stride=2):
    return nnx.max_pool(x, (size, size), (stride, stride), padding="SAME")


class Bottleneck(nnx.Module):
    def __init__(self, c_in, width, stride, rngs):
        self.convs = nnx.List(
            [
                conv(c_in, width, 1, rngs=rngs),
                conv(width, width, strides=stride, rngs=rngs),
                conv(width, 4 * width, 1, rngs=rngs),
            ]
        )
        self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs) for n in (width, width, 4 * width)])
        self.shortcut = nnx.data(None)
        if stride > 1 or c_in != 4 * width:
            self.shortcut = nnx.Sequential(
                conv(c_in, 4 * width, 1, strides=stride, rngs=rngs), nnx.BatchNorm(4 * width, rngs=rngs)
            )

    def __call__(self, x):
        y = x
        for n, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(layer(y))
            y = nnx.relu(y) if n < 2 else y
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet50(nnx.Module):
    """He et al. 2016."""

    def __init__(self, rngs, classes=1000):
        self.stem, self.norm = conv(3, 64, 7, strides=2, rngs=rngs), nnx.BatchNorm(64, rngs=rngs)
        blocks, c_in = [], 64
        for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for n in range(count):
                blocks.append(Bottleneck(c_in, width, 2 if n == 0 and width > 64 else 1, rngs))
                c_in = 4 * width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(c_in, classes, rngs=rngs)

    def features(self, x):
        x = pooled(nnx.relu(self.norm(self.stem(x))), 3)
        for block in self.blocks:
            x = block(x)
        return x

    def __call__(self, x):
        return self.head(self.features(x).mean((1, 2)))


class VGG19(nnx.Module):
    """Simonyan and Zisserman 2015."""

    def __init__(self, rngs):
        self.counts = (2, 2, 4, 4, 4)
        convs, c_in = [], 3
        for width, count in zip((64, 128, 256, 512, 512), self.counts, strict=True):
            for _ in range(count):
                convs.append(nnx.Conv(c_in, width, (3, 3), rngs=rngs))
                c_in = width
        self.convs = nnx.List(convs)
        self.head = nnx.Sequential(
            nnx.Linear(25088, 4096, rngs=rngs),
            nnx.relu,
            nnx.Linear(4096, 4096, rngs=rngs),
            nnx.relu,
            nnx.Linear(4096, 1000, rngs=rngs),
        )

    def __call__(self, x):
        layers = iter(self.convs)
        for count in self.counts:
            for _ in range(count):
                x = nnx.relu(next(layers)(x))
            x = pooled(x)
        return self.head(x.reshape(len(x), -1))


class Dense(nnx.Module):
    def __init__(self, c_in, growth, rngs):
        self.norms = nnx.List([nnx.BatchNorm(c_in, rngs=rngs), nnx.BatchNorm(4 * growth, rngs=rngs)])
        self.narrow, self.wide = conv(c_in, 4 * growth, 1, rngs=rngs), conv(4 * growth, growth, rngs=rngs)

    def __call__(self, x):
        y = self.narrow(nnx.relu(self.norms[0](x)))
        return jnp.concatenate([x, self.wide(nnx.relu(self.norms[1](y)))], axis=-1)


class Transition(nnx.Module):
    def __init__(self, c_in, rngs):
        self.norm, self.conv = nnx.BatchNorm(c_in, rngs=rngs), conv(c_in, c_in // 2, 1, rngs=rngs)

    def __call__(self, x):
        return nnx.avg_pool(self.conv(nnx.relu(self.norm(x))), (2, 2), (2, 2))


class DenseNet121(nnx.Module):
    """Huang et al. 2017."""

    def __init__(self, rngs):
        self.stem, self.norm, c_in = conv(3, 64, 7, strides=2, rngs=rngs), nnx.BatchNorm(64, rngs=rngs), 64
        parts = []
        for n, count in enumerate((6, 12, 24, 16)):
            for _ in range(count):
                parts.append(Dense(c_in, 32, rngs))
                c_in += 32
            if n < 3:
                parts.append(Transition(c_in, rngs))
                c_in //= 2
        self.parts, self.last = nnx.List(parts), nnx.BatchNorm(c_in, rngs=rngs)
        self.head = nnx.Linear(c_in, 1000, rngs=rngs)

    def __call__(self, x):
        x = pooled(nnx.relu(self.norm(self.stem(x))), 3)
        for part in self.parts:
            x = part(x)
        return self.head(nnx.relu(self.last(x)).mean((1, 2)))


class MBConv(nnx.Module):
    def __init__(self, c_in, c_out, size, stride, grow, rngs):
        width, squeezed = grow * c_in, max(1, c_in // 4)
        self.add = stride == 1 and c_in == c_out
        self.expand = nnx.data(None)
        if grow > 1:
            self.expand = nnx.Sequential(conv(c_in, width, 1, rngs=rngs), nnx.BatchNorm(width, rngs=rngs), nnx.silu)
        self.depthwise = conv(width, width, size, strides=stride, feature_group_count=width, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(width, rngs=rngs), nnx.BatchNorm(c_out, rngs=rngs)])
        self.squeeze = nnx.Conv(width, squeezed, (1, 1), rngs=rngs)
        self.excite = nnx.Conv(squeezed, width, (1, 1), rngs=rngs)
        self.project = conv(width, c_out, 1, rngs=rngs)

    def __call__(self, x):
        y = x if self.expand is None else self.expand(x)
        y = nnx.silu(self.norms[0](self.depthwise(y)))
        y = y * nnx.sigmoid(self.excite(nnx.silu(self.squeeze(y.mean((1, 2), keepdims=True)))))
        y = self.norms[1](self.project(y))
        return x + y if self.add else y


class EfficientNetB0(nnx.Module):
    """Tan and Le 2019."""

    def __init__(self, rngs):
        self.stem, self.norm, c_in = conv(3, 32, strides=2, rngs=rngs), nnx.BatchNorm(32, rngs=rngs), 32
        blocks = []
        for grow, c_out, count, stride, size in (
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3),
        ):
            for n in range(count):
                blocks.append(MBConv(c_in, c_out, size, stride if n == 0 else 1, grow, rngs))
                c_in = c_out
        self.blocks = nnx.List(blocks)
        self.top, self.last = conv(320, 1280, 1, rngs=rngs), nnx.BatchNorm(1280, rngs=rngs)
        self.head = nnx.Linear(1280, 1000, rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.silu(self.last(self.top(x))).mean((1, 2)))


class Attended(nnx.Module):
    def __init__(self, crossed, rngs, width=256):
        make = lambda: nnx.MultiHeadAttention(8, width, decode=False, rngs=rngs)  # noqa: E731
        self.own, self.other = make(), nnx.data(make() if crossed else None)
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(3)])
        self.mlp = nnx.Sequential(nnx.Linear(width, 2048, rngs=rngs), nnx.relu, nnx.Linear(2048, width, rngs=rngs))

    def __call__(self, x, memory=None):
        x = self.norms[0](x + self.own(x))
        if self.other is not None:
            x = self.norms[1](x + self.other(x, memory))
        return self.norms[2](x + self.mlp(x))


class DETR(nnx.Module):
    """Carion et al. 2020: ResNet-50, six layers of attention that read it and six that answer 100 queries."""

    def __init__(self, rngs):
        self.backbone, self.narrow = ResNet50(rngs), nnx.Conv(2048, 256, (1, 1), rngs=rngs)
        self.queries = nnx.Param(jnp.zeros((1, 100, 256)))
        self.encoder = nnx.List([Attended(False, rngs) for _ in range(6)])
        self.decoder = nnx.List([Attended(True, rngs) for _ in range(6)])
        self.classes, self.boxes = nnx.Linear(256, 92, rngs=rngs), nnx.Linear(256, 4, rngs=rngs)

    def __call__(self, x):
        x = self.narrow(self.backbone.features(x))
        x = x.reshape(len(x), -1, 256)
        for layer in self.encoder:
            x = layer(x)
        y = jnp.broadcast_to(self.queries[...], (len(x), 100, 256))
        for layer in self.decoder:
            y = layer(y, x)
        return jnp.concatenate([self.classes(y), nnx.sigmoid(self.boxes(y))], axis=-1)


NETWORKS = {
    "ResNet-50": (ResNet50, 224),
    "VGG-19": (VGG19, 224),
    "DenseNet-121": (DenseNet121, 224),
    "EfficientNet-b0": (EfficientNetB0, 224),
    "DETR": (DETR, 512),
}
