"""Logits of images by a network that was exported to StableHLO or to ONNX.

    from load import load

    predict = load("FOLDER")  # the folder that this file lies in
    logits = predict(images)  # (batch, height, width, channels), uint8 or floating in [0, 1]

Needs NumPy, and JAX with flatbuffers for StableHLO, or onnxruntime for ONNX. `model.json` says what programs take.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MOST = 256  # images of a call of a program


def load(folder: str | Path) -> Callable[[Any], np.ndarray]:
    """A function from images to logits (batch, classes), float32, in the order of the images.

    Raises:
        ValueError: if the folder holds no such export; and the function, if images are not as they must be.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        raise ValueError(f"{folder} holds no model.json; give the folder that experiments.export has written.")
    facts = json.loads((folder / "model.json").read_text())
    kinds = {"stablehlo": _stablehlo, "onnx": _onnx}
    if facts.get("format") not in kinds or facts.get("version") != 1:
        given = f"{facts.get('format')!r} version {facts.get('version')!r}"
        raise ValueError(f"{folder} must hold a model of the format stablehlo or onnx, version 1, got {given}.")
    measure, programs = kinds[facts["format"]](folder, facts)

    def predict(images: Any) -> np.ndarray:
        images = check(images, facts["image_shape"])
        h = np.concatenate([measure(part) for part in _parts(images)]) if measure else np.zeros(len(images))
        logits = np.empty((len(images), len(facts["class_names"])), np.float32)
        for place, kernels, members in groups(h, facts):
            for part in _parts(members):
                logits[part] = programs[place](images[part], *kernels)
        return logits

    return predict


def check(images: Any, shape: list[int]) -> np.ndarray:
    """The images as programs take them, float32 in [0, 1]; refuses others."""
    images = np.asarray(images)
    if images.ndim != 4 or list(images.shape[1:]) != shape or not len(images):
        raise ValueError(f"images must have the shape (batch, {', '.join(map(str, shape))}), got {images.shape}.")
    if images.dtype == np.uint8:
        return images / np.float32(255)
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must be uint8, or floating in [0, 1], got dtype {images.dtype}.")
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError(f"floating images must lie in [0, 1], got {images.min()} to {images.max()}; divide by 255?")
    return images.astype(np.float32)


def groups(h: np.ndarray, facts: dict[str, Any]) -> Iterator[tuple[int, list[Any], np.ndarray]]:
    """Images that share a program and kernels: place of the program, its further arguments, places of the images."""
    places = np.searchsorted([one["first"] for one in facts["programs"]][1:], h, side="right")
    for place, one in enumerate(facts["programs"]):
        members, low, high = np.flatnonzero(places == place), one["low"], one["high"]
        if facts["levels"] is None:  # kernels of an image's own
            level = value = np.clip(h[members], low, high)
        else:
            width = (high - low) / facts["levels"]
            level = np.clip(np.floor((h[members].astype(np.float64) - low) / width), 0, facts["levels"] - 1)
            value = low + (level + 0.5) * width
        for each in np.unique(level):
            chosen = members[level == each]
            arguments: dict[Any, list[Any]] = {
                None: [],
                "level": [np.int32(each)],
                "h": [np.float32(value[level == each][0])],
            }
            yield place, arguments[facts["argument"]], chosen


def content(folder: Path, name: str, facts: dict[str, Any]) -> bytes:
    """A file of the export; refuses one that is not as it was written."""
    found = (folder / name).read_bytes()
    if hashlib.sha256(found).hexdigest() != facts["sha256"][name]:
        raise ValueError(f"{folder / name} is not as it was written; copy or export it again.")
    return found


def _parts(values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, range(MOST, len(values), MOST))


def _stablehlo(folder: Path, facts: dict[str, Any]) -> tuple[Any, list[Any]]:
    import jax
    from jax import export

    def read(name: str) -> Any:
        program = jax.jit(export.deserialize(bytearray(content(folder, name, facts))).call)

        def run(images: np.ndarray, *kernels: Any) -> np.ndarray:
            count, size = len(images), 1 << (len(images) - 1).bit_length()  # few sizes, each compiled once
            padded = np.pad(images, ((0, size - count), (0, 0), (0, 0), (0, 0)), mode="edge")
            return np.asarray(program(padded, *kernels))[:count]

        return run

    measure = None if facts["complexity"] is None else read("complexity.stablehlo")
    return measure, [read(one["file"]) for one in facts["programs"]]


def _onnx(folder: Path, facts: dict[str, Any]) -> tuple[Any, list[Any]]:
    import onnxruntime

    def read(name: str) -> Any:
        available = onnxruntime.get_available_providers()
        session = onnxruntime.InferenceSession(content(folder, name, facts), providers=available)
        names = [one.name for one in session.get_inputs()]
        return lambda *values: session.run(None, dict(zip(names, map(np.asarray, values), strict=True)))[0]

    measure = None if facts["complexity"] is None else lambda images: complexity(images, **facts["complexity"])
    return measure, [read(one["file"]) for one in facts["programs"]]


def complexity(images: np.ndarray, scale: float, offset: float, low: float, high: float) -> np.ndarray:
    """Half the entropy of the 8-bit values plus half that of their spectrum, nats, calibrated."""
    pixels = np.rint(np.float32(255) * images)
    spectrum = np.log1p(np.abs(np.fft.fft2(pixels.astype(np.float64), axes=(1, 2))))
    spectrum -= spectrum.min((1, 2, 3), keepdims=True)
    top = spectrum.max((1, 2, 3), keepdims=True)
    bins = np.minimum(spectrum / np.where(top > 0, top, 1) * 256, 255)
    h = (_entropy(pixels) + _entropy(bins)) / 2
    return np.clip(scale * h + offset, low, high).astype(np.float32)


def _entropy(bins: np.ndarray) -> np.ndarray:
    counts = np.stack([np.bincount(row, minlength=256) for row in bins.astype(np.int64).reshape(len(bins), -1)])
    p = counts / counts.sum(axis=1, keepdims=True)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
