"""How long the ways of a convolution take on this machine, beside each other, and which of them the library chooses."""

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import in_torch
from experiments.benchmarks.rounds import error_of, time_rounds
from experiments.markdown import markdown
from puppet_jax.cpu.fast_convolution import WAYS, Way, choose, compute
from puppet_jax.cpu.windows import Windows, find_windows
from puppet_jax.mirror import with_mirrored
from puppet_jax.mirrored_convolution import mirrored_convolution, takes_halves

HALVES = "halves"
"""The way of mirrored channels that takes half of the products."""


class Case(NamedTuple):
    """A convolution of stride 1: images, the side of the kernel, groups of channels, whether channels are mirrored."""

    batch: int
    size: int
    consumed: int
    produced: int
    side: int = 3
    groups: int = 1
    mirrored: bool = False


CASES = (
    Case(64, 32, 3, 64),
    Case(64, 32, 16, 16),
    Case(64, 32, 64, 64),
    Case(64, 16, 64, 128),
    Case(64, 16, 128, 128),
    Case(64, 8, 256, 256),
    Case(64, 4, 512, 512),
    Case(64, 16, 512, 512),
    Case(1, 32, 64, 64),
    Case(1, 8, 512, 512),
    Case(64, 32, 48, 96, side=1),
    Case(64, 8, 512, 512, side=1),
    Case(64, 32, 48, 48, groups=48),
    Case(64, 16, 96, 96, side=7, groups=96),
    Case(64, 16, 128, 128, groups=32),
    Case(64, 16, 64, 64, mirrored=True),
    Case(64, 8, 128, 128, mirrored=True),
    Case(64, 8, 256, 256, mirrored=True),
    Case(64, 4, 512, 512, mirrored=True),
    Case(1, 8, 128, 128, mirrored=True),
    Case(1, 8, 512, 512, mirrored=True),
)
"""Those of puppets; of bottlenecks, depthwise layers and layers in groups; of mirrored puppets."""


def measure(rounds: int, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row a case: median seconds of the value and of value and both gradients, of each way.

    Args:
        rounds: how often each way takes its turn.
        cases: which.

    Returns:
        "images" and "kernel" (shapes), "groups", "mirrored", "chosen" (by the library), "error" (largest difference of
        the chosen way from XLA, of the largest value), "value" and "gradients" (seconds by way; PyTorch's too where it
        is installed),
        and for both "to_best", the time of the chosen way over that of the fastest.
    """
    return [_row(case, rounds) for case in cases]


def _ways(case: Case, windows: Windows) -> dict[str, Callable[[Any, Any], Any]]:
    """Those that can compute it, by name: functions of images and kernel."""
    names: list[Way] = ["xla", "products", "winograd", "patches"] if case.side == 3 else ["xla", "products", "patches"]
    if case.groups > 1:
        names = ["xla", "shifts", "groups"] if case.groups == case.consumed == case.produced else ["xla", "groups"]

    def whole(way: Way, x: Any, kernel: Any) -> Any:
        return compute(way, x, with_mirrored(kernel, True) if case.mirrored else kernel, windows, case.groups)

    ways: dict[str, Callable[[Any, Any], Any]] = {way: functools.partial(whole, way) for way in names}
    return ways | {HALVES: mirrored_convolution} if case.mirrored else ways


def _chosen(case: Case, shape: tuple[int, ...], kernel_shape: tuple[int, ...], windows: Windows) -> str:
    """The way that the library takes on a CPU."""
    if case.mirrored and takes_halves(shape, kernel_shape):
        return HALVES
    return choose(shape, (*kernel_shape[:-1], case.produced), windows, case.groups)


def _row(case: Case, rounds: int) -> dict[str, Any]:
    batch, size, consumed, produced, side, groups, mirrored = case
    rng = np.random.default_rng(0)
    kernel_shape = (side, side, consumed // groups, produced // 2 if mirrored else produced)
    shapes = (batch, size, size, consumed), kernel_shape, (batch, size, size, produced)
    x, kernel, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    windows = find_windows(x.shape, (side, side), (1, 1), "SAME")
    values: dict[str, Any] = {}
    gradients: dict[str, Any] = {}
    for way, function in _ways(case, windows).items():
        values[way], gradients[way] = _programs(function)
    calls = {
        name: {way: _call(program, *given) for way, program in programs.items()}
        for name, programs, given in (("value", values, (x, kernel)), ("gradients", gradients, (x, kernel, g)))
    }
    if in_torch.is_comparable():
        calls["value"]["pytorch"], calls["gradients"]["pytorch"] = _torch_calls(
            x, with_mirrored(kernel, True) if mirrored else kernel, g, groups
        )
    chosen = _chosen(case, x.shape, kernel.shape, windows)
    exact = values["xla"](x, kernel)
    row: dict[str, Any] = {
        "images": list(x.shape),
        "kernel": list(kernel.shape),
        "groups": groups,
        "mirrored": mirrored,
        "chosen": chosen,
        "error": error_of(values[chosen](x, kernel), exact),
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


def _torch_calls(x: Any, kernel: Any, g: Any, groups: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """The same in PyTorch, eager, its images in the same order of axes."""
    import torch

    def as_torch(array: Any, axes: tuple[int, ...]) -> Any:
        return in_torch.tensor(array).permute(*axes).requires_grad_()

    images, weights = as_torch(x, (0, 3, 1, 2)), as_torch(kernel, (3, 2, 0, 1))
    cotangent = as_torch(g, (0, 3, 1, 2)).detach()
    settings = {"padding": len(kernel) // 2, "groups": groups}

    def value() -> None:
        with torch.no_grad():
            torch.nn.functional.conv2d(images, weights, **settings)
        in_torch.wait()

    def gradients() -> None:
        y = torch.nn.functional.conv2d(images, weights, **settings)
        torch.autograd.grad(y, (images, weights), cotangent)
        in_torch.wait()

    return value, gradients


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of milliseconds, value / value and gradients."""
    ways = [way for way in (*WAYS, HALVES, "pytorch") if any(way in row["value"] for row in rows)]

    def times(row: dict[str, Any], way: str) -> str:
        return f"{1e3 * row['value'][way]:.1f} / {1e3 * row['gradients'][way]:.1f}" if way in row["value"] else ""

    lines = []
    for row in rows:
        produced = row["kernel"][-1] * (2 if row["mirrored"] else 1)
        shape = " x ".join(map(str, [*row["images"], produced])) + (", mirrored" if row["mirrored"] else "")
        side = row["kernel"][0]
        best = f"{row['to_best']['value']:.2f} / {row['to_best']['gradients']:.2f}"
        described = [shape, f"{side} x {side}", str(row["groups"])]
        lines.append([*described, *(times(row, way) for way in ways), row["chosen"], best, f"{row['error']:.0e}"])
    header = ["batch x height x width x channels", "kernel", "groups", *(f"{way}, ms" for way in ways)]
    header += ["chosen", "to the fastest", "error"]
    return markdown(header, lines)
