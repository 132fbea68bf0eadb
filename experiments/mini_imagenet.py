"""Trains an input-adaptive Puppet-CNN on mini-ImageNet: 100 classes of 600 images of 64x64.

    python -m experiments.mini_imagenet --data-dir DIR [--preset small|best|paper|full] [--workdir RUN] [--resume]

DIR holds DIR/CLASS/*.png. All presets split as the papers do: 48,000 training, 6,000 validation and 6,000 test images.
Presets small and best fit two CPU cores; paper, the papers' protocol, and full want a GPU. Ctrl-C saves; --resume goes
on.
"""

import dataclasses

from experiments.cifar100 import PRESETS as CIFAR100
from experiments.cli import run_experiment

PRESETS = {name: dataclasses.replace(preset, num_validation=6_000) for name, preset in CIFAR100.items()}

if __name__ == "__main__":
    raise SystemExit(run_experiment("mini_imagenet", PRESETS, __doc__))
