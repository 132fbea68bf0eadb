"""The puppet: the CNN whose kernels a puppeteer generates (v1 Sec. 3.5)."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from puppet_jax.convolution import convolve
from puppet_jax.mirror import for_both_twins, mean_of_twins, with_mirrored
from puppet_jax.puppeteer import Puppeteer

DepthRule = Literal["per_stage", "total", "last"]
Classifier = Literal["linear", "generated"]
_EPSILON = 1e-5


class Layer(NamedTuple):
    """Place of one convolution in a puppet: its stage, its place in the stage, its width, whether pooling precedes."""

    stage: int
    place: int
    channels: int
    pool: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Puppet:
    """Architecture of a puppet: static facts, hashable, no arrays.

    Stages of equal width, 2x2 max-pooling between them (in the papers every stage is wider than the one before); a
    layer is a 'SAME' convolution, batch norm and ReLU; global average pooling and a classifier at the end.

    Attributes:
        channels: width of each stage.
        num_classes: number of logits.
        in_channels: channels of the images.
        kernel_size: size of every kernel, odd.
        depth_rule: "per_stage" (v1): depth D means D layers in each stage. "total" (v2): D layers in all, at least
            one a stage, spread as evenly as can be, later stages first. "last" (ours): D layers in all, one in each
            stage but the last, where a layer costs least, and which has the rest.
        stem: the first stage, where a layer costs most, has one layer at every depth; the rule is for the others
            ("total", "last": for what is left of D).
        residual: within a stage a layer is added to its input (v1 Eq. 3) instead of replacing it.
        dropout: fraction of the activations behind each pooling that training sets to zero, in [0, 1).
        mirror: the second half of every layer's channels mirrors the first: their kernels are those of the first half,
            mirrored left to right, with the halves of their input channels exchanged. A network so built gives an
            image (of even width at every pooling) and its mirror image the same logits; it needs half the kernels,
            half the norms and half the classifier. Every width must be even.
        affine: batch norms have a trainable scale and bias, shared by all depths: two floats a channel of each layer
            of the deepest puppet, stored beside the puppeteer. Without them only statistics are kept.
        classifier: "linear" stores channels[-1] x num_classes + num_classes floats; "generated" stores nothing: one
            more Euler step gives a 1x1 kernel, as the papers' 1.08 MB require.
        max_depth: nests the puppets of all depths up to this one in its puppet: a layer, known by stage and place,
            has the same kernel at every depth, and a shallower puppet leaves out the last layers of its stages
            ("total": those of the first stage behind the stem until one is left, then those of the next; "last": a
            shallower puppet is the beginning of a deeper one). So one set of kernels serves all depths, and puppets can
            share work (`apply_exits`, `EarlyExitPredictor`). None, as in the papers: each depth has kernels of its own,
            one step of its trajectory after the other.
        exit_depth: the nested puppet of this depth, less than `max_depth`, has a classifier of its own and, behind the
            layers that it shares with the deepest, norms of its own (`ExitParams`), whose floats are stored too. None:
            all depths share them.

    References:
        Mirror: Cohen and Welling, Group equivariant convolutional networks, 2016.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    num_classes: int = 10
    in_channels: int = 3
    kernel_size: int = 3
    depth_rule: DepthRule = "per_stage"
    stem: bool = False
    residual: bool = False
    dropout: float = 0.0
    mirror: bool = False
    affine: bool = False
    classifier: Classifier = "linear"
    max_depth: int | None = None
    exit_depth: int | None = None

    def __post_init__(self):
        """Refuses values outside their range."""
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be at least one positive integer, got {self.channels}.")
        if self.stem and len(self.channels) < 2:
            raise ValueError(f"a stem needs at least one stage behind it, got channels {self.channels}.")
        if self.mirror and any(width % 2 for width in self.channels):
            raise ValueError(f"channels must be even with mirror, got {self.channels}.")
        for name in ("num_classes", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {self.kernel_size}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if self.depth_rule not in ("per_stage", "total", "last"):
            raise ValueError(f"depth_rule must be 'per_stage', 'total' or 'last', got {self.depth_rule!r}.")
        if self.classifier not in ("linear", "generated"):
            raise ValueError(f"classifier must be 'linear' or 'generated', got {self.classifier!r}.")
        if self.max_depth is not None and self.max_depth < 1:
            raise ValueError(f"max_depth must be at least 1, got {self.max_depth}.")
        if self.exit_depth is not None and not 1 <= self.exit_depth < (self.max_depth or 1):
            raise ValueError(
                f"exit_depth must be at least 1 and less than max_depth, {self.max_depth}, got {self.exit_depth}."
            )

    @property
    def max_channels(self) -> int:
        """The least C of a puppeteer that generates every kernel in one step."""
        classes = self.num_classes if self.classifier == "generated" else 1
        return max(*self.channels, self.in_channels, classes)

    def free_channels(self, channels: int) -> int:
        """How many of a layer's channels have kernels, norms and classifier weights of their own."""
        return channels // 2 if self.mirror else channels

    def layers_per_stage(self, depth: int) -> tuple[int, ...]:
        """Number of convolutions in each stage at `depth`."""
        if depth < 1 or (self.max_depth is not None and depth > self.max_depth):
            most = "" if self.max_depth is None else f" and at most max_depth, {self.max_depth}"
            raise ValueError(f"depth must be at least 1{most}, got {depth}.")
        stem = (1,) * (len(self.channels) - 1 if self.depth_rule == "last" else self.stem)
        stages = len(self.channels) - len(stem)
        if self.depth_rule == "per_stage":
            return stem + (depth,) * stages
        total = max((self.max_depth or depth) - len(stem), stages)
        counts = [total // stages + (stage >= stages - total % stages) for stage in range(stages)]
        omitted = total - max(depth - len(stem), stages)
        for stage, count in enumerate(counts):
            left_out = min(omitted, count - 1)
            counts[stage] -= left_out
            omitted -= left_out
        return stem + tuple(counts)

    def layers(self, depth: int) -> tuple[Layer, ...]:
        """The convolutions of the puppet of `depth`, in order."""
        counts = self.layers_per_stage(depth)
        return tuple(
            Layer(stage, place, channels, pool=place == 0 and stage > 0)
            for stage, (channels, count) in enumerate(zip(self.channels, counts, strict=True))
            for place in range(count)
        )

    def kernel_shapes(self, depth: int) -> tuple[tuple[int, int, int, int], ...]:
        """HWIO shapes of the kernels that the puppet of `depth` takes, in order; with `mirror` those of a half.

        With `max_depth` all nested puppets take the kernels of the deepest, and each uses its own of them.
        """
        size, previous, shapes = self.kernel_size, self.in_channels, []
        for layer in self.layers(self.max_depth or depth):
            shapes.append((size, size, previous, self.free_channels(layer.channels)))
            previous = layer.channels
        if self.classifier == "generated":
            shapes.append((1, 1, self.free_channels(previous), self.num_classes))
        return tuple(shapes)

    def shared_layers(self, shallow: int, deep: int) -> int:
        """How many layers, from the first on, the puppets of two depths have in common; 0 unless they are nested.

        Norms of its own make a layer of the puppet of `exit_depth` another one.
        """
        if shallow == deep:
            return len(self.layers(deep))
        return min(self._same_layers(shallow, deep), self.first_own(shallow), self.first_own(deep))

    def first_own(self, depth: int) -> int:
        """Place of the first layer with norms of its own in the puppet of `depth`; its number of layers if none has."""
        if self.max_depth is None or depth != self.exit_depth:
            return len(self.layers(depth))
        return self._same_layers(depth, self.max_depth)

    def _same_layers(self, shallow: int, deep: int) -> int:
        if self.max_depth is None:
            return 0
        both = zip(self.layers(shallow), self.layers(deep), strict=False)
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], both)))

    def check_image_size(self, height: int, width: int) -> None:
        """Raises a ValueError if images become smaller than one pixel before the last stage."""
        pools = sum(layer.pool for layer in self.layers(1))
        if min(height, width) >> pools < 1:
            raise ValueError(
                f"Images of {height} x {width} pixels are too small for {pools} poolings; use at least "
                f"{1 << pools} x {1 << pools} or fewer stages than {self.channels}."
            )


