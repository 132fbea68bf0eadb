"""The systems that the papers compare with, as presets (v1 tables 1 and 2). Imports no JAX."""

from experiments.config import (
    DDF,
    DFN,
    DRNN,
    Baseline,
    BranchyNet,
    Config,
    Data,
    DenseDDF,
    HyperWRN,
    ODENet,
    Optim,
    ResNet8,
    SkipNet,
    Tiniest,
    WeightNet,
)

BASELINES: dict[str, Baseline] = {
    "dfn": DFN(),
    "weightnet": WeightNet(),
    "ddf": DDF(),
    "ddf-dense": DenseDDF(),
    "branchynet": BranchyNet(),
    "skipnet": SkipNet(),
    "skipnet-reinforcement": SkipNet(phase="reinforcement"),
    "drnn": DRNN(),
    "odenet": ODENet(solver="dopri5"),
    "odenet-euler": ODENet(solver="euler"),
    "hyper-wrn": HyperWRN(),
    "tiniest": Tiniest(),
    "resnet8": ResNet8(),
}
"""By preset; "skipnet-reinforcement" goes on from a run of "skipnet", which `--start-from` names."""


def baseline_presets(data: Data, optim: Optim) -> dict[str, Config]:
    """Every system under one protocol."""
    return {name: Config(network=network, data=data, optim=optim) for name, network in BASELINES.items()}
