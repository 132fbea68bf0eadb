"""Trains an input-adaptive Puppet-CNN on the 8x8 digits that come with scikit-learn: a first run without a network.

    python -m experiments.digits [--workdir RUN] [--resume]

1,300 training images; one to three minutes on two CPU cores; 98 % of 360 test images.
"""

from experiments.cli import main, run_experiment
from experiments.config import Adaptive, ByComplexity, Config, Data, Optim, PuppetCNN

DIGITS = Config(
    network=PuppetCNN(
        channels=(32, 64),
        depth=ByComplexity(rule="per_stage", depths=(3, 4)),
        kernels=Adaptive(levels_per_batch=2),
        residual=True,
        affine=True,
    ),
    data=Data(num_validation=137, augment="crop"),
    optim=Optim(epochs=40, optimizer="adam", learning_rate=3e-3, weight_decay=0.05, label_smoothing=0.1),
)

if __name__ == "__main__":
    main(run_experiment, "digits", {"digits": DIGITS}, __doc__)
