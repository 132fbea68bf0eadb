"""A trained model as one file (safetensors): what is stored, and the size that is claimed."""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import puppet_jax as pj
from experiments.errors import RunError
from experiments.kernels import CombinedKernels, random_signs
from experiments.networks import Network, Predictor, read_network
from puppet_jax import seeded
from puppet_jax.model_file import load_tree, save_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained network with all that its use needs.

    Attributes:
        network: architecture, and the images it takes.
        params: trainable floats.
        batch_stats: running statistics of each trained depth.
        class_names: one name a class.
        adaptation: "level" or "sample".
        num_slices: slices of complexity in a depth bucket.
        complexity: the measure that it was trained with.
        step: of training, at which it was taken.
        bits: of a stored weight; below 32 the params have the values that `puppet_jax.fake_quantize` gives.
        threshold: the doubt that sends an image on to the deep puppet, of a network with exits.
    """

    network: Network
    params: Any
    batch_stats: dict[int, Any]
    class_names: tuple[str, ...]
    adaptation: str
    num_slices: int
    complexity: pj.CalibratedComplexity
    step: int
    bits: Literal[32, 8, 4] = 32
    threshold: float | None = None

    def stored_bytes(self) -> tuple[int, int]:
        """Bytes of the generator, and of all trainable floats."""
        generator, params = self.network.generator_params(self.params), self.params
        if self.bits == 32:
            return pj.num_bytes(generator), pj.num_bytes(params)
        matrices = jax.tree.map(lambda leaf: leaf.ndim > 1, generator)
        return (
            pj.quantized_bytes(generator, pj.choose_bits(generator, matrices, self.bits)),
            pj.quantized_bytes(params, self.network.bits(params, self.bits)),
        )

    def predictor(self, **overrides: Any) -> Predictor:
        """A predictor as the model was trained, save for `overrides`."""
        settings: dict[str, Any] = {
            "adaptation": self.adaptation,
            "num_slices": self.num_slices,
            "complexity": self.complexity,
        }
        if self.threshold is not None:
            settings["threshold"] = self.threshold
        settings.update(overrides)
        return self.network.predictor(self.params, self.batch_stats, **settings)


def pattern_hash(generator: pj.Puppeteer | CombinedKernels | None) -> str | None:
    """SHA-256 of the frozen pseudo-random numbers that a stored generator means nothing without."""
    if generator is None:
        return None
    if isinstance(generator, CombinedKernels):
        return hashlib.sha256(np.asarray(random_signs((1 << 16,), generator.seed, 0)).tobytes()).hexdigest()
    return seeded.pattern_hash(generator.max_channels, generator.kernel_size, generator.seed)


def save_model(path: Path, model: Model) -> None:
    """Writes `model` to `path` at once: a reader sees the old file or the new one, never half of one."""
    meta = {
        "network": model.network.describe(),
        "pattern_sha256": pattern_hash(model.network.generator_params(model.params)),
        "depths": sorted(model.batch_stats),
        "class_names": model.class_names,
        "adaptation": model.adaptation,
        "num_slices": model.num_slices,
        "complexity": dataclasses.asdict(model.complexity),
        "step": model.step,
        "bits": model.bits,
        "threshold": model.threshold,
    }
    save_tree(path, (_stored(model.network, model.bits, model.params), model.batch_stats), meta)


def load_model(path: Path) -> Model:
    """Reads what `save_model` wrote.

    Raises:
        RunError: if there is no such file, it is damaged or no model of ours, or this installation generates
            another seeded pattern than the one it was trained with.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist; a run writes it when its first epoch ends.")
    try:
        (stored, batch_stats), meta = load_tree(path, lambda meta: _expected(meta)[1])
    except ValueError as error:
        raise RunError(f"{error}; train or copy it again.") from None
    fields = _fields(meta)
    network, bits, params = fields["network"], fields["bits"], stored
    if bits < 32:
        like, _ = _expected(meta)
        params = pj.dequantize_tree(stored, like, network.bits(like, bits))
    if pattern_hash(network.generator_params(params)) != meta["pattern_sha256"]:
        raise RunError(
            f"{path} was trained with another seeded pattern than this installation generates, so its kernels cannot "
            "be regenerated; use the version of puppet-jax that wrote it."
        )
    return Model(params=params, batch_stats=batch_stats, **fields)


def _fields(meta: dict[str, Any]) -> dict[str, Any]:
    """What a model file says of `Model` beside its arrays."""
    meta["pattern_sha256"]  # must be there
    return {
        "network": read_network(meta["network"]),
        "class_names": tuple(meta["class_names"]),
        "complexity": pj.CalibratedComplexity(**meta["complexity"]),
        **{name: meta[name] for name in ("adaptation", "num_slices", "step", "bits")},
        "threshold": meta["threshold"] if meta["network"].get("exits") else None,
    }


def _expected(meta: dict[str, Any]) -> tuple[Any, Any]:
    """Shapes: of the trainable floats; and of what the file holds, those as stored and the statistics."""
    fields, depths = _fields(meta), [int(depth) for depth in meta["depths"]]
    network = fields["network"]
    params, stats = jax.eval_shape(
        lambda: (network.init(0, depths), {depth: network.init_stats(depth) for depth in depths})
    )
    return params, (jax.eval_shape(functools.partial(_stored, network, fields["bits"]), params), stats)


def _stored(network: Network, bits: Literal[32, 8, 4], params: Any) -> Any:
    """What the file holds of trainable floats: in few bits, or as they are."""
    return params if bits == 32 else pj.quantize_tree(params, network.bits(params, bits))
