"""Small networks of many kinds, as users of Flax NNX write them. Each is (class, shapes of its inputs, weights)."""

import jax
import jax.numpy as jnp
from flax import nnx


def conv(c_in, c_out, size=3, *, rngs, **options):
    return nnx.Conv(c_in, c_out, (size, size), rngs=rngs, **options)


def pooled(x):
    return x.mean((1, 2))


class AlexNet(nnx.Module):
    """Large windows first, dropout, two linear layers."""

    def __init__(self, rngs):
        self.a, self.b, self.c = conv(3, 6, 5, strides=2, rngs=rngs), conv(6, 8, rngs=rngs), conv(8, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.hidden, self.head = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.a(x))
        x = nnx.relu(self.c(nnx.relu(self.b(nnx.max_pool(x, (2, 2), (2, 2))))))
        return self.head(self.dropout(nnx.relu(self.hidden(pooled(x)))))


class VGG(nnx.Module):
    """A plain stack with batch norms, in a list."""

    def __init__(self, rngs):
        widths = (3, 4, 4, 8, 8)
        self.convs = nnx.List([conv(a, b, rngs=rngs) for a, b in zip(widths, widths[1:], strict=False)])
        self.norms = nnx.List([nnx.BatchNorm(b, rngs=rngs) for b in widths[1:]])
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        for one, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(one(x)))
        return self.head(pooled(x))


class Block(nnx.Module):
    def __init__(self, c, rngs, groups=1):
        self.a, self.b = conv(c, c, feature_group_count=groups, rngs=rngs), conv(c, c, rngs=rngs)
        self.norm = nnx.GroupNorm(c, num_groups=2, rngs=rngs)

    def __call__(self, x):
        return x + self.b(nnx.relu(self.a(self.norm(x))))