class BatchStats(NamedTuple):
    """Statistics of one batch norm, each (channels,) float32; the variance is the biased one.

    Of a mirrored layer those of the first half of the channels, taken over both halves.
    """

    mean: Array
    variance: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExitParams:
    """Trainable floats that the puppet of `exit_depth` has of its own.

    Attributes:
        norm_scale: (channels,) of each layer behind those that it shares with the deepest, or None without `affine`.
        norm_bias: likewise.
        classifier_kernel: (channels, num_classes), or None where it is generated.
        classifier_bias: (num_classes,), or None where the classifier is generated.
    """

    norm_scale: tuple[Float[Array, " channels"], ...] | None = None
    norm_bias: tuple[Float[Array, " channels"], ...] | None = None
    classifier_kernel: Float[Array, "channels classes"] | None = None
    classifier_bias: Float[Array, " classes"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetParams:
    """All trainable floats of a Puppet-CNN: the puppeteer and what the options of `Puppet` store beside it.

    Attributes:
        puppeteer: the generator.
        norm_scale: per stage (layers, channels), or None without `affine`.
        norm_bias: likewise.
        classifier_kernel: (channels, num_classes), or None where it is generated.
        classifier_bias: (num_classes,), or None where the classifier is generated.
        exit: what the puppet of `exit_depth` has instead of these, or None.
    """

    puppeteer: Puppeteer
    norm_scale: tuple[Float[Array, "layers channels"], ...] | None = None
    norm_bias: tuple[Float[Array, "layers channels"], ...] | None = None
    classifier_kernel: Float[Array, "channels classes"] | None = None
    classifier_bias: Float[Array, " classes"] | None = None
    exit: ExitParams | None = None


def init_puppet(key: PRNGKeyArray, puppet: Puppet, puppeteer: Puppeteer, max_depth: int) -> PuppetParams:
    """Trainable floats of a Puppet-CNN.

    Args:
        key: a JAX random key, for a linear classifier.
        puppet: the architecture.
        puppeteer: the generator; its `kernel_size` must suffice for the puppet.
        max_depth: the deepest bucket in use; decides how many affine batch norms are stored.

    Returns:
        `PuppetParams`.

    Raises:
        ValueError: if the puppeteer is too small.
    """
    if puppeteer.kernel_size < puppet.kernel_size:
        raise ValueError(
            f"The puppet needs a kernel_size of at least {puppet.kernel_size}, got a puppeteer of "
            f"{puppeteer.kernel_size}."
        )
    scale = bias = exit_params = None
    if puppet.affine:
        widths = map(puppet.free_channels, puppet.channels)
        shapes = list(zip(puppet.layers_per_stage(max_depth), widths, strict=True))
        scale, bias = tuple(map(jnp.ones, shapes)), tuple(map(jnp.zeros, shapes))
    kernel, logit_bias = _init_classifier(key, puppet)
    if puppet.exit_depth is not None:
        exit_params = _init_exit(jax.random.fold_in(key, 1), puppet, puppet.exit_depth)
    return PuppetParams(
        puppeteer=puppeteer,
        norm_scale=scale,
        norm_bias=bias,
        classifier_kernel=kernel,
        classifier_bias=logit_bias,
        exit=exit_params,
    )


def _init_exit(key: PRNGKeyArray, puppet: Puppet, depth: int) -> ExitParams:
    scale = bias = None
    if puppet.affine:
        own = puppet.layers(depth)[puppet.first_own(depth) :]
        widths = [puppet.free_channels(layer.channels) for layer in own]
        scale, bias = tuple(map(jnp.ones, widths)), tuple(map(jnp.zeros, widths))
    kernel, logit_bias = _init_classifier(key, puppet)
    return ExitParams(norm_scale=scale, norm_bias=bias, classifier_kernel=kernel, classifier_bias=logit_bias)


def _init_classifier(key: PRNGKeyArray, puppet: Puppet) -> tuple[Array, Array] | tuple[None, None]:
    if puppet.classifier == "generated":
        return None, None
    fan_in = puppet.free_channels(puppet.channels[-1])
    bound = fan_in**-0.5
    kernel = jax.random.uniform(key, (fan_in, puppet.num_classes), minval=-bound, maxval=bound)
    return kernel, jnp.zeros(puppet.num_classes)


def fitting_settings(puppet: Puppet, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `init_puppeteer`, in which the puppet's own width and kernel size stand for None."""
    own = {"max_channels": puppet.max_channels, "kernel_size": puppet.kernel_size}
    return {name: own.get(name) if value is None else value for name, value in settings.items()}


def puppet_matrices(params: PuppetParams) -> PuppetParams:
    """Which leaves are matrices, a tree of booleans: those that weight decay and few bits are for.

    Affine norms are none, though they have an axis of layers; works on the result of `jax.eval_shape` too.
    """
    found = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    norms = jax.tree.map(lambda _: False, (params.norm_scale, params.norm_bias))
    return dataclasses.replace(found, norm_scale=norms[0], norm_bias=norms[1])


def init_batch_stats(puppet: Puppet, depth: int) -> tuple[BatchStats, ...]:
    """Zero means and unit variances for every layer of the puppet of `depth`.

    Every depth bucket needs its own: layer n of a deeper puppet has another kernel and sees other activations.
    """
    widths = [puppet.free_channels(layer.channels) for layer in puppet.layers(depth)]
    return tuple(BatchStats(jnp.zeros(width), jnp.ones(width)) for width in widths)


def apply_puppet(
    puppet: Puppet,
    params: PuppetParams,
    batch_stats: Sequence[BatchStats] | None,
    kernels: Sequence[Array],
    images: ArrayLike,
    depth: int,
    dtype: jnp.dtype = jnp.float32,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "batch classes"], tuple[BatchStats, ...]]:
    """Logits of a batch that shares one depth.

    Args:
        puppet: the architecture (static).
        params: the trainable floats; the puppeteer among them is not used here.
        batch_stats: running statistics, which normalise (evaluation); or None, then the statistics of this batch
            normalise and are returned for the caller to average (training).
        kernels: from `generate_kernels` with `puppet.kernel_shapes(depth)`: (kh, kw, c_in, c_out) each, shared by
            the batch; or, from `generate_kernels` under `vmap`, (sets, kh, kw, c_in, c_out) each, where the number of
            sets divides the batch and each set serves as many images, in order.
        images: (batch, height, width, in_channels), uint8 or floating in [0, 1].
        depth: the depth bucket (static).
        dtype: of activations and convolutions; statistics and logits are float32.
        key: a JAX random key, for dropout; nothing is dropped without one.

    Returns:
        `(logits, stats)`: (batch, num_classes) float32, and the statistics used, one `BatchStats` a layer.

    Raises:
        ValueError: if images, floats or kernels do not fit the architecture.
    """
    stats = None if batch_stats is None else {depth: batch_stats}
    return apply_exits(puppet, params, stats, kernels, images, (depth,), dtype, key)[depth]


def apply_exits(
    puppet: Puppet,
    params: PuppetParams,
    batch_stats: Mapping[int, Sequence[BatchStats]] | None,
    kernels: Sequence[Array],
    images: ArrayLike,
    depths: Sequence[int],
    dtype: jnp.dtype = jnp.float32,
    key: PRNGKeyArray | None = None,
    detach: bool = False,
) -> dict[int, tuple[Float[Array, "batch classes"], tuple[BatchStats, ...]]]:
    """Logits of a batch from nested puppets of several depths; layers that they share run once.

    Args:
        puppet: the architecture (static); with `max_depth` if there are several depths.
        params: as for `apply_puppet`, like `kernels`, `images`, `dtype` and `key`.
        batch_stats: running statistics of each depth, or None (training). Of a shared layer those of the depth that
            comes first are used.
        kernels: from `generate_kernels` with `puppet.kernel_shapes(puppet.max_depth)`.
        images: the batch.
        depths: which puppets (static), in the order in which they run.
        dtype: of activations and convolutions.
        key: for dropout.
        detach: the logits of the puppet of `exit_depth` have a gradient with respect to its own floats alone
            (`ExitParams`), so that the other puppets train as they would without it.

    Returns:
        For each depth what `apply_puppet` returns.

    Raises:
        ValueError: if there are several depths and the puppets are not nested, `detach` is given without the puppet
            that it is for, or images, floats or kernels do not fit the architecture.

    Example:
        >>> import jax, numpy as np, puppet_jax as pj
        >>> puppet = pj.Puppet(channels=(4, 8), max_depth=3)
        >>> puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=8)
        >>> params = pj.init_puppet(jax.random.key(1), puppet, puppeteer, max_depth=3)
        >>> kernels = pj.generate_kernels(puppeteer, 4.5, puppet.kernel_shapes(3))
        >>> exits = pj.apply_exits(puppet, params, None, kernels, np.zeros((2, 8, 8, 3), np.uint8), (1, 3))
        >>> {depth: logits.shape for depth, (logits, stats) in exits.items()}
        {1: (2, 10), 3: (2, 10)}
    """
    if len(set(depths)) > 1 and puppet.max_depth is None:
        raise ValueError(f"puppets of depths {tuple(depths)} share kernels only if max_depth is given, got None.")
    if detach and puppet.exit_depth not in depths:
        raise ValueError(
            f"detach is for the puppet of exit_depth, {puppet.exit_depth}, which is not one of depths {tuple(depths)}."
        )
    x = check_inputs(puppet, params, kernels, images, max(depths)).astype(dtype)
    found: dict[tuple[tuple[Layer, bool], ...], tuple[Array, tuple[BatchStats, ...]]] = {(): (x, ())}
    outputs = {}
    for depth in depths:
        first_own = puppet.first_own(depth)
        cut = lax.stop_gradient if detach and depth == puppet.exit_depth else lambda tree: tree
        own_kernels = cut(kernels)
        path = tuple((layer, n >= first_own) for n, layer in enumerate(puppet.layers(depth)))
        stats = None if batch_stats is None else batch_stats[depth]
        for n in range(len(path)):
            if path[: n + 1] not in found:
                x, used = found[path[:n]]
                x = cut(x) if n == first_own else x
                taken = own_kernels if n >= first_own else kernels
                x, own = run_layers(puppet, params, stats, taken, x, depth, n, n + 1, key)
                found[path[: n + 1]] = x, used + own
        x, used = found[path]
        x = cut(x) if first_own == len(path) else x
        outputs[depth] = classify(puppet, params, own_kernels, x, depth), used
    return outputs


def check_inputs(
    puppet: Puppet, params: PuppetParams, kernels: Sequence[Array], images: ArrayLike, depth: int
) -> Float[Array, "batch height width channels"]:
    """The images as the first layer takes them; raises a ValueError if they, the floats or the kernels do not fit."""
    parts = (
        ("affine norms", puppet.affine, params.norm_scale),
        ("weights of a classifier", puppet.classifier == "linear", params.classifier_kernel),
        ("floats of an exit's own", puppet.exit_depth is not None, params.exit),
    )
    for name, wanted, part in parts:
        if wanted != (part is not None):
            raise ValueError(
                f"params must {'' if wanted else 'not '}have {name} for this puppet; make them with init_puppet of "
                "the same puppet."
            )
    if jnp.ndim(images) != 4 or jnp.shape(images)[-1] != puppet.in_channels:
        raise ValueError(
            f"images must have shape (batch, height, width, {puppet.in_channels}), got {jnp.shape(images)}."
        )
    if tuple(kernel.shape[-4:] for kernel in kernels) != puppet.kernel_shapes(depth):
        raise ValueError(
            f"kernels must have the {len(puppet.kernel_shapes(depth))} shapes of puppet.kernel_shapes({depth}), "
            f"got {[kernel.shape for kernel in kernels]}."
        )
    puppet.check_image_size(*jnp.shape(images)[1:3])
    return centred(images)


def run_layers(
    puppet: Puppet,
    params: PuppetParams,
    batch_stats: Sequence[BatchStats] | None,
    kernels: Sequence[Array],
    x: Float[Array, "batch height width channels"],
    depth: int,
    first: int = 0,
    last: int | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "batch h w c"], tuple[BatchStats, ...]]:
    """Activations behind layers `first` to `last` - 1 of the puppet of `depth`, and the statistics used there.

    `batch_stats` are those of all its layers, or None; the other arguments are those of `apply_puppet`.
    """
    places, first_own = puppet.layers(puppet.max_depth or depth), puppet.first_own(depth)
    used = []
    for n, layer in list(enumerate(puppet.layers(depth)))[first:last]:
        if layer.pool:
            x = _max_pool(x)
            if key is not None and puppet.dropout:
                x = _drop(jax.random.fold_in(key, n), x, puppet.dropout)
        kernel = kernels[places.index(layer)]
        kernel = with_mirrored(kernel, mirrored_input=n > 0) if puppet.mirror else kernel
        y = _conv(x, kernel.astype(x.dtype))
        stats = _statistics(y, puppet.mirror) if batch_stats is None else batch_stats[n]
        used.append(stats)
        y = jax.nn.relu(_batch_norm(y, stats, *_affine(params, layer, n - first_own), puppet.mirror))
        x = x + y if puppet.residual and layer.place > 0 else y
    return x, tuple(used)


