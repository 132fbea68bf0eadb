"""What can be trained: the papers' puppet, and backbones with kernels of their own or generated ones."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import puppet_jax as pj
from experiments.backbones import make_backbone
from experiments.config import CONTROLS, Config
from experiments.kernels import GENERATE, CombinedKernels, init_combined, init_stored, source_macs
from experiments.macs import count_macs
from puppet_jax.puppet import fitting_settings
from puppet_jax.routing import check_adaptation

MAX_DEPTH = 16
"""Complexities of images, at most 5.6 nats, lie far within this many depths."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """Static facts of a puppeteer; arguments of `puppet_jax.init_puppeteer`."""

    max_channels: int | None
    kernel_size: int | None
    initial_state: Literal["seeded", "constant", "learned"] = "seeded"
    seed: int = 0
    scale: float = 0.1


class Network(abc.ABC):
    """A network under training. All that evolves is in `params`; an object of this kind holds no arrays.

    `stats` are the statistics of one depth's batch norms, a pytree of `pj.BatchStats`.
    """

    num_classes: int
    image_shape: tuple[int, int, int]

    @abc.abstractmethod
    def init(self, seed: int, depths: Sequence[int]) -> Any:
        """The trainable floats before the first step, for the depths in use."""

    @abc.abstractmethod
    def init_stats(self, depth: int) -> Any:
        """Statistics of the shape that `forward` returns."""

    @abc.abstractmethod
    def forward(
        self,
        params: Any,
        stats: Any | None,
        images: Array,
        h: Array,
        depth: int,
        dtype: jnp.dtype,
        key: Array | None = None,
    ) -> tuple[Array, Any]:
        """Logits (batch, num_classes) float32 and the statistics used: `stats`, or the batch's own where it is None.

        `h` (sets,) nats: each set of kernels serves as many neighbouring images. `key` is for dropout, none without it.
        """

    def forward_together(
        self, params: Any, images: Array, h: Array, depth: int, dtype: jnp.dtype, key: Array | None = None
    ) -> dict[int, tuple[Array, Any]]:
        """What `forward` gives in training, of every depth that is trained together with `depth`."""
        return {depth: self.forward(params, None, images, h, depth, dtype, key)}

    @abc.abstractmethod
    def decays(self, params: Any) -> Any:
        """Which leaves weight decay touches."""

    def bits(self, params: Any, bits: Literal[8, 4]) -> Any:
        """The bits of each leaf once stored, see `pj.choose_bits`; what weight decay touches is a matrix."""
        return pj.choose_bits(params, self.decays(params), bits)

    @abc.abstractmethod
    def depths(self, h: np.ndarray) -> np.ndarray:
        """The depth at which each image is trained, (images,) int."""

    @abc.abstractmethod
    def interval(self, depth: int) -> tuple[float, float]:
        """The complexities of that depth, nats."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises a ValueError if it cannot take its images."""

    @abc.abstractmethod
    def predictor(self, params: Any, stats: dict[int, Any], **settings: Any) -> "Predictor":
        """A predictor; the settings are those of `pj.Predictor`."""

    @abc.abstractmethod
    def macs(self, params: Any, depth: int) -> tuple[int, int]:
        """Multiply-accumulates of an image: of the generator, and of the network itself."""

    @abc.abstractmethod
    def generator_params(self, params: Any) -> pj.Puppeteer | CombinedKernels | None:
        """The part of the trainable floats that kernels are generated from, if there is one."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON values from which `read_network` makes the same network."""


