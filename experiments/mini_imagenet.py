"""Trains a network on mini-ImageNet: 100 classes of 600 images of 64x64.

    python -m experiments.mini_imagenet --data-dir DIR [--preset NAME] [--workdir RUN] [--resume]

DIR holds DIR/CLASS/*.png. All presets split as the papers do: 48,000 training, 6,000 validation and 6,000 test images.
The papers crop images to 64x64 at random; these are whole.

| preset | what | time, hardware | top-1 (%), test |
|---|---|---|---|
| small | puppet of 20 kB, depth and kernels follow the image | a CPU core; not measured | not run |
| best | one depth, C = 64 | a CPU core; not measured | not run |
| paper | the papers' protocol: C = 512, 800 epochs | a GPU | not run |
| full | twelve layers, 1.2 MB | a GPU | not run |
| NAME-fixed, NAME-puppet, NAME-adaptive | a backbone under the papers' protocol | a GPU | not run |
| dfn, weightnet, skipnet and others, see `experiments.baselines` | what the papers compare with | a GPU | not run |

Ctrl-C saves; --resume goes on.
"""

from experiments.backbones import backbone_presets
from experiments.baselines import baseline_presets
from experiments.cli import main, run_experiment
from experiments.config import Adaptive, ByComplexity, Config, Data, Generated, OneDepth, Optim, PuppetCNN

SMALL = Config(
    network=PuppetCNN(
        channels=(16, 32, 64),
        depth=ByComplexity(rule="per_stage"),
        kernels=Adaptive(levels_per_batch=2),
        residual=True,
        affine=True,
    ),
    data=Data(num_validation=6_000),
    optim=Optim(epochs=6, optimizer="adam", learning_rate=3e-3, weight_decay=0.05, label_smoothing=0.1),
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
    data=Data(num_validation=6_000),
    optim=Optim(epochs=6, optimizer="muon", learning_rate=5e-3, weight_decay=0.4, label_smoothing=0.1),
)

PAPER = Config(
    network=PuppetCNN(
        channels=(64, 128, 256, 512),
        depth=ByComplexity(rule="per_stage"),
        kernels=Adaptive(levels_per_batch=2, num_levels=16),
        classifier="generated",
    ),
    data=Data(num_validation=6_000),
    optim=Optim(epochs=800, optimizer="adam", learning_rate=1e-3),
)

FULL = Config(
    network=PuppetCNN(
        channels=(256, 512, 512, 512),
        depth=OneDepth(layers=(1, 3, 4, 4)),
        kernels=Generated(max_channels=512, kernels_from="velocity", scale=0.03),
        residual=True,
        dropout=0.4,
        mirror=True,
        affine=True,
        dtype="bfloat16",
    ),
    data=Data(num_validation=6_000),
    optim=Optim(
        epochs=100, batch_size=512, optimizer="muon", learning_rate=5e-3, weight_decay=0.4, label_smoothing=0.1
    ),
)

PRESETS = {
    "small": SMALL,
    "best": BEST,
    "paper": PAPER,
    "full": FULL,
    **backbone_presets(PAPER.data, PAPER.optim),
    **baseline_presets(PAPER.data, PAPER.optim),
}

if __name__ == "__main__":
    main(run_experiment, "mini_imagenet", PRESETS, __doc__)