def classify(
    puppet: Puppet,
    params: PuppetParams,
    kernels: Sequence[Array],
    x: Float[Array, "batch height width channels"],
    depth: int,
) -> Float[Array, "batch classes"]:
    """Logits of the activations behind the last layer of the puppet of `depth`."""
    features = mean_of_twins(x.astype(jnp.float32).mean(axis=(1, 2)), puppet.mirror)
    precision = lax.Precision.HIGHEST
    if puppet.classifier == "linear":
        own = params.exit if depth == puppet.exit_depth else params
        assert own is not None and own.classifier_kernel is not None and own.classifier_bias is not None
        return jnp.dot(features, own.classifier_kernel, precision=precision) + own.classifier_bias
    weights = kernels[-1].reshape(-1, *kernels[-1].shape[-2:])  # (sets, channels, classes)
    by_set = features.reshape(len(weights), -1, features.shape[-1])
    logits = jnp.einsum("sbi,sio->sbo", by_set, weights, precision=precision)
    return logits.reshape(-1, puppet.num_classes)


def centred(images: ArrayLike) -> Float[Array, "batch height width channels"]:
    """Images of 8 bits or in [0, 1] as float32 of about zero mean and unit variance: 4 x - 2."""
    x = jnp.asarray(images)
    return x.astype(jnp.float32) * (4 / 255 if x.dtype == jnp.uint8 else 4) - 2