class Predictor(Protocol):
    """Logits of images of any complexities."""

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths in use."""

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        """(batch, num_classes) float32."""

    def route(self, images: Any, h: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the depth (batch,) that each image was taken to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetNetwork(Network):
    """The CNN of the papers, of input-adaptive depth; or with kernels of another kind of `experiments.kernels`.

    "stored" and "combined" are of one depth and stand where a Puppet-CNN has its puppeteer; "combined" has as many
    coefficients as the puppeteer would have floats. `exits` are the depths of nested puppets, trained together, the
    deep one for the images that the shallow one doubts.
    """

    puppet: pj.Puppet
    generator: Generator
    image_size: tuple[int, int]
    kernels: str = "generated"
    exits: tuple[int, int] | None = None

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.puppet.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (*self.image_size, self.puppet.in_channels)

    def init(self, seed: int, depths: Sequence[int]) -> pj.PuppetParams:
        puppeteer_key, puppet_key = jax.random.split(jax.random.key(seed))
        settings = fitting_settings(self.puppet, dataclasses.asdict(self.generator))
        puppeteer = pj.init_puppeteer(puppeteer_key, **settings)
        params = pj.init_puppet(puppet_key, self.puppet, puppeteer, max_depth=max(depths))
        if self.kernels not in CONTROLS:
            return params
        (depth,) = depths
        shapes = self.puppet.kernel_shapes(depth)
        source: Any
        if self.kernels == "stored":
            source = init_stored(puppeteer_key, shapes)
        else:
            source = init_combined(puppeteer_key, shapes, pj.num_floats(puppeteer), self.generator.seed)
        return dataclasses.replace(params, puppeteer=source)

    def init_stats(self, depth: int) -> tuple[pj.BatchStats, ...]:
        return pj.init_batch_stats(self.puppet, depth)

    def forward(self, params, stats, images, h, depth, dtype, key=None):
        kernels = self._generate(params, h, depth)
        return pj.apply_puppet(self.puppet, params, stats, kernels, images, depth, dtype, key)

    def forward_together(self, params, images, h, depth, dtype, key=None):
        if self.exits is None:
            return super().forward_together(params, images, h, depth, dtype, key)
        kernels = self._generate(params, h, depth)
        return pj.apply_exits(self.puppet, params, None, kernels, images, self.exits, dtype, key)

    def _generate(self, params, h, depth):
        shapes, generate = self.puppet.kernel_shapes(depth), GENERATE[self.kernels]
        if len(h) == 1:
            return generate(params.puppeteer, h[0], shapes)
        return jax.vmap(lambda level: generate(params.puppeteer, level, shapes))(h)

    def decays(self, params):
        return pj.puppet_matrices(params)

    def depths(self, h: np.ndarray) -> np.ndarray:
        return np.asarray(pj.depth(h))

    def interval(self, depth: int) -> tuple[float, float]:
        return pj.depth_interval(self.puppet.max_depth or depth)

    def check(self) -> None:
        self.puppet.check_image_size(*self.image_size)

    def predictor(self, params, stats, threshold=None, **settings) -> pj.Predictor | pj.EarlyExitPredictor:
        generate = GENERATE[self.kernels]
        if self.exits is None:
            return pj.Predictor(self.puppet, params, stats, generate=generate, **settings)
        known = {name: settings[name] for name in ("adaptation", "dtype") if name in settings}
        h = settings["complexity"].offset  # the one complexity of all images
        return pj.EarlyExitPredictor(self.puppet, params, stats, h=h, threshold=threshold, generate=generate, **known)

    def macs(self, params, depth):
        generator = source_macs(params.puppeteer, self.puppet.kernel_shapes(depth))
        if self.exits is None or depth == self.exits[0]:
            return generator, pj.puppet_macs(self.puppet, depth, self.image_size)
        shallow = pj.puppet_macs(self.puppet, self.exits[0], self.image_size)
        shared = self.puppet.shared_layers(*self.exits)
        return generator, shallow + pj.puppet_macs(self.puppet, depth, self.image_size, first=shared)

    def generator_params(self, params):
        return None if self.kernels == "stored" else params.puppeteer

    def describe(self) -> dict[str, Any]:
        return {"kind": "puppet", **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneNetwork(Network):
    """A network of `experiments.backbones`, of one depth; its kernels are its own, or generated.

    Its depth is the number of its convolutions. Trainable floats are a dictionary of arrays by path.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    num_layers: int | None = None
    max_channels: int | None = None
    generator: Generator | None = None

    @functools.cached_property
    def _abstract(self) -> tuple[Any, ...]:
        """Graph definition, parameters and statistics, without arrays."""
        return nnx.split(nnx.eval_shape(lambda: self._make(0)), nnx.Param, nnx.BatchStat)

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
            max_channels=self.max_channels,
            rngs=nnx.Rngs(seed),
        )

    def _make(self, seed: int) -> nnx.Module:
        model = self._plain(seed)
        if self.generator is None:
            return model
        example = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        key = jax.random.split(jax.random.key(seed))[0]
        return pj.puppetize(model, example, key=key, **dataclasses.asdict(self.generator))

    def _model(self, params: dict[str, Array], stats: dict[str, pj.BatchStats] | None) -> Any:
        graphdef, like, like_stats = self._abstract
        model = nnx.merge(
            graphdef,
            _state(like, params),
            _state(like_stats, _unpaired(self.init_stats(0) if stats is None else stats)),
            copy=True,
        )
        if stats is None:
            model.train()
            model.set_attributes(nnx.BatchNorm, momentum=0.0, raise_if_not_found=False)  # keeps the batch's own
        else:
            model.eval()
        return model

    def init(self, seed: int, depths: Sequence[int]) -> dict[str, Array]:
        return jax.jit(lambda: _flat(nnx.state(self._make(seed), nnx.Param)))()

    def init_stats(self, depth: int) -> dict[str, pj.BatchStats]:
        return _paired({name: jnp.zeros(leaf.shape) for name, leaf in _flat(self._abstract[2]).items()})

    def forward(self, params, stats, images, h, depth, dtype, key=None):
        model = self._model(params, stats)
        x = pj.centred(images).astype(dtype)
        with jax.default_matmul_precision("highest"):  # float32 means float32 on a GPU too
            logits = model(x, h=h[0] if len(h) == 1 else h) if self.generator else model(x)
        return logits.astype(jnp.float32), _paired(_flat(nnx.state(model, nnx.BatchStat)))

    def generate(self, params: dict[str, Array], h: Array) -> tuple[Array, ...]:
        """The kernels of complexity `h`, for `forward_with`."""
        return self._model(params, self.init_stats(0)).generate(h)

    def forward_with(self, params, stats, kernels, images):
        """Logits in evaluation, with kernels from `generate`."""
        with jax.default_matmul_precision("highest"):  # float32 means float32 on a GPU too
            return self._model(params, stats).with_kernels(kernels)(pj.centred(images))

    def decays(self, params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    @functools.cached_property
    def depth(self) -> int:
        """Number of convolutions."""
        nodes = nnx.iter_graph(self._abstract_plain)
        return sum(isinstance(node, nnx.Conv | nnx.ConvTranspose) for _, node in nodes)

    def depths(self, h: np.ndarray) -> np.ndarray:
        return np.full(len(h), self.depth)

    def interval(self, depth: int) -> tuple[float, float]:
        return 0.0, math.inf

    def check(self) -> None:
        params, stats = (_flat(state) for state in self._abstract[1:])
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.uint8)
        jax.eval_shape(
            lambda params, stats, images: self.forward(params, stats, images, jnp.ones(1), self.depth, jnp.float32),
            params,
            _paired(stats),
            image,
        )

    def predictor(self, params, stats, **settings) -> "BackbonePredictor":
        return BackbonePredictor(self, params, stats, **settings)

    def macs(self, params, depth):
        graphdef, state = nnx.split(self._abstract_plain)
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)

        def run(state, image):
            model = nnx.merge(graphdef, state, copy=True)
            model.eval()
            return model(image)

        puppeteer = self.generator_params(params)
        generator = 0 if puppeteer is None else pj.generator_macs(puppeteer, self.depth)
        return generator, count_macs(run, state, image)

    def generator_params(self, params):
        return None if self.generator is None else self._model(params, None).puppeteer.get_value()

    def describe(self) -> dict[str, Any]:
        return {"kind": "backbone", **dataclasses.asdict(self)}


