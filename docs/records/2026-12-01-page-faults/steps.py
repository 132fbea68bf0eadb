"""Processor time and page faults of gradients of 64 images, and of predictions: memory given back, and kept."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

ROUNDS, CALLS = 3, 5
GIVEN_BACK = {"GLIBC_TUNABLES": ""}
"""The defaults of glibc, which `start_jax` then leaves."""
NAMES = ("best", "light", "small", "tiniest", "resnet8", "cifar10-full")


def program(name):
    """A call without arguments that does the work of a step."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import puppet_jax as pj
    from experiments.cifar10 import BEST, LIGHT, SMALL
    from experiments.config import ResNet8, Tiniest

    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    if name == "cifar10-full":
        predictor = pj.load_pretrained(name).predictor()
        return lambda: predictor(images)
    presets = {"best": BEST.network, "light": LIGHT.network, "small": SMALL.network}
    config = presets | {"tiniest": Tiniest(width=40), "resnet8": ResNet8(width=44)}
    network = config[name].make(10, (32, 32, 3))
    depth = network.depth or 9
    params, h = network.init(0, [depth]), jnp.full(1, 4.5)

    def loss(params):
        logits, _ = network.apply(params, None, images, h, depth, jax.random.key(0))
        return jnp.square(logits).mean()

    step = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(step(params))


def measure(name):
    """Milliseconds of processor time in user and system mode, page faults, and the most memory in MB."""
    from experiments.devices import start_jax

    start_jax()
    call = program(name)
    for _ in range(3):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(CALLS):
        call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = {name: (getattr(after, name) - getattr(before, name)) / CALLS for name in ("ru_utime", "ru_stime")}
    faults = (after.ru_minflt - before.ru_minflt) / CALLS
    print(json.dumps([1e3 * spent["ru_utime"], 1e3 * spent["ru_stime"], faults, after.ru_maxrss / 1e3]))


def main():
    """Runs each program in processes of its own, in turn, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", choices=NAMES)
    if name := parser.parse_args().name:
        return measure(name)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    for name in NAMES:
        found = {"given back": [], "kept": []}
        for _ in range(ROUNDS):
            for way, environment in (("given back", kept | GIVEN_BACK), ("kept", kept)):
                argv = [sys.executable, __file__, "--name", name]
                done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
                found[way].append(json.loads(done.stdout))
        for way, rows in found.items():
            user, system, faults, peak = (round(statistics.median(column), 1) for column in zip(*rows, strict=True))
            print(f"{name}, {way}: {user} + {system} ms, {faults} faults, {peak} MB", flush=True)


if __name__ == "__main__":
    main()