def _affine(params: PuppetParams, layer: Layer, own: int) -> tuple[Array | float, Array | float]:
    """Scale and bias behind a layer; `own` is its place among those with norms of the exit's own, else negative."""
    if params.norm_scale is None or params.norm_bias is None:
        return 1.0, 0.0
    if own >= 0:
        assert params.exit is not None and params.exit.norm_scale is not None and params.exit.norm_bias is not None
        return params.exit.norm_scale[own], params.exit.norm_bias[own]
    return params.norm_scale[layer.stage][layer.place], params.norm_bias[layer.stage][layer.place]


def _statistics(x: Float[Array, "batch height width channels"], mirror: bool) -> BatchStats:
    x = x.astype(jnp.float32)
    mean = mean_of_twins(x.mean(axis=(0, 1, 2)), mirror)
    variance = jnp.square(x - for_both_twins(mean, mirror)).mean(axis=(0, 1, 2))
    return BatchStats(mean, mean_of_twins(variance, mirror))


def _batch_norm(x: Array, stats: BatchStats, scale: Array | float, bias: Array | float, mirror: bool) -> Array:
    factor = scale * lax.rsqrt(stats.variance + _EPSILON)
    shift = bias - stats.mean * factor
    return x * for_both_twins(factor, mirror).astype(x.dtype) + for_both_twins(shift, mirror).astype(x.dtype)


def _max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
    """2x2 max-pooling; an odd last row or column is dropped. Reshape and max: both directions fast on a CPU."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def _drop(key: PRNGKeyArray, x: Array, fraction: float) -> Array:
    """Zero in place of a fraction of the activations, the others scaled to the same mean (Srivastava et al. 2014)."""
    return jnp.where(jax.random.bernoulli(key, fraction, x.shape), 0, x / (1 - fraction)).astype(x.dtype)


def _conv(x: Float[Array, "batch height width c_in"], kernel: Array) -> Float[Array, "batch height width c_out"]:
    """'SAME' convolution, stride 1; one kernel (rank 4) or several that serve equal parts of the batch (rank 5)."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return convolve(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, precision=_precision(x.dtype))


def _precision(dtype: jnp.dtype) -> lax.Precision:
    # float32 means float32: GPUs round the factors to ten bits by default. Who wants speed asks for bfloat16.
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT
