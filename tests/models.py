"""Networks as other people write them, in plain Flax NNX. Nothing here knows of the library, nor may it import it."""

import jax.numpy as jnp
import numpy as np
from flax import nnx


def build(network, **options):
    """A network with numbers from NumPy: the initialisers of Flax compile a program for every shape."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if leaf.ndim > 1:
            return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])), leaf.dtype)
        return jnp.full(leaf.shape, path[-1] in ("scale", "var"), leaf.dtype)

    graphdef, state = nnx.split(nnx.eval_shape(lambda: network(nnx.Rngs(0), **options)))
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(fill(path, variable.get_value()))
    return nnx.merge(graphdef, state)


class InvertedResidual(nnx.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; a 1x1 shortcut where the width changes."""

    def __init__(self, c_in, c_out, expansion, stride, rngs):
        c = expansion * c_in
        self.stride = stride
        self.conv1 = nnx.Conv(c_in, c, (1, 1), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(c, rngs=rngs)
        self.conv2 = nnx.Conv(c, c, (3, 3), stride, padding=1, feature_group_count=c, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(c, rngs=rngs)
        self.conv3 = nnx.Conv(c, c_out, (1, 1), use_bias=False, rngs=rngs)
        self.bn3 = nnx.BatchNorm(c_out, rngs=rngs)
        if stride == 1 and c_in != c_out:
            self.shortcut = nnx.Sequential(
                nnx.Conv(c_in, c_out, (1, 1), use_bias=False, rngs=rngs), nnx.BatchNorm(c_out, rngs=rngs)
            )
        else:
            self.shortcut = nnx.Sequential()

    def __call__(self, x):
        out = nnx.relu(self.bn1(self.conv1(x)))
        out = nnx.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            out = out + self.shortcut(x)
        return out


class MobileNetV2(nnx.Module):
    """MobileNet-v2 for small images (Sandler et al., 2018), thin."""

    blocks = ((1, 4, 1), (2, 6, 1), (2, 6, 2))  # expansion, width, stride

    def __init__(self, rngs, classes=10):
        self.conv1 = nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(4, rngs=rngs)
        widths = [4, *(width for _, width, _ in self.blocks)]
        self.layers = nnx.List(
            [InvertedResidual(c, width, e, s, rngs) for c, (e, width, s) in zip(widths, self.blocks, strict=False)]
        )
        self.conv2 = nnx.Conv(widths[-1], 8, (1, 1), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(8, rngs=rngs)
        self.linear = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.conv1(x)))
        for layer in self.layers:
            x = layer(x)
        return self.linear(nnx.relu(self.bn2(self.conv2(x))).mean((1, 2)))


class Bottleneck(nnx.Module):
    def __init__(self, c_in, growth, rngs):
        self.bn1 = nnx.BatchNorm(c_in, rngs=rngs)
        self.conv1 = nnx.Conv(c_in, 2 * growth, (1, 1), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(2 * growth, rngs=rngs)
        self.conv2 = nnx.Conv(2 * growth, growth, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x):
        out = self.conv1(nnx.relu(self.bn1(x)))
        return jnp.concatenate([self.conv2(nnx.relu(self.bn2(out))), x], axis=-1)


class DenseNet(nnx.Module):
    """DenseNet (Huang et al., 2017): two dense blocks and a transition."""

    def __init__(self, rngs, growth=3, classes=10):
        self.stem = nnx.Conv(3, 2 * growth, (3, 3), use_bias=False, rngs=rngs)
        self.dense1 = nnx.Sequential(*(Bottleneck((2 + i) * growth, growth, rngs) for i in range(2)))
        self.transition = nnx.Conv(4 * growth, 2 * growth, (1, 1), use_bias=False, rngs=rngs)
        self.dense2 = nnx.Sequential(*(Bottleneck((2 + i) * growth, growth, rngs) for i in range(2)))
        self.bn = nnx.BatchNorm(4 * growth, rngs=rngs)
        self.linear = nnx.Linear(4 * growth, classes, rngs=rngs)

    def __call__(self, x):
        x = self.transition(self.dense1(self.stem(x)))
        x = self.dense2(nnx.avg_pool(x, (2, 2), (2, 2)))
        return self.linear(nnx.relu(self.bn(x)).mean((1, 2)))


class UNet(nnx.Module):
    """U-Net (Ronneberger et al., 2015): two scales, transposed convolutions, one class score a pixel."""

    def __init__(self, rngs, classes=5):
        self.down = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bottom = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (2, 2), strides=(2, 2), rngs=rngs)
        self.across = nnx.Conv(8, 4, (3, 3), rngs=rngs)
        self.again = nnx.ConvTranspose(4, 4, (3, 3), transpose_kernel=True, rngs=rngs)
        self.out = nnx.Conv(4, classes, (1, 1), rngs=rngs)

    def __call__(self, x):
        skip = nnx.relu(self.down(x))
        x = nnx.relu(self.bottom(nnx.max_pool(skip, (2, 2), (2, 2))))
        x = jnp.concatenate([skip, self.up(x)], axis=-1)
        return self.out(nnx.relu(self.again(nnx.relu(self.across(x)))))


class Audio(nnx.Module):
    """One spatial axis: a dilated causal convolution after an ordinary one with windows of five."""

    def __init__(self, rngs, classes=10):
        self.first = nnx.Conv(2, 6, 5, strides=2, rngs=rngs)
        self.causal = nnx.Conv(6, 8, (3,), padding="CAUSAL", kernel_dilation=2, rngs=rngs)
        self.linear = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, x):
        return self.linear(nnx.relu(self.causal(nnx.relu(self.first(x)))).mean(1))


