"""Trains an input-adaptive Puppet-CNN on CIFAR-100 (fine labels).

    python -m experiments.cifar100 --data-dir DIR [--preset small|best|paper|full] [--workdir RUN] [--resume]

All presets split as the papers do, 40,000 training, 10,000 validation and 10,000 test images, and augment nothing.
Presets small and best fit two CPU cores; paper, the papers' protocol, and full want a GPU. Ctrl-C saves; --resume goes
on.
"""

import dataclasses

from experiments.cli import run_experiment
from experiments.config import FULL_CIFAR100, PRESETS as CIFAR10

PRESETS = {
    name: dataclasses.replace(preset, num_images=None, num_validation=10_000) for name, preset in CIFAR10.items()
} | {"full": FULL_CIFAR100}
for name in ("small", "best"):
    PRESETS[name] = dataclasses.replace(PRESETS[name], epochs=6)  # of five times as many images

if __name__ == "__main__":
    raise SystemExit(run_experiment("cifar100", PRESETS, __doc__))
