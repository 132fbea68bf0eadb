"""Logits of images of any complexities: kernels are generated, kept where images share them, and run."""

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike

from puppet_jax.accounting import puppet_macs
from puppet_jax.adaptation import depth_interval
from puppet_jax.architecture import Puppet
from puppet_jax.checks import are_finite, as_integer, as_native, check_floating, check_image_size, check_images
from puppet_jax.complexity import CalibratedComplexity, complexity as entropy_complexity
from puppet_jax.consistency import check_params
from puppet_jax.cpu.fast_convolution import is_of_cpu
from puppet_jax.folded import FoldedPuppet, apply_folded, fold
from puppet_jax.puppet import BatchStats, PuppetParams, apply_puppet, centred
from puppet_jax.routing import (
    Adaptation,
    Group,
    batch_sharding,
    check_adaptation,
    complexities,
    group_sizes,
    groups_of_equals,
    make_groups,
    most_padding,
    one_an_image,
    spread,
    start_groups,
)
from puppet_jax.trajectory import for_each_level, generate_kernels


class KernelBank:
    """Generated kernels by depth and complexity; the least recently used set makes room for a new one.

    A cache is the one kind of state that a pure function cannot hold; this object holds it, and nothing else does.

    Args:
        puppet: the architecture.
        puppeteer: the generator, of the kind that `generate` takes. A bank belongs to one set of parameters: make a
            new bank after an update.
        max_sets: how many sets of kernels are kept, at least 1. A set of the papers' puppet takes 63 MB in float32.
        generate: from (puppeteer, h, shapes) to kernels; another function serves another kind of puppeteer.
        keep: from (depth, kernels) to what is kept of a set; the kernels themselves if not given.

    Threads may share a bank. Two that want the same new set at once may both generate it.
    """

    def __init__(
        self,
        puppet: Puppet,
        puppeteer: Any,
        max_sets: int = 128,
        generate: Callable[..., tuple[Array, ...]] = generate_kernels,
        keep: Callable[[int, tuple[Array, ...]], Any] = lambda depth, kernels: kernels,
    ):
        self.puppet = puppet
        self.puppeteer = puppeteer
        self.max_sets = as_integer("max_sets", max_sets)
        self.generate = generate
        self.keep = keep

        @functools.lru_cache(self.max_sets)  # of no method: the bank would hold itself, and wait for the collector
        def kept(depth: int, h: float) -> Any:
            kernels = generate(puppeteer, h, puppet.kernel_shapes(depth))
            _check_finite(kernels, depth, h)
            return keep(depth, kernels)

        self._kept = kept

    def __len__(self) -> int:
        """Number of sets held."""
        return self._kept.cache_info().currsize

    def __call__(self, depth: int, h: float) -> Any:
        """What is kept of the kernels of the puppet of `depth`, generated at complexity `h` (nats) or found here.

        Raises:
            FloatingPointError: if a kernel is not finite; on a CPU the puppet would answer with finite logits.
        """
        return self._kept(depth, float(h))


def folding(
    puppet: Puppet, params: PuppetParams, batch_stats: Mapping[int, Sequence[BatchStats]], dtype: DTypeLike
) -> Callable[[int, tuple[Array, ...]], FoldedPuppet]:
    """What a bank keeps in place of the kernels of a depth: the puppet with them and the statistics folded in.

    A function that does not hold its predictor, which holds the bank.
    """

    def folded(depth: int, kernels: tuple[Array, ...]) -> FoldedPuppet:
        return fold(puppet, params, batch_stats[depth], kernels, depth, dtype, in_halves=is_of_cpu(dtype))

    return folded


def _check_finite(kernels: Sequence[Array], depth: int, h: float) -> None:
    finite = np.asarray(are_finite(kernels))
    if not finite.all():
        raise FloatingPointError(
            f"kernel {finite.argmin()} of depth {depth} at complexity {h} is not finite; the puppeteer's "
            "parameters hold NaN or are far too large. Take them from before the training failed."
        )


@functools.cache
def _forward_shared(puppet: Puppet, depth: int, dtype: Any) -> Callable[[FoldedPuppet, ArrayLike], Array]:
    """One compiled function a depth: with these as static arguments each call would take a while longer."""

    @jax.jit
    def forward_shared(folded, images):
        puppet.check_shapes(images.shape, puppet.kernel_shapes(depth), depth)
        return apply_folded(folded, centred(images).astype(dtype))

    return forward_shared


@functools.partial(jax.jit, static_argnames=("puppet", "depth", "dtype", "generate"))
def _forward_own(puppet, params, batch_stats, h, images, *, depth, dtype, generate):
    shapes = puppet.kernel_shapes(depth)
    # an image that was routed to the nearest trained depth counts as the nearest complexity of that depth
    low, high = depth_interval(depth)
    h = jnp.clip(h, low, high)
    kernels = for_each_level(lambda one: generate(params.puppeteer, one, shapes), h)
    return apply_puppet(puppet, params, batch_stats, kernels, images, depth, dtype)[0]


