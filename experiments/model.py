"""A trained network with all that its use needs, and its file."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import puppet_jax as pj
from experiments.errors import RunError
from experiments.networks import Network, Predictor, describe_network, read_network
from puppet_jax import extras
from puppet_jax.extras.generators.frozen_basis import FrozenKernels
from puppet_jax.extras.generators.pieces import pattern_hash as frozen_hash
from puppet_jax.extras.generators.shared import SharedFloats
from puppet_jax.model_file import load_model as load_file, save_model as save_file
from puppet_jax.seeded import pattern_hash as seeded_hash


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained network with all that its use needs.

    Attributes:
        network: architecture, and the images it takes.
        params: trainable floats.
        batch_stats: statistics of each trained depth.
        class_names: one name a class.
        adaptation: "level" or "sample", see `pj.Predictor`.
        num_levels: levels of complexity within a depth.
        complexity: the measure that it was trained with.
        step: of training, at which it was taken.
        bits: of a stored weight; below 32 the params have the values that `extras.fake_quantize` gives.
        threshold: of a network with early exits: the confidence below which an image is sent on, or the entropies below
            which it leaves; else None.
    """

    network: Network
    params: Any
    batch_stats: dict[int, Any]
    class_names: tuple[str, ...]
    adaptation: Literal["level", "sample"]
    num_levels: int
    complexity: pj.CalibratedComplexity
    step: int
    bits: Literal[32, 8, 4] = 32
    threshold: float | tuple[float, ...] | None = None

    def stored_bytes(self) -> tuple[int, int]:
        """Bytes of the generator, and of all trainable floats."""
        generator, params = self.network.generator(self.params), self.params
        if self.bits == 32:
            return pj.num_bytes(generator), pj.num_bytes(params)
        bits = bits_of(self.network, params, self.bits)
        own = jax.tree.map(int, self.network.generator(jax.tree.map(np.asarray, bits)))
        return extras.quantized_bytes(generator, own), extras.quantized_bytes(params, bits)

    def predictor(self, **overrides: Any) -> Predictor:
        """A predictor as the model was trained, save for `overrides`."""
        settings: dict[str, Any] = {
            "adaptation": self.adaptation,
            "num_levels": self.num_levels,
            "complexity": self.complexity,
        }
        if self.threshold is not None:
            settings["threshold"] = self.threshold
        return self.network.predictor(self.params, self.batch_stats, **settings | overrides)


def bits_of(network: Network, params: Any, bits: Any) -> Any:
    """The bits of each leaf once stored, see `extras.choose_bits`."""
    return extras.choose_bits(params, network.matrices(params), bits)


def save_model(path: Path, model: Model) -> None:
    """Writes `model` to `path` at once: a reader sees the old file or the new one, never half of one."""
    description = {
        "network": describe_network(model.network),
        "pattern_sha256": pattern_hash(model.network.generator(model.params)),
        "depths": sorted(model.batch_stats),
        "class_names": list(model.class_names),
        "adaptation": model.adaptation,
        "num_levels": model.num_levels,
        "complexity": dataclasses.asdict(model.complexity),
        "step": model.step,
        "bits": model.bits,
        "threshold": model.threshold,
    }
    stored = model.params
    if model.bits < 32:
        stored = extras.quantize_tree(stored, bits_of(model.network, stored, model.bits))
    save_file(path, (stored, model.batch_stats), description)


def load_model(path: Path) -> Model:
    """Reads what `save_model` wrote.

    Raises:
        RunError: if there is no such file, it is damaged or no model of ours, or this installation generates
            another frozen pattern than the one it was trained with.
    """

    def like(described: dict[str, Any]) -> Any:
        network, depths = read_network(described["network"]), described["depths"]
        return jax.eval_shape(lambda: (network.init(0, depths), {depth: network.init_stats(depth) for depth in depths}))

    try:
        (params, batch_stats), described = load_file(path, like)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; a run writes it when its first epoch ends.") from None
    except ValueError as error:
        raise RunError(f"{error} If it is damaged, train or copy it again.") from None
    network = read_network(described["network"])
    if pattern_hash(network.generator(params)) != described["pattern_sha256"]:
        raise RunError(
            f"{path} was trained with another frozen pattern than this installation generates, so its kernels cannot "
            "be made again; use the version of puppet-jax that wrote it."
        )
    return Model(
        network=network,
        params=params,
        batch_stats=batch_stats,
        class_names=tuple(described["class_names"]),
        num_levels=described["num_levels"],
        complexity=pj.CalibratedComplexity(**described["complexity"]),
        threshold=tuple(described["threshold"]) if isinstance(described["threshold"], list) else described["threshold"],
        **{name: described[name] for name in ("adaptation", "step", "bits")},
    )


def pattern_hash(generator: Any) -> str | None:
    """SHA-256 of the frozen pseudo-random numbers that a stored generator means nothing without."""
    if isinstance(generator, pj.Puppeteer):
        return seeded_hash(generator.max_channels, generator.kernel_size, generator.seed)
    return frozen_hash(generator.seed) if isinstance(generator, FrozenKernels | SharedFloats) else None
