"""A Flax NNX module as a network to train."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import puppet_jax as pj
from experiments.networks.contract import Network, Predictor
from experiments.networks.convolution import use_fast_layers
from experiments.networks.macs import count_macs
from puppet_jax.checks import check_images
from puppet_jax.puppet import centred
from puppet_jax.puppetized.plan import Generated
from puppet_jax.routing import batch_sharding, run_pieces, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModuleNetwork(Network):
    """An NNX module from floating images, centred, to logits, of one depth: the number of its convolutions.

    Trainable floats are a dictionary of arrays by path, statistics one of `pj.BatchStats` by the path of their norm. A
    subclass says which module, and where training wants more than logits, what it is called for.

    Attributes:
        convolutions: the layers that count for its depth.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    convolutions: ClassVar[tuple[type, ...]] = (nnx.Conv, nnx.ConvTranspose)

    @abc.abstractmethod
    def make(self, seed: int) -> nnx.Module:
        """The module before the first step."""

    def call(self, model: Any, x: Array, key: Array | None) -> Any:
        """What the module gives in training for `loss`, of images (batch, height, width, channels); its logits."""
        return model(x)

    @functools.cached_property
    def abstract(self) -> tuple[Any, ...]:
        """Graph definition, parameters, statistics, and what holds nothing, without arrays."""
        return nnx.split(nnx.eval_shape(lambda: self.make(0)), nnx.Param, nnx.BatchStat, ...)

    def model(self, params: dict[str, Array], stats: dict[str, pj.BatchStats] | None) -> Any:
        """The module with these parameters: in evaluation with these statistics, or in training without any.

        Its convolutions and linear layers are computed as `experiments.networks.convolution` does.
        """
        graphdef, like, like_stats, rest = self.abstract
        model = nnx.merge(
            graphdef,
            _state(like, params),
            _state(like_stats, _unpaired(self.init_stats(0) if stats is None else stats)),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest),
            copy=True,
        )
        use_fast_layers(model)
        if stats is None:
            model.train()
            model.set_attributes(nnx.BatchNorm, momentum=0.0, raise_if_not_found=False)  # keeps the batch's own
        else:
            model.eval()
        return model

    def init(self, seed, depths):
        return jax.jit(lambda: flat(nnx.state(self.make(seed), nnx.Param)))()

    def init_stats(self, depth):
        return _paired({name: jnp.zeros(leaf.shape) for name, leaf in flat(self.abstract[2]).items()})

    def apply(self, params, stats, images, h, depth, key=None):
        model = self.model(params, stats)
        with jax.default_matmul_precision("highest"):  # float32 means float32 on a GPU too
            outputs = self.call(model, centred(images), key)
        return outputs, used_stats(model)

    @functools.cached_property
    def depth(self) -> int:  # type: ignore[override]
        """Number of convolutions."""
        return num_convolutions(nnx.merge(*self.abstract), self.convolutions)

    @functools.cached_property
    def generated(self) -> tuple[Generated, ...]:
        """The weights that are generated, of a module that is a `pj.PuppetModel`."""
        return nnx.merge(*self.abstract).kernels

    def matrices(self, params):
        """A bias may have several axes too, as in attention: the heads, and the floats of a head."""

        def of(name: str, leaf: Any) -> Any:  # an optimiser masks some leaves
            return jax.tree.map(lambda array: array.ndim > 1 and not name.endswith("bias"), leaf)

        return {name: of(name, leaf) for name, leaf in params.items()}

    def predictor(self, params, stats, **settings) -> Predictor:
        """Settings are for kernels that follow complexity; none matters."""
        return ModulePredictor(self, params, *stats.values())

    def macs(self, params, depth):
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        return 0, count_macs(lambda params, x: self.model(params, self.init_stats(0))(x), params, image)


class ModulePredictor:
    """Logits of images of any complexities, which do not matter."""

    def __init__(self, network: ModuleNetwork, params: dict[str, Array], stats: dict[str, pj.BatchStats]):
        self.network = network
        self.params = params
        self.stats = stats
        self.sharding = batch_sharding(params)

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        """Logits (batch, num_classes) float32 of `images` (batch, height, width, channels)."""
        return self.in_pieces(images, lambda part: _forward(self.network, self.params, self.stats, part))

    def in_pieces(self, images: Any, run: Callable[[Any], Any]) -> Any:
        """What `run` gives for the images, a pytree with a row an image, piece by piece of few sizes."""
        images = np.asarray(check_images(images))
        return run_pieces(len(images), lambda padded: run(spread(images[padded], self.sharding)))

    def route(self, images: Any, h: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and the depth of each image, which is the one depth."""
        return self(images), np.full(len(images), self.network.depth)


class GeneratedPredictor(ModulePredictor):
    """The same of a network whose weights are made once, by its `generate(params)`, for its `apply_with`."""

    def __init__(self, network: Any, params: dict[str, Array], stats: dict[str, pj.BatchStats]):
        super().__init__(network, params, stats)
        self.kernels = _generate(network, params)

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        fixed = (self.network, self.params, self.stats, self.kernels)
        return self.in_pieces(images, lambda part: _forward_with(*fixed, part))


@functools.partial(jax.jit, static_argnames="network")
def _generate(network: Any, params):
    with jax.default_matmul_precision("highest"):
        return network.generate(params)


@functools.partial(jax.jit, static_argnames="network")
def _forward_with(network: Any, params, stats, kernels, images):
    with jax.default_matmul_precision("highest"):
        return network.apply_with(params, stats, kernels, images)


@functools.partial(jax.jit, static_argnames="network")
def _forward(network: ModuleNetwork, params, stats, images):
    with jax.default_matmul_precision("highest"):
        return network.model(params, stats)(centred(images))


def num_convolutions(model: nnx.Module, kinds: tuple[type, ...] = ModuleNetwork.convolutions) -> int:
    """Convolutions in a module, which may be without arrays."""
    return sum(isinstance(node, kinds) for _, node in nnx.iter_graph(model))


def used_stats(model: Any) -> dict[str, pj.BatchStats]:
    """The statistics that the norms of a module hold."""
    return _paired(flat(nnx.state(model, nnx.BatchStat)))


def flat(state: Any) -> dict[str, Any]:
    """The arrays of a state by path."""
    return {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def _state(like: Any, arrays: dict[str, Any]) -> Any:
    leaves = nnx.to_flat_state(like)
    return nnx.from_flat_state([(path, leaf.replace(arrays[".".join(map(str, path))])) for path, leaf in leaves])


def _paired(arrays: dict[str, Any]) -> dict[str, pj.BatchStats]:
    """`NORM.mean` and `NORM.var` as the statistics of NORM."""
    norms = [name.removesuffix(".mean") for name in arrays if name.endswith(".mean")]
    return {norm: pj.BatchStats(arrays[f"{norm}.mean"], arrays[f"{norm}.var"]) for norm in norms}


def _unpaired(stats: dict[str, pj.BatchStats]) -> dict[str, Any]:
    means = {f"{norm}.mean": one.mean for norm, one in stats.items()}
    return means | {f"{norm}.var": one.variance for norm, one in stats.items()}