class Predictor:
    """Logits of images of any complexities: routes, generates, runs and puts back in order.

    One compiled program per (depth, padded size), and one generator per depth. An image's logits do not depend on
    the other images of its batch.

    Args:
        puppet: the architecture.
        params: its trainable floats. Where they lie whole on each device of a mesh of Auto axes, batches are
            split over these.
        batch_stats: running statistics of each trained depth; its keys are the depths in use.
        adaptation: "level": images of a level of complexity share the kernels of its centre, generated once and kept
            in a bank. "sample": every image has kernels of its own, generated each time.
        num_levels: levels in each depth bucket, for "level".
        complexity: the measure, see `complexities`.
        dtype: of activations and convolutions.
        max_sets: capacity of the bank.
        generate: from (params.puppeteer, h, shapes) to kernels; another function serves another kind of puppeteer.
        image_size: (height, width) of the images that the puppet was trained on, and no others are taken; None takes
            any size.

    Raises:
        TypeError, ValueError: if an argument is not as above, or floats or statistics do not fit the architecture.
    """

    def __init__(
        self,
        puppet: Puppet,
        params: PuppetParams,
        batch_stats: Mapping[int, Sequence[BatchStats]],
        *,
        adaptation: Adaptation = "level",
        num_levels: int = 64,
        complexity: Callable[[ArrayLike], ArrayLike] = entropy_complexity,
        dtype: DTypeLike = jnp.float32,
        max_sets: int = 128,
        generate: Callable[..., tuple[jax.Array, ...]] = generate_kernels,
        image_size: tuple[int, int] | None = None,
    ):
        check_adaptation(adaptation)
        check_floating("dtype", dtype)
        self.puppet = puppet
        self.params = params
        self.batch_stats = {
            as_integer("a depth of batch_stats", depth): tuple(stats) for depth, stats in batch_stats.items()
        }
        for depth, stats in self.batch_stats.items():
            check_params(puppet, params, depth, stats)
        self.num_levels = as_integer("num_levels", num_levels) if adaptation == "level" else None
        self.complexity = complexity
        self.dtype = dtype
        self.generate = generate
        self.image_size = image_size
        self._sharding, self._cut = batch_sharding(params), (group_sizes(), most_padding())
        self._forward = functools.cache(functools.partial(_forward_shared, puppet, dtype=jnp.dtype(dtype)))
        folded = folding(puppet, params, self.batch_stats, dtype)
        self.bank = KernelBank(puppet, params.puppeteer, max_sets, generate, folded)

    @functools.cached_property
    def depths(self) -> tuple[int, ...]:
        """The depths in use."""
        return tuple(sorted(self.batch_stats))

    def __call__(self, images: ArrayLike, h: ArrayLike | None = None, *, depth: int | None = None) -> np.ndarray:
        """Logits of a batch.

        Args:
            images: (batch, height, width, channels), uint8 or floating in [0, 1].
            h: (batch,) complexities where they are known already, else they are computed.
            depth: one of `depths` for all images, whatever their complexity; their kernels are those of the nearest
                complexity of that depth.

        Returns:
            (batch, num_classes) float32, in the order of `images`.

        Raises:
            ValueError: if the images, or the complexities, are not as above: which, and what to do.
            FloatingPointError: if a kernel is not finite.
        """
        return self._start(images, h, depth)[0]()

    def route(
        self, images: ArrayLike, h: ArrayLike | None = None, *, depth: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits as above, and the depth (batch,) of the puppet that each image ran through."""
        finish, groups = self._start(images, h, depth)
        logits = finish()
        depths = np.empty(len(logits), np.int64)
        for group in groups:
            depths[group.indices] = group.depth
        return logits, depths

    def stream(self, batches: Iterable[ArrayLike], *, depth: int | None = None) -> Iterator[np.ndarray]:
        """Logits of one batch after the other; each is sent and dispatched before those of the last are awaited.

        So the host reads, measures and sends the next images while the device computes.

        Args:
            batches: images each, as above; best all of one size. An array may be filled anew for the next.
            depth: as above.

        Yields:
            (batch, num_classes) float32 for each, in order.

        Raises:
            ValueError: as above, once the batches before that one have been answered.

        Example:
            >>> import numpy as np, puppet_jax as pj
            >>> predictor = pj.load_pretrained("cifar10-c64-4bit").predictor()
            >>> batches = (np.zeros((size, 32, 32, 3), np.uint8) for size in (4, 4, 2))
            >>> [logits.shape for logits in predictor.stream(batches)]
            [(4, 10), (4, 10), (2, 10)]
        """
        waiting: Callable[[], np.ndarray] | None = None
        for images in batches:
            try:
                finish, _ = self._start(images, None, depth, refilled=True)
            except Exception:  # only once the batch before it has its answer
                if waiting is not None:
                    yield waiting()
                raise
            if waiting is not None:
                yield waiting()
            waiting = finish
        if waiting is not None:
            yield waiting()

    def _start(
        self, images: ArrayLike, h: ArrayLike | None, depth: int | None, refilled: bool = False
    ) -> tuple[Callable[[], np.ndarray], Sequence[Group]]:
        """What awaits the logits of a batch that is on its way, and its groups; `refilled`: others take its place."""
        depth = None if depth is None else as_integer("depth", depth, least=-(2**31))
        if depth is not None and depth not in self.batch_stats:
            raise ValueError(
                f"depth must be one of {self.depths}, the depths with statistics, got {depth}. "
                "`estimate_batch_stats` and `PretrainedPuppet.at_depth` make statistics of others."
            )
        depths = self.depths if depth is None else (depth,)
        measured = h is None and self._constant is None  # which looks at the values of the images as well
        images = np.asarray(as_native(images) if measured else check_images(images))
        check_image_size(images, self.image_size)
        if measured:
            h = complexities(images, self.complexity)
        groups: Sequence[Group]
        if h is None:
            groups = groups_of_equals(self._constant, len(images), depths, self.num_levels, *self._cut)
        else:
            h = one_an_image(h, len(images))
            groups = make_groups(h, depths, self.num_levels, *self._cut)
        if len(groups) == 1:  # it holds all images in their order
            images = images.copy() if refilled else images  # a CPU reads an array of NumPy where it lies, and later
            output, count = self._run(groups[0], images, h), len(images)
            return lambda: np.asarray(output)[:count].copy(), groups
        return start_groups(groups, lambda group: self._run(group, images, h)), groups

    def deepest(self, *, macs: float | None = None, seconds: float | None = None) -> int:
        """The deepest of `depths` that a budget allows, for `depth=`.

        Args:
            macs: multiply-accumulates of an image through the puppet; its kernels are those of the bank.
            seconds: of one image alone, measured on this device now, the median of 20 calls.

        Raises:
            ValueError: unless one budget is given, if no depth meets it, or if the size of the images is not known.

        Example:
            >>> import puppet_jax as pj
            >>> predictor = pj.load_pretrained("cifar10-adaptive").predictor()
            >>> predictor.depths, predictor.deepest(macs=32e6)
            ((5, 6, 7), 6)
        """
        if (macs is None) == (seconds is None):
            raise ValueError(f"give one budget, macs or seconds, got macs={macs} and seconds={seconds}.")
        if self.image_size is None:
            raise ValueError("the predictor takes images of any size; make it with image_size=(height, width).")
        costs: dict[int, float]
        if macs is not None:
            name, budget = "macs", macs
            costs = {depth: puppet_macs(self.puppet, depth, self.image_size) for depth in self.depths}
        else:
            assert seconds is not None
            name, budget = "seconds", seconds
            costs = {depth: self._seconds(depth, self.image_size) for depth in self.depths}
        affordable = [depth for depth, cost in costs.items() if cost <= budget]
        if not affordable:
            least = min(costs, key=lambda depth: costs[depth])
            raise ValueError(f"no depth meets {name}={budget:g}; depth {least} takes the least, {costs[least]:.3g}.")
        return max(affordable)

    def _seconds(self, depth: int, image_size: tuple[int, int]) -> float:
        image = np.zeros((1, *image_size, self.puppet.in_channels), np.uint8)
        h = np.array(depth_interval(depth)[:1])
        self(image, h, depth=depth)  # compiles, and fills the bank
        times = []
        for _ in range(20):
            started = time.perf_counter()
            self(image, h, depth=depth)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    @functools.cached_property
    def _constant(self) -> float | None:
        """The complexity of all images, whose kernels are shared: none of them needs to be measured then."""
        measure = self.complexity
        if self.num_levels is None or not isinstance(measure, CalibratedComplexity) or measure.constant is None:
            return None
        return np.float32(measure.constant).item()

    def _run(self, group: Group, images: np.ndarray, h: np.ndarray | None) -> jax.Array:
        if group.h is None:
            assert h is not None
            padded, stats = group.padded_indices(), self.batch_stats[group.depth]
            part, static = spread(images[padded], self._sharding), {"depth": group.depth, "dtype": self.dtype}
            return _forward_own(self.puppet, self.params, stats, h[padded], part, generate=self.generate, **static)
        whole = len(group.indices) == len(images) == group.size  # indices rise: these are the images as they are
        part = spread(images if whole else images[group.padded_indices()], self._sharding)
        return self._forward(group.depth)(self.bank(group.depth, group.h), part)
