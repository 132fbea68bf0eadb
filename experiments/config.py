"""The configuration of a run. Imports no JAX, so that `--help` answers at once."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import tyro

CONTROLS = ("stored", "combined")
"""Kernels that no puppeteer generates, so that complexity cannot change them."""

DOUBT_ALONE = ("deep_share", "shallow_weight")
"""Fields without effect unless depth follows doubt."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run computes; written to `config.json`."""

    network: Literal["puppet", "alexnet", "vgg", "resnet", "resnet20", "mobilenet_v1", "mobilenet_v2", "squeezenet"] = (
        "puppet"
    )
    """The papers' puppet, or a backbone; --channels to --classifier and --spread are the puppet's alone."""
    num_layers: int | None = None
    """Layers of vgg, resnet and resnet20; their usual number if not given."""
    kernels: Literal["generated", "stored", "combined", "standardised", "reseeded"] = "generated"
    """Convolution kernels: from a puppeteer; trained and stored one by one; or, in the puppet's shapes, combined from
    frozen pseudo-random ones with as many coefficients as the puppeteer has floats (PRANC), generated and standardised,
    or generated and joined by a pattern of each layer's own."""
    adapt: Literal["both", "parameters", "depth", "doubt", "none"] | None = None
    """What follows the complexity of an image; all that can if not given (a backbone's depth cannot). "doubt": the
    puppets of both depths of --spread are nested, and an image goes on to the deep one if the shallow one is unsure."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Width of each stage of the puppet."""
    max_channels: int | None = None
    """Channels C of the puppeteer's state, the widest layer if not given, where less is stored if it is narrower than
    that; or the width of a backbone."""
    kernel_size: int = 3
    """Size of the puppet's kernels, odd."""
    depth_rule: Literal["per_stage", "total", "last"] = "per_stage"
    """Depth counts layers in each stage (first paper), in total (second), or in total with one in all but the last."""
    stem: bool = False
    """The puppet's first stage has one layer at every depth."""
    residual: bool = False
    """Within a stage, add each layer to its input."""
    dropout: float = 0.0
    """Fraction of the puppet's activations behind each pooling that training sets to zero, in [0, 1)."""
    mirror: bool = False
    """The puppet's second half of channels mirrors the first, so that mirror images get the same logits."""
    affine: bool = False
    """Trainable scale and bias in the puppet's batch norms; stored beside the puppeteer."""
    classifier: Literal["linear", "generated"] = "linear"
    """Store a linear classifier, or generate it with one more step (stores nothing)."""
    initial_state: Literal["seeded", "constant", "learned"] = "seeded"
    """How a trajectory starts; "constant" is the papers' and does not train."""
    pattern_seed: int = 0
    """Seed of the seeded pattern; part of the model."""
    scale: float = 0.1
    """Standard deviation of the seeded pattern."""
    kernels_from: Literal["state", "velocity"] = "state"
    """What a layer reads of the trajectory: the state that it has reached, as in the papers, or how it moves there."""
    adaptation: Literal["level", "sample"] = "level"
    """One set of kernels for each narrow slice of complexity, or for each image."""
    spread: tuple[int, int] | None = None
    """Calibrate complexity on the training images so that they spread over depths LOW to HIGH; equal for one depth."""
    mix_depths: bool = False
    """With --adapt depth: deal the training images out to the depths by lot, so that any measure can route later."""
    deep_share: float = 0.5
    """With --adapt doubt: share of the validation images that go on to the deep puppet; decides the threshold."""
    shallow_weight: float = 1.0
    """With --adapt doubt: weight of the shallow puppet's loss, that of the deep one has 1."""
    own_exit: bool = False
    """With --adapt doubt: the shallow puppet stores a classifier and, behind the shared layers, norms of its own."""
    detach_exit: bool = False
    """With --own-exit: the shallow puppet's loss trains what it has of its own alone, the deep puppet as without it."""
    num_slices: int = 64
    """Slices of complexity in a depth bucket, at evaluation."""
    num_levels: int = 4
    """Sets of kernels that the images of a training batch share, neighbours in complexity together."""
    num_images: int | None = None
    """Training images drawn with the seed; all that validation leaves if not given."""
    num_validation: int = 2000
    """Images held out of the training set for validation, drawn with the seed."""
    num_test: int | None = None
    """Most test images that are evaluated, at equal distances in the test set; all if not given."""
    augment: Literal["none", "crop", "crop_flip"] = "none"
    """Random shifts by up to an eighth of the image, with or without mirror images, on the device."""
    cutout: int = 0
    """Side in pixels of a square, anywhere, that is blanked in every training image; 0 for none."""
    start_from: str | None = None
    """Folder of a run of the same network whose parameters training starts with; those of the seed if not given."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Adam; or Muon for matrices and stored kernels, with updates of Adam's size, and Adam for the rest."""
    learning_rate: float = 1e-3
    """Peak of the schedule: short warm-up, cosine decay to zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay: Adam's on matrices, Muon's on what it updates; 0 for none."""
    label_smoothing: float = 0.0
    """In [0, 1)."""
    bits: Literal[32, 8, 4] = 32
    """Bits of a stored weight; training sees the rounded values (quantisation-aware)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and convolutions; trajectory and parameters stay float32."""
    seed: int = 0
    """Of the subset, the split, the initial parameters and the order of the batches."""

    def __post_init__(self):
        """Refuses values outside their range."""
        at_least = {"num_slices": 1, "num_levels": 1, "epochs": 1, "batch_size": 1, "num_validation": 1, "seed": 0,
                    "pattern_seed": 0, "kernel_size": 1}  # fmt: skip
        for name, low in at_least.items():
            _require(getattr(self, name) >= low, name, f"at least {low}", getattr(self, name))
        for name in ("num_images", "num_test", "max_channels"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "at least 1", value)
        _require(self.kernel_size % 2 == 1, "kernel_size", "odd", self.kernel_size)
        _require(len(self.channels) > 0 and min(self.channels) >= 1, "channels", "positive", self.channels)
        if self.network == "puppet":
            fixed = self.kernels in CONTROLS
            reason = f"none for --network puppet with {self.kernels} kernels"
            _require(not fixed or self.adapt in (None, "none"), "adapt", reason, self.adapt)
            _require(self.num_layers is None, "num_layers", "left out for --network puppet", self.num_layers)
            several = ("both", "depth", "doubt")
            one_depth = self.spread is None or self.spread[0] == self.spread[1] or self.adapts in several
            _require(one_depth, "spread", f"one depth twice, such as 4 4, with --adapt {self.adapts}", self.spread)
        else:
            own = f"generated or stored for --network {self.network}"
            _require(self.kernels in ("generated", "stored"), "kernels", own, self.kernels)
            possible = ("parameters", "none") if self.kernels == "generated" else ("none",)
            reason = f"{' or '.join(possible)} for --network {self.network} with {self.kernels} kernels"
            _require(self.adapt in (None, *possible), "adapt", reason, self.adapt)
            _require(self.dtype == "float32", "dtype", "float32 for a backbone", self.dtype)
        if self.adapts == "doubt":
            two = self.spread is not None and self.spread[0] < self.spread[1]
            _require(two, "spread", "two depths, LOW < HIGH, with --adapt doubt", self.spread)
        _require(0 < self.deep_share < 1, "deep_share", "in (0, 1)", self.deep_share)
        mixed = not self.mix_depths or (self.network == "puppet" and self.adapts == "depth")
        _require(mixed, "mix_depths", "left out unless --network puppet has --adapt depth", self.mix_depths)
        own_exit = not self.own_exit or self.adapts == "doubt"
        _require(own_exit, "own_exit", "left out unless --adapt is doubt", self.own_exit)
        detach_exit = not self.detach_exit or self.own_exit
        _require(detach_exit, "detach_exit", "left out unless --own-exit is given", self.detach_exit)
        _require(self.cutout >= 0, "cutout", "at least 0", self.cutout)
        for name in ("scale", "learning_rate", "shallow_weight"):
            value = getattr(self, name)
            _require(0 < value < math.inf, name, "positive and finite", value)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0 and finite", self.weight_decay)
        _require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        possible_dropout = self.dropout == 0 if self.network != "puppet" else 0 <= self.dropout < 1
        _require(possible_dropout, "dropout", "in [0, 1), and 0 for a backbone", self.dropout)
        low, high = self.spread or (1, 1)
        _require(1 <= low <= high, "spread", "two depths, 1 <= LOW <= HIGH", self.spread)
        divides = self.batch_size % self.num_levels == 0
        _require(divides, "num_levels", f"a divisor of the batch size {self.batch_size}", self.num_levels)
        for name in ("seed", "pattern_seed"):
            _require(getattr(self, name) < 2**32, name, "less than 2**32", getattr(self, name))

    @property
    def adapts(self) -> Literal["both", "parameters", "depth", "doubt", "none"]:
        """What follows the complexity of an image, with the default filled in."""
        if self.adapt is not None:
            return self.adapt
        if self.kernels in CONTROLS:
            return "none"
        return "both" if self.network == "puppet" else "parameters"

    @property
    def one_set_a_depth(self) -> bool:
        """Whether all images of a depth have the same kernels."""
        return self.adapts in ("depth", "doubt", "none")


