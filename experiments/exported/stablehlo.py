"""Programs in StableHLO, as `jax.export` writes them: any batch size, every platform."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from experiments.exported.layers import at_level, is_by_level, run
from experiments.exported.plan import Program, expanded, layers_at
from experiments.model import Model

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def program_bytes(model: Model, program: Program, generate: bool) -> bytes:
    """The program of one depth, from images to logits.

    Its first argument is `images`, (batch, height, width, channels) float32 in [0, 1]. Where the program has several
    sets of kernels, the second chooses one: `level`, () int32; or with `generate` the complexity `h`, () float32.

    Args:
        model: the model.
        program: from `plan`.
        generate: the program holds the generator and makes the kernels; else it holds the kernels.

    Raises:
        RunError: if kernels cannot be made beforehand.
    """
    images = jax.ShapeDtypeStruct(_image_batch(model), jnp.float32)
    if not generate:
        layers = expanded(model, program)
        if is_by_level(layers):
            return _export(lambda x, n: run(at_level(layers, n), x), images, jax.ShapeDtypeStruct((), jnp.int32))
        return _export(lambda x: run(layers, x), images)
    if len(program.h) == 1:
        return _export(lambda x: run(layers_at(model, program.depth, program.h[0]), x), images)
    h = jax.ShapeDtypeStruct((), jnp.float32)
    return _export(lambda x, h: run(layers_at(model, program.depth, h), x), images, h)


def complexity_bytes(model: Model) -> bytes:
    """The program from images to complexities, (batch,) float32 nats."""
    return _export(model.complexity, jax.ShapeDtypeStruct(_image_batch(model), jnp.float32))


def _image_batch(model: Model) -> Any:
    return export.symbolic_shape(f"batch, {', '.join(map(str, model.network.image_shape))}")


def _export(function: Callable[..., Any], *arguments: Any) -> bytes:
    return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
