"""How long the ways of a convolution take on this machine, beside each other, and which of them the library chooses."""

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.rounds import time_rounds
from experiments.tables.render import markdown
from puppet_jax.fast_convolution import WAYS, choose, compute, find_windows

CASES = (  # batch, height = width, channels consumed, channels produced
    (64, 32, 3, 64),
    (64, 32, 16, 16),
    (64, 32, 64, 64),
    (64, 16, 64, 128),
    (64, 16, 128, 128),
    (64, 8, 256, 256),
    (64, 4, 512, 512),
    (64, 16, 512, 512),
    (1, 32, 64, 64),
    (1, 8, 512, 512),
)
"""3x3 kernels of stride 1 that puppets have."""


def measure(rounds: int, cases: Sequence[tuple[int, int, int, int]]) -> list[dict[str, Any]]:
    """A row a case: median seconds of the value and of value and both gradients, of each way.

    Args:
        rounds: how often each way takes its turn.
        cases: batch, height = width, channels consumed and produced.

    Returns:
        "images" and "kernel" (shapes), "chosen" (by `choose`), "error" (largest difference of the chosen way from XLA,
        of the largest value), "value" and "gradients" (seconds by way; PyTorch's too where it is installed), and for
        both "to_best", the time of the chosen way over that of the fastest.
    """
    return [_row(*case, rounds) for case in cases]


def _row(batch: int, size: int, channels: int, produced: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = (batch, size, size, channels), (3, 3, channels, produced), (batch, size, size, produced)
    x, kernel, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    windows = find_windows(x.shape, (3, 3), (1, 1), "SAME")
    values: dict[str, Any] = {}
    gradients: dict[str, Any] = {}
    for way in WAYS:
        if way == "shifts":  # for depthwise kernels
            continue
        values[way], gradients[way] = _programs(lambda x, k, way=way: compute(way, x, k, windows))
    calls = {
        name: {way: _call(program, *given) for way, program in programs.items()}
        for name, programs, given in (("value", values, (x, kernel)), ("gradients", gradients, (x, kernel, g)))
    }
    if importlib.util.find_spec("torch") is not None:
        calls["value"]["pytorch"], calls["gradients"]["pytorch"] = _torch_calls(x, kernel, g)
    chosen = choose(x.shape, kernel.shape, windows)
    exact = values["xla"](x, kernel)
    row: dict[str, Any] = {
        "images": list(x.shape),
        "kernel": list(kernel.shape),
        "chosen": chosen,
        "error": float(jnp.abs(values[chosen](x, kernel) - exact).max() / jnp.abs(exact).max()),
        "to_best": {},
    }
    for name, own in calls.items():
        seconds = [statistics.median(times) for times in time_rounds(list(own.values()), rounds)]
        row[name] = dict(zip(own, seconds, strict=True))
        row["to_best"][name] = row[name][chosen] / min(row[name][way] for way in values)
    return row


def _programs(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Of the value, and of value and gradients by images and kernel."""

    def gradients(x: Any, kernel: Any, g: Any) -> Any:
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(g)

    return jax.jit(function), jax.jit(gradients)


def _call(program: Callable[..., Any], *given: Any) -> Callable[[], None]:
    return lambda: jax.block_until_ready(program(*given))


def _torch_calls(x: Any, kernel: Any, g: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """The same in PyTorch, eager, its images in the same order of axes."""
    import torch

    def as_torch(array: Any, axes: tuple[int, ...]) -> Any:
        return torch.tensor(np.array(array)).permute(*axes).requires_grad_()

    images, weights = as_torch(x, (0, 3, 1, 2)), as_torch(kernel, (3, 2, 0, 1))
    cotangent = as_torch(g, (0, 3, 1, 2)).detach()

    def value() -> None:
        with torch.no_grad():
            torch.nn.functional.conv2d(images, weights, padding=1)

    def gradients() -> None:
        y = torch.nn.functional.conv2d(images, weights, padding=1)
        torch.autograd.grad(y, (images, weights), cotangent)

    return value, gradients


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of milliseconds, value / value and gradients."""
    ways = list(rows[0]["value"])
    lines = []
    for row in rows:
        times = [f"{1e3 * row['value'][way]:.1f} / {1e3 * row['gradients'][way]:.1f}" for way in ways]
        shape = " x ".join(map(str, [*row["images"], row["kernel"][-1]]))
        best = f"{row['to_best']['value']:.2f} / {row['to_best']['gradients']:.2f}"
        lines.append([shape, *times, row["chosen"], best, f"{row['error']:.0e}"])
    header = ["batch x height x width x channels", *(f"{way}, ms" for way in ways), "chosen", "to the fastest", "error"]
    return markdown(header, lines)
