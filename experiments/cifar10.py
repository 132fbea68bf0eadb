"""Trains an input-adaptive Puppet-CNN on CIFAR-10.

    python -m experiments.cifar10 --data-dir DIR [--preset small|paper|full] [--workdir RUN] [--resume]

Preset small fits two CPU cores; paper is the papers' protocol and wants a GPU; full uses all images and augmentation.
Ctrl-C saves; --resume goes on.
"""

from experiments.cli import run_experiment
from experiments.config import PRESETS

if __name__ == "__main__":
    raise SystemExit(run_experiment("cifar10", PRESETS, __doc__))
