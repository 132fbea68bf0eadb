"""Puppeteer and puppet in PyTorch, eager: what `experiments.benchmark` times the library beside. Imports torch late.

All is on the kind of device that JAX has. On a GPU convolutions are of TF32, as PyTorch has them unless it is told.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments.benchmarks.rounds import is_installed
from puppet_jax.folded import FoldedPuppet
from puppet_jax.puppeteer import start

EPSILON = 1e-5


def is_comparable() -> bool:
    """Whether PyTorch is installed and has a device of the kind that JAX computes on."""
    if not is_installed("torch"):
        return False
    import torch

    return jax.default_backend() == "cpu" or (device() == "cuda" and torch.cuda.is_available())


def device() -> str:
    """Where tensors are."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def tensor(array: Any) -> Any:
    """An array's values as a tensor."""
    import torch

    return torch.tensor(np.array(array, order="C"), device=device())


def wait() -> None:
    """Returns once all is computed."""
    import torch

    if device() == "cuda":
        torch.cuda.synchronize()


class Generator(NamedTuple):
    """A puppeteer's floats, in PyTorch's order of axes: (produced, consumed, height, width); norms (scale, bias)."""

    depthwise: Any
    depthwise_bias: Any
    norm1: tuple[Any, Any]
    pointwise: Any
    pointwise_bias: Any
    norm2: tuple[Any, Any]

    @property
    def leaves(self) -> list[Any]:
        """The trainable tensors."""
        return [self.depthwise, self.depthwise_bias, *self.norm1, self.pointwise, self.pointwise_bias, *self.norm2]


def generator(puppeteer: pj.Puppeteer) -> Generator:
    """The floats of a puppeteer as trainable tensors."""
    return Generator(
        depthwise=leaf(jnp.moveaxis(puppeteer.depthwise_kernel, -1, 0)[:, None]),
        depthwise_bias=leaf(puppeteer.depthwise_bias),
        norm1=(leaf(puppeteer.norm1_scale), leaf(puppeteer.norm1_bias)),
        pointwise=leaf(puppeteer.pointwise_kernel[:, :, None, None]),
        pointwise_bias=leaf(puppeteer.pointwise_bias),
        norm2=(leaf(puppeteer.norm2_scale), leaf(puppeteer.norm2_bias)),
    )


def leaf(array: Any) -> Any:
    """A trainable tensor of an array's values."""
    return tensor(array).requires_grad_()


def first_state(puppeteer: pj.Puppeteer, h: float) -> Any:
    """The initial state (1, C, C, taps) at complexity `h`."""
    return tensor(start(puppeteer, jnp.float32(h)).transpose())[None]


def steps(made: Generator, state: Any, dl: float) -> Iterator[tuple[Any, Any]]:
    """State and velocity (1, C, C, taps) of one Euler step after the other."""
    import torch

    def normed(x: Any, norm: tuple[Any, Any]) -> Any:
        return torch.nn.functional.batch_norm(x, None, None, *norm, training=True, eps=EPSILON)

    convolve = torch.nn.functional.conv2d
    while True:
        x = convolve(state, made.depthwise, made.depthwise_bias, padding=1, groups=state.shape[1])
        x = convolve(normed(x, made.norm1), made.pointwise, made.pointwise_bias)
        velocity = torch.tanh(normed(x, made.norm2))
        state = state + dl * velocity
        yield state, velocity


