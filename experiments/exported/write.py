"""The folder that a model is exported to."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.errors import RunError
from experiments.exported import load as loader
from experiments.exported.plan import Program, expanded, plan
from experiments.model import Model
from experiments.networks.puppet import PuppetLike
from experiments.runs.files import write_bytes, write_json

Format = Literal["stablehlo", "onnx", "safetensors"]
VERSION = 1
IMAGES = {"name": "images", "axes": ["batch", "height", "width", "channels"], "dtype": "float32", "range": [0, 1]}
LOGITS = {"name": "logits", "axes": ["batch", "classes"], "dtype": "float32"}


def export(model: Model, folder: Path, form: Format, generate: bool, source: str) -> list[Path]:
    """Writes a model as programs or weights, `model.json` that describes them, and `load.py` that runs programs.

    Args:
        model: a puppet.
        folder: a new one.
        form: of the files.
        generate: programs hold the generator in place of kernels; "stablehlo" only.
        source: what the model was called.

    Returns:
        The files.

    Raises:
        RunError: if the network cannot be exported, or the folder exists.
    """
    if folder.exists():
        raise RunError(f"{folder} exists already; name another --out.")
    programs = plan(model)
    levels = len(programs[0].h) or None
    argument = None if levels == 1 else "h" if generate or levels is None else "level"
    files: dict[str, bytes] = {}
    for program in programs:
        files[f"depth-{program.depth}.{form}"] = _content(model, program, form, generate)
    constant = model.complexity.constant is not None
    if form == "stablehlo" and not constant:
        from experiments.exported.stablehlo import complexity_bytes

        files["complexity.stablehlo"] = complexity_bytes(model)
    facts: dict[str, Any] = {
        "format": form,
        "version": VERSION,
        "source": source,
        "image_shape": list(model.network.image_shape),
        "class_names": list(model.class_names),
        "input": IMAGES,
        "output": LOGITS,
        "argument": argument,
        "levels": levels,
        "complexity": None if constant else dataclasses.asdict(model.complexity),
        "programs": [
            {
                "file": f"depth-{program.depth}.{form}",
                "depth": program.depth,
                "first": program.first,
                "low": program.interval[0],
                "high": program.interval[1],
            }
            for program in programs
        ],
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    folder.mkdir(parents=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    if form != "safetensors":
        shutil.copyfile(loader.__file__, folder / "load.py")
    write_json(folder / "model.json", facts)  # last: a folder without it is no export
    return sorted(folder.iterdir())


def _content(model: Model, program: Program, form: Format, generate: bool) -> bytes:
    if form == "stablehlo":
        from experiments.exported.stablehlo import program_bytes

        return program_bytes(model, program, generate)
    layers = expanded(model, program)
    if form == "onnx":
        from experiments.exported.onnx_graph import graph_bytes

        assert isinstance(model.network, PuppetLike)  # as `plan` has found
        return graph_bytes(layers, model.network.image_shape, model.network.puppet.mirror)
    from safetensors.numpy import save

    tensors = {f"layers.{n}.kernel": kernel for n, kernel in enumerate(layers.kernels)}
    tensors |= {f"layers.{n}.bias": bias for n, bias in enumerate(layers.biases)}
    tensors |= {"classifier.kernel": layers.classifier_kernel, "classifier.bias": layers.classifier_bias}
    description = {
        "format": "puppet-jax layers 1",
        "class_names": json.dumps(model.class_names),
        "image_shape": json.dumps(model.network.image_shape),
        "max_pool_before": json.dumps(layers.pools),
        "added_to_input": json.dumps(layers.adds),
        "computes": "x = 4 images - 2; each layer: 2x2 max-pooling where named, y = relu(conv(x, kernel, stride 1, "
        "same padding) + bias), x = x + y where named, else y; logits = mean of x over pixels times kernel plus bias. "
        "Kernels are height, width, in, out; an axis before these is one of levels of complexity.",
    }
    return save({name: np.asarray(leaf, order="C") for name, leaf in tensors.items()}, metadata=description)