class Volume(nnx.Module):
    """Three spatial axes: windows of 27 and 6 taps."""

    def __init__(self, rngs, classes=10):
        self.first = nnx.Conv(1, 4, (3, 3, 3), padding="VALID", rngs=rngs)
        self.second = nnx.Conv(4, 8, (1, 2, 3), rngs=rngs)
        self.linear = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, x):
        return self.linear(nnx.relu(self.second(nnx.relu(self.first(x)))).mean((1, 2, 3)))


class Misleading(nnx.Module):
    """Runs in an order that no sorting of its names gives: z, layer_4 to layer_11, a list of twelve out of order, a.

    Full, depthwise and grouped convolutions take turns.
    """

    def __init__(self, rngs):
        self.z = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        for i in range(8):
            setattr(self, f"layer_{i + 4}", nnx.Conv(4, 4, (3, 3), feature_group_count=(1, 4, 2)[i % 3], rngs=rngs))
        self.listed = nnx.List([nnx.Conv(4, 4, (1, 1), rngs=rngs) for _ in range(12)])
        self.a = nnx.Conv(4, 2, (3, 3), strides=2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.z(x))
        for i in range(8):
            x = x + jnp.tanh(getattr(self, f"layer_{i + 4}")(x))
        for i in (11, 2, 10, 1, 0, 3, 9, 4, 8, 5, 7, 6):
            x = x + jnp.tanh(self.listed[i](x))
        return self.a(x)


class Small(nnx.Module):
    """Two convolutions, of which `b` runs first, batch norm and a linear layer."""

    def __init__(self, rngs, **options):
        self.a = nnx.Conv(4, 4, (3, 3), rngs=rngs, **options)
        self.b = nnx.Conv(3, 4, (3, 3), rngs=rngs, **options)
        self.norm = nnx.BatchNorm(4, rngs=rngs, **options)
        self.linear = nnx.Linear(4, 2, rngs=rngs, **options)

    def features(self, x):
        return self.a(nnx.relu(self.norm(self.b(x))))

    def __call__(self, x):
        return self.linear(self.features(x).mean((1, 2)))