class ResNet(nnx.Module):
    """Residual blocks, one of them rematerialised."""

    def __init__(self, rngs):
        self.stem, self.head = conv(3, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
        self.blocks = nnx.List([Block(8, rngs), Block(8, rngs)])

    def __call__(self, x):
        x = self.blocks[0](self.stem(x))
        x = nnx.remat(lambda block, x: block(x))(self.blocks[1], x)
        return self.head(pooled(x))


class ResNeXt(nnx.Module):
    """Grouped convolutions."""

    def __init__(self, rngs):
        self.stem, self.head = conv(3, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
        self.block = Block(8, rngs, groups=4)

    def __call__(self, x):
        return self.head(pooled(self.block(self.stem(x))))


class Inception(nnx.Module):
    """Branches side by side, in a dictionary."""

    def __init__(self, rngs):
        self.branches = nnx.Dict({f"by{n}": conv(3, 4, n, rngs=rngs) for n in (1, 3, 5)})
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(pooled(nnx.relu(jnp.concatenate([self.branches[f"by{n}"](x) for n in (5, 1, 3)], axis=-1))))


class Fire(nnx.Module):
    """SqueezeNet's module."""

    def __init__(self, rngs):
        self.squeeze, self.one, self.three = conv(3, 2, 1, rngs=rngs), conv(2, 6, 1, rngs=rngs), conv(2, 6, rngs=rngs)
        self.head = conv(12, 4, 1, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.squeeze(x))
        return pooled(self.head(nnx.relu(jnp.concatenate([self.one(x), self.three(x)], axis=-1))))


class EfficientNet(nnx.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection."""

    def __init__(self, rngs):
        self.stem, self.expand = conv(3, 6, rngs=rngs), conv(6, 12, 1, rngs=rngs)
        self.depthwise = conv(12, 12, feature_group_count=12, rngs=rngs)
        self.squeeze, self.excite = nnx.Linear(12, 3, rngs=rngs), nnx.Linear(3, 12, rngs=rngs)
        self.project, self.norm = conv(12, 6, 1, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        y = nnx.swish(self.depthwise(nnx.swish(self.expand(x))))
        y = y * nnx.sigmoid(self.excite(nnx.swish(self.squeeze(pooled(y)))))[:, None, None]
        return self.head(pooled(x + self.norm(self.project(y))))


class ConvNeXt(nnx.Module):
    """Patches, 7x7 depthwise, layer norm, linear layers over channels."""

    def __init__(self, rngs):
        self.patch = nnx.Conv(3, 8, (2, 2), strides=2, rngs=rngs)
        self.depthwise = conv(8, 8, 7, feature_group_count=8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 32, rngs=rngs), nnx.Linear(32, 8, rngs=rngs)
        self.scale = nnx.Param(jnp.full(8, 0.1))
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = self.patch(x)
        x = x + self.scale[...][None, None, None] * self.down(nnx.gelu(self.up(self.norm(self.depthwise(x)))))
        return self.head(pooled(x))


class WaveNet(nnx.Module):
    """Dilated causal convolutions of one axis, gates, skips."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 6, (2,), padding="CAUSAL", rngs=rngs)
        self.layers = nnx.List(
            [
                nnx.Dict(
                    gate=nnx.Conv(6, 12, (2,), kernel_dilation=(2**n,), padding="CAUSAL", rngs=rngs),
                    out=nnx.Conv(6, 6, (1,), rngs=rngs),
                )
                for n in range(3)
            ]
        )
        self.head = nnx.Conv(6, 4, (1,), rngs=rngs)

    def __call__(self, x):
        x, skips = self.stem(x), 0
        for layer in self.layers:
            a, b = jnp.split(layer["gate"](x), 2, axis=-1)
            y = layer["out"](nnx.tanh(a) * nnx.sigmoid(b))
            x, skips = x + y, skips + y
        return self.head(nnx.relu(skips))


class Generator(nnx.Module):
    """Of a GAN: transposed convolutions and a tanh."""

    def __init__(self, rngs):
        self.first = nnx.Linear(5, 4 * 4 * 8, rngs=rngs)
        self.up = nnx.List([nnx.ConvTranspose(8, 8, (4, 4), (2, 2), rngs=rngs) for _ in range(2)])
        self.norm, self.out = nnx.BatchNorm(8, rngs=rngs), conv(8, 3, rngs=rngs)

    def __call__(self, z):
        x = self.first(z).reshape(-1, 4, 4, 8)
        for up in self.up:
            x = nnx.relu(self.norm(up(x)))
        return nnx.tanh(self.out(x))


class Discriminator(nnx.Module):
    """Of a GAN: strided convolutions with spectral norm."""

    def __init__(self, rngs):
        self.a = nnx.SpectralNorm(conv(3, 8, strides=2, rngs=rngs), rngs=rngs)
        self.b, self.head = conv(8, 8, strides=2, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        x = nnx.leaky_relu(self.a(x, update_stats=False))
        return self.head(pooled(nnx.leaky_relu(self.b(x))))


class SuperResolution(nnx.Module):
    """Channels become pixels."""

    def __init__(self, rngs):
        self.a, self.b = conv(3, 8, 5, rngs=rngs), conv(8, 12, rngs=rngs)

    def __call__(self, x):
        x = self.b(nnx.tanh(self.a(x)))
        n, h, w, _ = x.shape
        return x.reshape(n, h, w, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, 3)


class VAE(nnx.Module):
    """Draws a code in its call."""

    def __init__(self, rngs):
        self.encoder, self.mean, self.deviation = (
            conv(3, 8, strides=2, rngs=rngs),
            conv(8, 2, rngs=rngs),
            conv(8, 2, rngs=rngs),
        )
        self.decoder = nnx.ConvTranspose(2, 3, (4, 4), (2, 2), rngs=rngs)
        self.rngs = nnx.Rngs(3)

    def __call__(self, x):
        x = nnx.relu(self.encoder(x))
        mean, deviation = self.mean(x), 0.1 * nnx.softplus(self.deviation(x))
        return self.decoder(mean + deviation * jax.random.normal(self.rngs(), mean.shape))


class Siamese(nnx.Module):
    """Two inputs, one encoder."""

    def __init__(self, rngs):
        self.a, self.b = conv(3, 6, rngs=rngs), conv(6, 6, rngs=rngs)

    def encode(self, x):
        return pooled(self.b(nnx.relu(self.a(x))))

    def __call__(self, one, other):
        return self.encode(one) - self.encode(other)


class Attention(nnx.Module):
    """A block of a transformer."""

    def __init__(self, width, rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(2, width, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x, mask=None):
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class ViT(nnx.Module):
    """Patches, positions, attention."""

    def __init__(self, rngs):
        self.patch = nnx.Conv(3, 12, (4, 4), strides=4, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (4, 12)))
        self.blocks = nnx.List([Attention(12, rngs) for _ in range(2)])
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        x = self.patch(x).reshape(len(x), -1, 12) + self.positions[...][None]
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class DETR(nnx.Module):
    """A convolution, then queries that attend to its pixels."""

    def __init__(self, rngs):
        self.backbone = conv(3, 8, strides=2, rngs=rngs)
        self.queries = nnx.Param(jax.random.normal(rngs.params(), (5, 8)))
        self.attention = nnx.MultiHeadAttention(2, 8, 8, decode=False, rngs=rngs)
        self.boxes = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        pixels = nnx.relu(self.backbone(x)).reshape(len(x), -1, 8)
        queries = jnp.broadcast_to(self.queries[...], (len(x), 5, 8))
        return self.boxes(self.attention(queries, pixels, pixels))


class Mixer(nnx.Module):
    """Linear layers over patches and over channels."""

    def __init__(self, rngs):
        self.patch = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)
        self.tokens = nnx.List([nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)])
        self.channels = nnx.List([nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)])
        self.norm, self.head = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = self.patch(x).reshape(len(x), -1, 8)
        y = self.norm(x).swapaxes(1, 2)
        x = x + self.tokens[1](nnx.gelu(self.tokens[0](y))).swapaxes(1, 2)
        return self.head((x + self.channels[1](nnx.gelu(self.channels[0](x)))).mean(1))


class LanguageModel(nnx.Module):
    """Characters: an embedding, which also reads the answer off, and causal attention."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 12, rngs=rngs)
        self.block = Attention(12, rngs)

    def __call__(self, tokens):
        x = self.block(self.embed(tokens), mask=nnx.make_causal_mask(tokens))
        return self.embed.attend(x)


class Scanned(nnx.Module):
    """Six equal layers, stacked and run by `nnx.scan`."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=6)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return nnx.Linear(8, 8, rngs=rngs)

        self.first, self.layers, self.head = nnx.Linear(3, 8, rngs=rngs), make(rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return x + nnx.tanh(layer(x))

        return self.head(run(self.first(x), self.layers))


class Recurrent(nnx.Module):
    """A GRU over steps."""

    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(3, 8, rngs=rngs))
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


class PointNet(nnx.Module):
    """A set of points: one function of each, their maximum."""

    def __init__(self, rngs):
        self.each = nnx.List([nnx.Conv(3, 8, (1,), rngs=rngs), nnx.Conv(8, 16, (1,), rngs=rngs)])
        self.head = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.each[1](nnx.relu(self.each[0](x)))).max(1))


