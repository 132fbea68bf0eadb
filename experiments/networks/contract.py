"""What the training loop asks of a network, and what a puppeteer is made of."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

import puppet_jax as pj
from experiments.kernels import CombinedKernels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """Static facts of a puppeteer; arguments of `puppet_jax.init_puppeteer`."""

    max_channels: int | None
    kernel_size: int | None
    initial_state: Literal["seeded", "constant", "learned"] = "seeded"
    seed: int = 0
    scale: float = 0.1
    kernels_from: Literal["state", "velocity"] = "state"


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
        self,
        params: Any,
        images: Array,
        h: Array,
        depth: int,
        dtype: jnp.dtype,
        key: Array | None = None,
        detach: bool = False,
    ) -> dict[int, tuple[Array, Any]]:
        """What `forward` gives in training, of every depth that is trained together with `depth`.

        `detach`: a shallow puppet with an exit of its own trains that alone.
        """
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
