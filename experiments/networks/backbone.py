"""A backbone as a network to train, with kernels of its own or generated ones."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import puppet_jax as pj
from experiments.networks.backbones import make_backbone
from experiments.networks.contract import Predictor
from experiments.networks.macs import count_macs
from experiments.networks.module import ModuleNetwork, num_convolutions, used_stats
from experiments.networks.puppet import PuppeteerSettings
from puppet_jax.checks import check_images
from puppet_jax.projection import least_state
from puppet_jax.puppet import centred
from puppet_jax.routing import Group, check_adaptation, make_groups, one_an_image, run_groups

MAX_DEPTH = 16
"""Complexities of images, at most 5.6 nats, lie far within this many depths."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneNetwork(ModuleNetwork):
    """A network of `experiments.networks.backbones`; its kernels are its own, or generated."""

    name: str
    num_layers: int | None = None
    width: int | None = None
    puppeteer: PuppeteerSettings | None = None

    @functools.cached_property
    def _abstract_plain(self) -> nnx.Module:
        """The backbone with kernels of its own, without arrays."""
        return nnx.eval_shape(lambda: self._plain(0))

    def _plain(self, seed: int) -> nnx.Module:
        return make_backbone(
            self.name,
            self.num_classes,
            in_channels=self.image_shape[-1],
            num_layers=self.num_layers,
            max_channels=self.width,
            rngs=nnx.Rngs(seed),
        )

    def make(self, seed):
        model = self._plain(seed)
        if self.puppeteer is None:
            return model
        example = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        key = jax.random.split(jax.random.key(seed))[0]
        shapes = [node.kernel.shape for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Conv)]
        state = dict(zip(("max_channels", "kernel_size"), least_state(shapes), strict=True))
        given = {name: value for name, value in dataclasses.asdict(self.puppeteer).items() if value is not None}
        return pj.puppetize(model, example, key=key, **state | given)

    def apply(self, params, stats, images, h, depth, key=None):
        if self.puppeteer is None:
            return super().apply(params, stats, images, h, depth, key)
        model = self.model(params, stats)
        with jax.default_matmul_precision("highest"):  # float32 means float32 on a GPU too
            logits = model(centred(images), h=h[0] if len(h) == 1 else h)
        return logits, used_stats(model)

    def generate(self, params: dict[str, Array], h: Array) -> tuple[Array, ...]:
        """The kernels of complexity `h`, for `apply_with`."""
        return self.model(params, self.init_stats(0)).generate(h)

    def apply_with(self, params, stats, kernels, images):
        """Logits in evaluation, with kernels from `generate`."""
        with jax.default_matmul_precision("highest"):  # float32 means float32 on a GPU too
            return self.model(params, stats).with_kernels(kernels)(centred(images))

    @functools.cached_property
    def depth(self) -> int:  # type: ignore[override]
        """Number of convolutions."""
        return num_convolutions(self._abstract_plain)

    def predictor(self, params, stats, **settings) -> Predictor:
        if self.puppeteer is None:
            return super().predictor(params, stats, **settings)
        return BackbonePredictor(self, params, stats, **settings)

    def macs(self, params, depth):
        graphdef, state = nnx.split(self._abstract_plain)
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)

        def run(state, image):
            model = nnx.merge(graphdef, state, copy=True)
            model.eval()
            return model(image)

        return self._generator_macs(params), count_macs(run, state, image)

    def _generator_macs(self, params: Any) -> int:
        """Of a kernel that is wider than the state several steps."""
        puppeteer = self.generator(params)
        if puppeteer is None:
            return 0
        shapes = [one.hwio for one in self.generated]
        return pj.generator_macs(puppeteer, pj.num_steps(shapes, puppeteer.max_channels, puppeteer.kernel_size))

    def generator(self, params):
        return None if self.puppeteer is None else self.model(params, None).puppeteer.get_value()


@functools.partial(jax.jit, static_argnames="network")
def _forward_own(network: BackboneNetwork, params, stats, h, images):
    return network.apply(params, stats, images, h, network.depth)[0]


@functools.partial(jax.jit, static_argnames="network")
def _forward_shared(network: BackboneNetwork, params, stats, kernels, images):
    return network.apply_with(params, stats, kernels, images)


@functools.partial(jax.jit, static_argnames="network")
def _generate(network: BackboneNetwork, params, h):
    return network.generate(params, h)


class BackbonePredictor:
    """Logits of images of any complexities from generated kernels: what `pj.Predictor` is for the puppet.

    Images of a level of complexity share kernels, which are kept; or each has its own ("sample").
    """

    def __init__(
        self,
        network: BackboneNetwork,
        params: dict[str, Array],
        stats: dict[int, dict[str, pj.BatchStats]],
        *,
        adaptation: Literal["level", "sample"] = "level",
        num_levels: int = 64,
        complexity: Callable[[Any], Any] = pj.complexity,
        max_sets: int = 128,
    ):
        check_adaptation(adaptation)
        self.network = network
        self.params = params
        (self.stats,) = stats.values()
        self.complexity = complexity
        self.num_levels = num_levels if adaptation == "level" else None
        self._bank = functools.lru_cache(max_sets)(functools.partial(_generate, network, params))

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        """Logits (batch, num_classes) float32, in the order of `images` (batch, height, width, channels)."""
        return self.route(images, h)[0]

    def route(self, images: Any, h: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and the depth of each image, which is the one depth."""
        images = np.asarray(check_images(images))
        h = pj.complexities(images, self.complexity) if h is None else one_an_image(h, len(images))
        groups = make_groups(h, range(1, MAX_DEPTH), self.num_levels)
        constant = getattr(self.complexity, "scale", 1) == 0  # one level, the constant itself
        if constant and self.num_levels is not None:
            groups = [dataclasses.replace(group, h=float(h[0])) for group in groups]
        logits = run_groups(groups, lambda group: self._run(group, images, h))
        return logits, np.full(len(images), self.network.depth)

    def _run(self, group: Group, images: np.ndarray, h: np.ndarray) -> Array:
        padded = group.padded_indices()
        if group.h is None:
            return _forward_own(self.network, self.params, self.stats, h[padded], images[padded])
        return _forward_shared(self.network, self.params, self.stats, self._bank(group.h), images[padded])