class Factorised(nnx.Module):
    """`Einsum`, `LinearGeneral` and a parameter of its own."""

    def __init__(self, rngs):
        self.ways = nnx.Einsum("nti,iho->ntho", (6, 2, 5), (2, 5), rngs=rngs)
        self.join = nnx.LinearGeneral((2, 5), 7, axis=(-2, -1), rngs=rngs)
        self.own = nnx.Param(jax.random.normal(rngs.params(), (7, 4)) / 7**0.5)

    def __call__(self, x):
        return nnx.tanh(self.join(nnx.relu(self.ways(x)))).mean(1) @ self.own[...]


class MixtureOfExperts(nnx.Module):
    """A gate weighs three convolutions."""

    def __init__(self, rngs):
        self.experts = nnx.List([conv(3, 6, rngs=rngs) for _ in range(3)])
        self.gate, self.head = nnx.Linear(3, 3, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        weights = nnx.softmax(self.gate(pooled(x)))
        x = jnp.stack([expert(x) for expert in self.experts], axis=-1)
        return self.head(pooled(nnx.relu(jnp.einsum("nhwce,ne->nhwc", x, weights))))


IMAGE = (4, 8, 8, 3)
ARCHITECTURES = {
    "AlexNet": (AlexNet, [IMAGE], "convolutions"),
    "ConvNeXt": (ConvNeXt, [IMAGE], "all"),
    "DETR": (DETR, [IMAGE], "all"),
    "EfficientNet": (EfficientNet, [IMAGE], "convolutions"),
    "EfficientNet, all weights": (EfficientNet, [IMAGE], "all"),
    "Einsum": (Factorised, [(4, 5, 6)], lambda path, variable: variable.ndim > 1 and path[-1] != "bias"),
    "Fire": (Fire, [IMAGE], "convolutions"),
    "GAN, discriminator": (Discriminator, [IMAGE], "convolutions"),
    "GAN, generator": (Generator, [(4, 5)], "convolutions"),
    "GRU": (Recurrent, [(4, 6, 3)], "all"),
    "Inception": (Inception, [IMAGE], "convolutions"),
    "language model": (LanguageModel, [(4, 9)], "all"),
    "mixer": (Mixer, [IMAGE], "all"),
    "mixture of experts": (MixtureOfExperts, [IMAGE], "all"),
    "PointNet": (PointNet, [(4, 10, 3)], "all"),
    "ResNet, remat": (ResNet, [IMAGE], "convolutions"),
    "ResNeXt": (ResNeXt, [IMAGE], "convolutions"),
    "scan": (Scanned, [(4, 3)], "all"),
    "siamese": (Siamese, [IMAGE, IMAGE], "convolutions"),
    "super-resolution": (SuperResolution, [IMAGE], "convolutions"),
    "VAE": (VAE, [IMAGE], "convolutions"),
    "VGG": (VGG, [IMAGE], "convolutions"),
    "ViT": (ViT, [IMAGE], "all"),
    "WaveNet": (WaveNet, [(4, 12, 2)], "convolutions"),
}
