"""What a run computes, as records. Imports no JAX, so that `--help` answers at once.

Records nest in code and are flat on the command line. A union says what kind of thing a part is; the preset chooses its
member, and the options of the other members do not exist for that preset. `experiments.fields.replace` changes options
by their flat names.
"""

import dataclasses
import math
from typing import Literal

from experiments.config.backbones import Backbone as Backbone, DeepBackbone as DeepBackbone
from experiments.config.baselines import (
    DDF as DDF,
    DFN as DFN,
    DRNN as DRNN,
    Baseline as Baseline,
    BranchyNet as BranchyNet,
    DenseDDF as DenseDDF,
    HyperWRN as HyperWRN,
    ODENet as ODENet,
    ResNet8 as ResNet8,
    SkipNet as SkipNet,
    Tiniest as Tiniest,
    WeightNet as WeightNet,
)
from experiments.config.options import Options as Options
from experiments.config.puppet import (
    Adaptive as Adaptive,
    ByComplexity as ByComplexity,
    ByConfidence as ByConfidence,
    FrozenBasis as FrozenBasis,
    Generated as Generated,
    OneDepth as OneDepth,
    Ordinary as Ordinary,
    OtherGenerator as OtherGenerator,
    PuppetCNN as PuppetCNN,
)
from experiments.config.puppetized import Puppetized as Puppetized, Transformer as Transformer
from experiments.fields import check_at_least, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a run sees."""

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

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, num_images=1, num_validation=1, num_test=1, cutout=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """How a network is trained."""

    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Adam; or Muon for arrays of two axes and kernels of convolutions, with updates of Adam's size, else Adam."""
    learning_rate: float = 1e-3
    """Peak of the schedule: short warm-up, cosine decay to zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay: Adam's on matrices, Muon's on what it updates; 0 for none."""
    label_smoothing: float = 0.0
    """In [0, 1)."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, epochs=1, batch_size=1)
        require(0 < self.learning_rate < math.inf, "learning_rate", "positive and finite", self.learning_rate)
        require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0 and finite", self.weight_decay)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """What trained networks tell the one in training: their probabilities of the classes are part of its targets."""

    teachers: tuple[str, ...] = ()
    """Folders of runs on the same data, whose mean probabilities are the answer; none if not given."""
    teacher_weight: float = 0.7
    """Part of a target that is the teachers' answer, in (0, 1]; the rest is the label."""
    teacher_temperature: float = 1.5
    """Divides the teachers' logits; above 1 their answer is softer."""

    def __post_init__(self):
        """Refuses values outside their range, and options of teachers that are not there."""
        require(0 < self.teacher_weight <= 1, "teacher_weight", "in (0, 1]", self.teacher_weight)
        temperature = self.teacher_temperature
        require(0 < temperature < math.inf, "teacher_temperature", "positive and finite", temperature)
        if not self.teachers:
            for field in dataclasses.fields(self)[1:]:
                value = getattr(self, field.name)
                require(value == field.default, field.name, "left out where there are no --teachers", value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run computes; written to `config.json`."""

    network: PuppetCNN | Backbone | DeepBackbone | Baseline | Transformer | Puppetized
    """What is trained."""
    data: Data = Data()
    """On which images."""
    optim: Optim = Optim()
    """How."""
    bits: Literal[32, 8, 4] = 32
    """Bits of a stored weight; training sees the rounded values (quantisation-aware)."""
    start_from: str | None = None
    """Folder of a run of the same network whose parameters training starts with; those of the seed if not given."""
    distillation: Distillation = dataclasses.field(default=Distillation(), metadata={"stored": "unless default"})
    """By which teachers."""
    seed: int = 0
    """Of the subset, the split, the initial parameters and the order of the batches."""

    def __post_init__(self):
        """Refuses values outside their range."""
        check_at_least(self, seed=0)
        require(self.seed < 2**32, "seed", "less than 2**32", self.seed)
        if isinstance(kernels := getattr(self.network, "kernels", None), Adaptive) and kernels.sharing == "level":
            what = f"a divisor of the batch size {self.optim.batch_size}"
            divides = self.optim.batch_size % kernels.levels_per_batch == 0
            require(divides, "levels_per_batch", what, kernels.levels_per_batch)