@functools.partial(jax.jit, static_argnames=("network", "dtype"))
def _forward_own(network: BackboneNetwork, params, stats, h, images, *, dtype):
    return network.forward(params, stats, images, h, network.depth, dtype)[0]


@functools.partial(jax.jit, static_argnames="network")
def _forward_shared(network: BackboneNetwork, params, stats, kernels, images):
    return network.forward_with(params, stats, kernels, images)


@functools.partial(jax.jit, static_argnames="network")
def _generate(network: BackboneNetwork, params, h):
    return network.generate(params, h)


class BackbonePredictor:
    """Logits of images of any complexities from a backbone: what `pj.Predictor` is for the puppet.

    Images of a slice of complexity share kernels, which are kept; or each has its own ("sample").
    """

    def __init__(
        self,
        network: BackboneNetwork,
        params: dict[str, Array],
        stats: dict[int, dict[str, pj.BatchStats]],
        *,
        adaptation: Literal["level", "sample"] = "level",
        num_slices: int = 64,
        complexity: Callable[[Any], Any] = pj.complexity,
        dtype: jnp.dtype = jnp.float32,
        max_sets: int = 128,
    ):
        check_adaptation(adaptation)
        self.network = network
        self.params = params
        (self.stats,) = stats.values()
        self.complexity = complexity
        self.num_slices = num_slices if adaptation == "level" or network.generator is None else None
        self.dtype = dtype
        self._bank = functools.lru_cache(max_sets)(functools.partial(_generate, network, params))

    @property
    def depths(self) -> tuple[int, ...]:
        """The one depth."""
        return (self.network.depth,)

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        """Logits (batch, num_classes) float32, in the order of `images` (batch, height, width, channels)."""
        return self.route(images, h)[0]

    def route(self, images: Any, h: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and the depth of each image, which is the one depth."""
        images = np.asarray(images)
        if self.network.generator is None:
            h = np.zeros(len(images), np.float32)
        elif h is None:
            h = pj.complexities(images, self.complexity)
        h = np.asarray(h)
        groups = pj.make_groups(h, range(1, MAX_DEPTH), self.num_slices)
        logits = pj.run_groups(groups, lambda group: self._run(group, images, h))
        return logits, np.full(len(images), self.network.depth)

    def _run(self, group: pj.Group, images: np.ndarray, h: np.ndarray) -> Array:
        padded = group.padded_indices()
        if self.network.generator is None or group.h is None:
            return _forward_own(self.network, self.params, self.stats, h[padded], images[padded], dtype=self.dtype)
        return _forward_shared(self.network, self.params, self.stats, self._bank(group.h), images[padded])


def make_network(config: Config, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
    """The network that a configuration describes.

    Args:
        config: of the run.
        num_classes: of the data set.
        image_shape: (height, width, channels) of its images.

    Raises:
        ValueError: if there is no such network.
    """
    settings: dict[str, Any] = {
        "initial_state": config.initial_state,
        "seed": config.pattern_seed,
        "scale": config.scale,
    }
    if config.network != "puppet":
        # as wide as the width that is asked for (AlexNet's widest is 384 of 512), or as the widest kernel
        c = None if config.network in ("resnet20", "mobilenet_v2") else config.max_channels or 512
        generated = Generator(max_channels=c, kernel_size=None, **settings)
        return BackboneNetwork(
            name=config.network,
            num_classes=num_classes,
            image_shape=image_shape,
            num_layers=config.num_layers,
            max_channels=config.max_channels,
            generator=generated if config.kernels == "generated" else None,
        )
    exits = config.spread if config.adapts == "doubt" else None
    puppet = pj.Puppet(
        channels=config.channels,
        num_classes=num_classes,
        in_channels=image_shape[-1],
        kernel_size=config.kernel_size,
        depth_rule=config.depth_rule,
        stem=config.stem,
        dropout=config.dropout,
        mirror=config.mirror,
        residual=config.residual,
        affine=config.affine,
        classifier=config.classifier,
        max_depth=exits and exits[1],
    )
    if exits is not None and puppet.layers(exits[0]) == puppet.layers(exits[1]):
        raise ValueError(f"puppets of depths {exits[0]} and {exits[1]} are the same; give other depths to --spread.")
    generator = Generator(max_channels=config.max_channels, kernel_size=config.kernel_size, **settings)
    size = image_shape[:2]
    return PuppetNetwork(puppet=puppet, generator=generator, image_size=size, kernels=config.kernels, exits=exits)


def read_network(described: dict[str, Any]) -> Network:
    """The network that `describe` described, after a way through JSON.

    Raises:
        KeyError, TypeError, ValueError: if it describes none.
    """
    fields = dict(described)
    kind = fields.pop("kind")
    if fields["generator"] is not None:
        fields["generator"] = Generator(**fields["generator"])
    if kind == "backbone":
        return BackboneNetwork(**fields | {"image_shape": tuple(fields["image_shape"])})
    if kind != "puppet":
        raise ValueError(f"the kind of a network is puppet or backbone, got {kind!r}")
    fields["puppet"] = pj.Puppet(**fields["puppet"] | {"channels": tuple(fields["puppet"]["channels"])})
    exits = fields.get("exits")
    return PuppetNetwork(**fields | {"image_size": tuple(fields["image_size"]), "exits": exits and tuple(exits)})


def _flat(state: Any) -> dict[str, Any]:
    return {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def _state(like: Any, arrays: dict[str, Any]) -> Any:
    flat = nnx.to_flat_state(like)
    return nnx.from_flat_state([(path, leaf.replace(arrays[".".join(map(str, path))])) for path, leaf in flat])


def _paired(arrays: dict[str, Any]) -> dict[str, pj.BatchStats]:
    """`NORM.mean` and `NORM.var` as the statistics of NORM."""
    norms = [name.removesuffix(".mean") for name in arrays if name.endswith(".mean")]
    return {norm: pj.BatchStats(arrays[f"{norm}.mean"], arrays[f"{norm}.var"]) for norm in norms}


def _unpaired(stats: dict[str, pj.BatchStats]) -> dict[str, Any]:
    means = {f"{norm}.mean": one.mean for norm, one in stats.items()}
    return means | {f"{norm}.var": one.variance for norm, one in stats.items()}
