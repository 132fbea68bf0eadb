"""What generating kernels costs as C and the number of layers grow, beside a bare scan and PyTorch."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments.benchmarks import in_torch
from experiments.benchmarks.rounds import time_rounds
from experiments.markdown import markdown
from puppet_jax.puppeteer import kernel_field, start

H = 4.5
"""Complexity in nats, near the mean of CIFAR-10."""
GRADIENT_MACS = 2e10
"""Gradients are timed up to so many multiply-accumulates of the value."""
LONG_MACS, FEW_ROUNDS = 5e10, 3
"""From so many multiply-accumulates on, so many rounds at most."""


class Case(NamedTuple):
    """A puppeteer of C channels, and as many 3x3 layers of C channels."""

    channels: int
    layers: int


CASES = (
    Case(64, 8),
    Case(128, 8),
    Case(256, 8),
    Case(512, 8),
    Case(1024, 8),
    Case(2048, 8),
    Case(128, 4),
    Case(128, 16),
    Case(128, 32),
    Case(128, 64),
)


def measure(rounds: int, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row a case: median seconds of generating all kernels, and of that with the gradient of the puppeteer.

    Args:
        rounds: how often each way takes its turn.
        cases: which; the first is the one that "line" is drawn through.

    Returns:
        "channels", "layers", "macs" (of the value), "value" and "gradient" (seconds by way: "library", "scan", a bare
        `jax.lax.scan` of the field, and "pytorch" where it is installed; no gradient of large cases), "error" (largest
        difference of another way's kernels from the library's) and "line", the library's time over that of the first
        case times the ratio of their multiply-accumulates.
    """
    rows = [_row(case, rounds) for case in cases]
    first = rows[0]
    for row in rows:
        row["line"] = row["value"]["library"] / (first["value"]["library"] * row["macs"] / first["macs"])
    return rows


def _row(case: Case, rounds: int) -> dict[str, Any]:
    puppeteer = pj.init_puppeteer(jax.random.key(0), case.channels)
    macs = pj.generator_macs(puppeteer, case.layers)
    library = _library(case)
    ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "library": _programs(library, puppeteer),
        "scan": _programs(_scan(case), puppeteer),
    }
    if in_torch.is_comparable():
        ways["pytorch"] = _torch(case, puppeteer)
    kernels = [np.stack([_on_host(kernel) for kernel in value()]) for value, _ in ways.values()]
    row: dict[str, Any] = {
        "channels": case.channels,
        "layers": case.layers,
        "macs": macs,
        "error": float(max(np.abs(other - kernels[0]).max() for other in kernels[1:])),
    }
    rounds = min(rounds, FEW_ROUNDS) if macs >= LONG_MACS else rounds
    for place, name in enumerate(("value", "gradient")):
        if name == "value" or macs <= GRADIENT_MACS:
            calls = [programs[place] for programs in ways.values()]
            row[name] = dict(zip(ways, map(statistics.median, time_rounds(calls, rounds)), strict=True))
    return row


def _library(case: Case) -> Callable[[pj.Puppeteer], Any]:
    shapes = [(3, 3, case.channels, case.channels)] * case.layers
    return lambda puppeteer: pj.generate_kernels(puppeteer, H, shapes)


def _scan(case: Case) -> Callable[[pj.Puppeteer], Any]:
    """The same as a bare scan, each state kept and read as a kernel."""

    def kernels(puppeteer: pj.Puppeteer) -> Any:
        dl = pj.step_size(jnp.float32(H))

        def step(state: Any, _: None) -> tuple[Any, Any]:
            state = state + dl * kernel_field(puppeteer, state)
            return state, state

        states = jax.lax.scan(step, start(puppeteer, jnp.float32(H)), None, case.layers)[1]
        shape = (3, 3, case.channels, case.channels)
        return tuple(state.reshape(shape) for state in jax.lax.split(states, (1,) * case.layers))

    return kernels


def _programs(
    kernels: Callable[[pj.Puppeteer], Any], puppeteer: pj.Puppeteer
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    value = jax.jit(kernels)
    gradient = jax.jit(jax.grad(lambda puppeteer: sum(jnp.square(kernel).sum() for kernel in kernels(puppeteer))))
    return lambda: jax.block_until_ready(value(puppeteer)), lambda: jax.block_until_ready(gradient(puppeteer))


def _torch(case: Case, puppeteer: pj.Puppeteer) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same in PyTorch, eager."""
    import torch

    made, first = in_torch.generator(puppeteer), in_torch.first_state(puppeteer, H)
    dl, channels = float(pj.step_size(H)), case.channels

    def kernels() -> Any:
        found = itertools.islice(in_torch.steps(made, first, dl), case.layers)
        return [state[0].permute(2, 1, 0).reshape(3, 3, channels, channels) for state, _ in found]

    def value() -> Any:
        with torch.no_grad():
            made_of = kernels()
        in_torch.wait()
        return made_of

    def gradient() -> Any:
        found = torch.autograd.grad(sum(kernel.square().sum() for kernel in kernels()), made.leaves)
        in_torch.wait()
        return found

    return value, gradient


def _on_host(kernel: Any) -> np.ndarray:
    """Of JAX or PyTorch."""
    return np.asarray(kernel.cpu() if hasattr(kernel, "cpu") else kernel)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    others = [way for way in ("scan", "pytorch") if way in rows[0]["value"]]

    def ratio(row: dict[str, Any], name: str, way: str) -> str:
        return f"{row[name]['library'] / row[name][way]:.2f}" if name in row else ""

    lines = []
    for row in rows:
        gradient = f"{1e3 * row['gradient']['library']:,.1f}" if "gradient" in row else ""
        line = [str(row["channels"]), str(row["layers"]), f"{row['macs'] / 1e9:,.2f}"]
        line += [f"{1e3 * row['value']['library']:,.1f}", gradient, f"{row['line']:.2f}"]
        lines.append(line + [ratio(row, name, way) for way in others for name in ("value", "gradient")])
    header = ["C", "layers", "G multiply-accumulates", "value, ms", "gradient, ms", "value to the line of the first"]
    return markdown(header + [f"{name} ÷ {way}" for way in others for name in ("value", "gradient")], lines)
