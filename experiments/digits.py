"""Trains an input-adaptive Puppet-CNN on the 8x8 digits that come with scikit-learn: a first run without a network.

    python -m experiments.digits [--workdir RUN] [--resume]

Takes a few minutes on two CPU cores.
"""

from experiments.cli import run_experiment
from experiments.config import Config

DIGITS = Config(
    channels=(32, 64),
    residual=True,
    affine=True,
    spread=(3, 4),
    num_levels=2,
    num_validation=137,
    augment="crop",
    epochs=40,
    learning_rate=3e-3,
    weight_decay=0.05,
    label_smoothing=0.1,
)

if __name__ == "__main__":
    raise SystemExit(run_experiment("digits", {"digits": DIGITS}, __doc__))