def pooled(state: Any, shape: tuple[int, ...]) -> Any:
    """The kernel (c_out, c_in, kh, kw) of HWIO `shape` that a state (1, C, C, taps) is pooled to."""
    import torch

    kh, kw, c_in, c_out = shape
    wanted, found = (c_out, c_in, kh * kw), tuple(state.shape[1:])
    if any(n % m for n, m in zip(found, wanted, strict=True)):
        state = torch.nn.functional.adaptive_avg_pool3d(state, wanted)
    elif wanted != found:
        state = state.reshape([n for m, whole in zip(wanted, found, strict=True) for n in (m, whole // m)])
        state = state.mean(dim=(1, 3, 5))
    return state.reshape(c_out, c_in, kh, kw)


class PuppetInTorch:
    """A puppet as it is trained: kernels generated for each set of images, norms by the batch, a loss.

    Args:
        puppet: the architecture.
        params: its floats, of a puppeteer or of `OrdinaryKernels`.
        h: (sets,) complexities of the sets of kernels, nats.
        depth: its depth bucket.
    """

    def __init__(self, puppet: pj.Puppet, params: pj.PuppetParams, h: np.ndarray, depth: int):
        self.puppet = puppet
        self.layers = puppet.convolutions(depth)
        self.shapes = puppet.kernel_shapes(depth)
        source: Any = params.puppeteer
        self.leaves: list[Any] = []
        self._generate: Callable[[], list[list[Any]]]
        if isinstance(source, pj.Puppeteer):
            made = generator(source)
            begins = [(first_state(source, float(one)), float(pj.step_size(jnp.float32(one)))) for one in h]
            place = int(source.kernels_from == "velocity")
            self._generate = lambda: [self._generated(made, *begin, place) for begin in begins]
            self.leaves += made.leaves
        else:
            stored = [leaf(kernel.transpose(3, 2, 0, 1)) for kernel in source.kernels]
            self._generate = lambda: [stored]
            self.leaves += stored
        self.norms, self.classifier = None, None
        if params.norm_scale is not None and params.norm_bias is not None:
            self.norms = [[leaf(part) for part in stage] for stage in (params.norm_scale, params.norm_bias)]
            self.leaves += [tensor for stage in self.norms for tensor in stage]
        if params.classifier_kernel is not None:
            self.classifier = leaf(params.classifier_kernel), leaf(params.classifier_bias)
            self.leaves += self.classifier

    def _generated(self, made: Generator, state: Any, dl: float, place: int) -> list[Any]:
        both = zip(self.shapes, steps(made, state, dl), strict=False)
        return [pooled(one[place], shape) for shape, one in both]

    def logits(self, images: Any, training: bool = True) -> Any:
        """Logits (batch, classes) of images (batch, channels, height, width), 8 bits; dropout while `training`."""
        import torch

        functional, sets = torch.nn.functional, self._generate()
        x = images.to(torch.float32) * (4 / 255) - 2
        for n, layer in enumerate(self.layers):
            if layer.pool:
                x = functional.dropout(functional.max_pool2d(x, 2), self.puppet.dropout, training)
            parts = zip(x.chunk(len(sets)), sets, strict=True)
            y = [functional.conv2d(part, self._mirrored(kernels[n], n > 0), padding="same") for part, kernels in parts]
            y = functional.relu(self._normed(y[0] if len(y) == 1 else torch.cat(y), layer))
            x = x + y if self.puppet.residual and layer.place > 0 else y
        features = x.mean(dim=(2, 3))
        if self.puppet.mirror:
            features = features.reshape(len(features), 2, -1).mean(dim=1)
        if self.classifier is not None:
            return features @ self.classifier[0] + self.classifier[1]
        parts = zip(features.chunk(len(sets)), sets, strict=True)
        return torch.cat([part @ kernels[-1][:, :, 0, 0].T for part, kernels in parts])

    def _mirrored(self, kernel: Any, mirrored_input: bool) -> Any:
        import torch

        if not self.puppet.mirror:
            return kernel
        other = kernel.flip(3)
        return torch.cat([kernel, other.roll(kernel.shape[1] // 2, 1) if mirrored_input else other])

    def _normed(self, x: Any, layer: Any) -> Any:
        """Batch norm; both channels of a mirrored pair are one, of twice as many images."""
        import torch

        scale, bias = (None, None) if self.norms is None else (one[layer.stage][layer.place] for one in self.norms)
        shape = x.shape
        if self.puppet.mirror:
            x = x.reshape(2 * shape[0], shape[1] // 2, *shape[2:])
        return torch.nn.functional.batch_norm(x, None, None, scale, bias, training=True, eps=EPSILON).reshape(shape)


def run_layers(layers: FoldedPuppet) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images (batch, height, width, channels), 8 bits, to logits: ordinary layers, norms folded in.

    Args:
        layers: of one level of complexity.
    """
    import torch

    kernels = [tensor(jnp.transpose(kernel, (3, 2, 0, 1))) for kernel in layers.kernels]
    biases = [tensor(bias) for bias in layers.biases]
    classifier = tensor(layers.classifier_kernel), tensor(layers.classifier_bias)
    functional = torch.nn.functional

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(images).to(device()).permute(0, 3, 1, 2).to(torch.float32) * (4 / 255) - 2
            for kernel, bias, pool, add in zip(kernels, biases, layers.pools, layers.adds, strict=True):
                x = functional.max_pool2d(x, 2) if pool else x
                y = functional.relu(functional.conv2d(x, kernel, bias, padding="same"))
                x = x + y if add else y
            return (x.mean(dim=(2, 3)) @ classifier[0] + classifier[1]).cpu().numpy()

    return run