def _require(condition: bool, name: str, what: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"--{name.replace('_', '-')} must be {what}, got {value}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where a run reads and writes; nothing here changes what is computed."""

    data_dir: Path | None = None
    """Folder that holds the data: the official CIFAR binary layout, or class folders of images."""
    data_source: Literal["auto", "tfds", "archive"] = "auto"
    """Without --data-dir: what TensorFlow Datasets has prepared, or the official archive, downloaded once."""
    workdir: Path | None = None
    """Folder of the run; runs/EXPERIMENT-PRESET-seedSEED if not given."""
    resume: bool = False
    """Go on where the run in the folder stopped; start it if there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of an experiment."""

    preset: str
    config: tyro.conf.OmitArgPrefixes[Config]
    options: tyro.conf.OmitArgPrefixes[Options]


PAPER = Config(num_images=8_000, num_validation=2_000, num_levels=2, num_slices=16, epochs=800, classifier="generated")
"""The papers' protocol (v1 Secs. 4.1 and 4.2): 8,000 images, no augmentation, Adam, batches of 64, 800 epochs.

Sixteen slices, because a set of kernels takes 63 MB here.
"""

SMALL = Config(
    channels=(16, 32, 64),
    residual=True,
    affine=True,
    num_images=8_000,
    num_validation=2_000,
    num_levels=2,
    epochs=28,
    learning_rate=3e-3,
    weight_decay=0.05,
    label_smoothing=0.1,
)
"""The papers' 8,000 images and a 20 KB puppeteer, for two CPU cores."""

STATE: dict[str, Any] = {"kernels_from": "state", "scale": 0.1}
"""Each layer reads the state of the trajectory, as in the papers; the defaults."""
VELOCITY: dict[str, Any] = {"kernels_from": "velocity", "scale": 0.03}
"""Each layer reads how the trajectory moves, from a smaller start."""

FORMER_RATE: dict[str, Any] = {"learning_rate": 2.5e-3}
"""The rate of preset `best` before the study searched further, where it has not been measured again."""

BEST = dataclasses.replace(
    SMALL,
    channels=(64, 64, 64),
    depth_rule="total",
    stem=True,
    mirror=True,
    adapt="none",
    spread=(7, 7),
    num_levels=1,
    **VELOCITY,
    optimizer="muon",
    learning_rate=5e-3,
    dropout=0.1,
    weight_decay=0.4,
)
"""What won the study in experiments/studies/ at the bytes of preset `small`."""

NARROW = dataclasses.replace(BEST, channels=(64, 128, 256), max_channels=512, **FORMER_RATE)
"""The papers' puppeteer of 1.08 MB in a puppet that is narrow enough for two CPU cores."""

FULL = dataclasses.replace(
    BEST,
    channels=(256, 512, 512, 512),
    spread=(12, 12),
    max_channels=512,
    dropout=0.15,
    num_images=None,
    num_validation=1_000,
    augment="crop_flip",
    cutout=12,
    batch_size=512,
    **FORMER_RATE,
    epochs=285,
    dtype="bfloat16",
)
"""All training images, with crops, mirror images and cutout, and 1.08 MB: twelve minutes on a GPU."""

FULL_CIFAR100 = dataclasses.replace(
    FULL,
    num_validation=10_000,
    augment="none",
    cutout=0,
    dropout=0.4,
    learning_rate=5e-3,
    epochs=100,
)
"""The papers' split of CIFAR-100 without augmentation, and 1.2 MB: less than five minutes on a GPU."""

PRESETS = {"small": SMALL, "best": BEST, "paper": PAPER, "full": FULL}
"""Presets of the experiments on photographs, the first the default."""
