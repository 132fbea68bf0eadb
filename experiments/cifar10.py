"""Trains an input-adaptive Puppet-CNN on CIFAR-10.

    python -m experiments.cifar10 --data-dir DIR [--preset small|best|paper|full] [--workdir RUN] [--resume]

Presets small and best fit two CPU cores; best is of one depth, and the more accurate at as few bytes. Presets paper
and full want a GPU: the papers' protocol; and all images with augmentation, in twelve minutes. Ctrl-C saves; --resume
goes on.
"""

from experiments.cli import run_experiment
from experiments.config import PRESETS

if __name__ == "__main__":
    raise SystemExit(run_experiment("cifar10", PRESETS, __doc__))
