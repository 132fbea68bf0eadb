"""Trains an input-adaptive Puppet-CNN on the 8x8 digits that come with scikit-learn: a first run without a network.

    python -m experiments.digits [--workdir RUN] [--resume]

Takes a few minutes on two CPU cores.
"""

from experiments.cli import run_experiment
from experiments.config import Config

DIGITS = Config(
    channels=(16, 32, 64),
    residual=True,
    affine=True,
    num_validation=137,
    epochs=25,
    learning_rate=3e-3,
    weight_decay=0.01,
    num_levels=1,
    spread=(2, 3),
    augment="crop",
)

if __name__ == "__main__":
    raise SystemExit(run_experiment("digits", {"digits": DIGITS}, __doc__))
