"""Trains a network on CIFAR-10.

    python -m experiments.cifar10 --data-dir DIR [--preset NAME] [--workdir RUN] [--resume]

| preset | what | time, hardware | top-1 (%), test |
|---|---|---|---|
| small | puppet of 20 kB, depth and kernels follow the image; 8,000 images | 13 min, one CPU core | 62.6 |
| best | one depth, C = 64, 23 kB; 8,000 images | 35 min, one CPU core | 74.1 |
| light | C = 128 in 8 bits, 22 kB, half the arithmetic of best; 8,000 images | 29 min, one CPU core | 77.5 |
| adaptive | best with depth and kernels that follow the image | 100 min, one CPU core | see docs/results.md |
| early-exit | best with a classifier behind its fifth layer | 35 min, one CPU core | 72.5 |
| paper | the papers' protocol: C = 512, 800 epochs of 8,000 images | 6 s a step on a CPU core; a GPU | not run |
| full | all images, crops, cutout, 1.1 MB | 12 min, one NVIDIA H200 | 94.1 |
| NAME-fixed, NAME-puppet, NAME-adaptive | a backbone under the papers' protocol | a GPU; not measured | not run |
| dfn, weightnet, skipnet and others, see `experiments.baselines` | what the papers compare with | a GPU | not run |

Ctrl-C saves; --resume goes on.
"""

from experiments.backbones import backbone_presets
from experiments.baselines import baseline_presets
from experiments.cli import main, run_experiment
from experiments.config import (
    Adaptive,
    ByComplexity,
    ByConfidence,
    Config,
    Data,
    Generated,
    OneDepth,
    Optim,
    PuppetCNN,
)

SMALL = Config(
    network=PuppetCNN(
        channels=(16, 32, 64),
        depth=ByComplexity(rule="per_stage"),
        kernels=Adaptive(levels_per_batch=2),
        residual=True,
        affine=True,
    ),
    data=Data(num_images=8_000, num_validation=2_000),
    optim=Optim(epochs=28, optimizer="adam", learning_rate=3e-3, weight_decay=0.05, label_smoothing=0.1),
)

BEST = Config(
    network=PuppetCNN(
        channels=(64, 64, 64),
        depth=OneDepth(layers=(1, 3, 3)),
        kernels=Generated(kernels_from="velocity", scale=0.03),
        residual=True,
        dropout=0.1,
        mirror=True,
        affine=True,
    ),
    data=Data(num_images=8_000, num_validation=2_000),
    optim=Optim(epochs=28, optimizer="muon", learning_rate=5e-3, weight_decay=0.4, label_smoothing=0.1),
)

LIGHT = Config(
    network=PuppetCNN(
        channels=(32, 64, 128, 128),
        depth=OneDepth(layers=(1, 1, 2, 3)),
        kernels=Generated(kernels_from="velocity", scale=0.03),
        residual=True,
        dropout=0.2,
        mirror=True,
        affine=True,
    ),
    data=Data(num_images=8_000, num_validation=2_000),
    optim=Optim(epochs=56, optimizer="muon", learning_rate=2.5e-3, weight_decay=0.4, label_smoothing=0.1),
    bits=8,
)

ADAPTIVE = Config(
    network=PuppetCNN(
        channels=(64, 64, 64),
        depth=ByComplexity(rule="total", stem=True, depths=(5, 7)),
        kernels=Adaptive(kernels_from="velocity", scale=0.03, levels_per_batch=2),
        residual=True,
        dropout=0.1,
        mirror=True,
        affine=True,
    ),
    data=Data(num_images=8_000, num_validation=2_000),
    optim=Optim(epochs=28, optimizer="muon", learning_rate=5e-3, weight_decay=0.4, label_smoothing=0.1),
)

EARLY_EXIT = Config(
    network=PuppetCNN(
        channels=(64, 64, 64),
        depth=ByConfidence(layers=(1, 1, 6), exit_layer=5, fraction=0.4),
        kernels=Generated(kernels_from="velocity", scale=0.03),
        residual=True,
        dropout=0.1,
        mirror=True,
        affine=True,
    ),
    data=Data(num_images=8_000, num_validation=2_000),
    optim=Optim(epochs=28, optimizer="muon", learning_rate=2.5e-3, weight_decay=0.4, label_smoothing=0.1),
)

PAPER = Config(
    network=PuppetCNN(
        channels=(64, 128, 256, 512),
        depth=ByComplexity(rule="per_stage"),
        kernels=Adaptive(levels_per_batch=2, num_levels=16),  # a set of kernels takes 63 MB
        classifier="generated",
    ),
    data=Data(num_images=8_000, num_validation=2_000),
    optim=Optim(epochs=800, optimizer="adam", learning_rate=1e-3),
)
"""v1 Secs. 4.1 and 4.2: 8,000 images, no augmentation, Adam, batches of 64, 800 epochs."""

FULL = Config(
    network=PuppetCNN(
        channels=(256, 512, 512, 512),
        depth=OneDepth(layers=(1, 3, 4, 4)),
        kernels=Generated(max_channels=512, kernels_from="velocity", scale=0.03),
        residual=True,
        dropout=0.15,
        mirror=True,
        affine=True,
        dtype="bfloat16",
    ),
    data=Data(num_validation=1_000, augment="crop_flip", cutout=12),
    optim=Optim(
        epochs=285, batch_size=512, optimizer="muon", learning_rate=2.5e-3, weight_decay=0.4, label_smoothing=0.1
    ),
)

PRESETS = {
    "small": SMALL,
    "best": BEST,
    "light": LIGHT,
    "adaptive": ADAPTIVE,
    "early-exit": EARLY_EXIT,
    "paper": PAPER,
    "full": FULL,
    **backbone_presets(PAPER.data, PAPER.optim),
    **baseline_presets(PAPER.data, PAPER.optim),
}

if __name__ == "__main__":
    main(run_experiment, "cifar10", PRESETS, __doc__)
