"""What can be trained: the papers' puppet, what it is compared with, and backbones.

To add a network:

1. Write one file here with a frozen dataclass that is a `Network` (`contract.py`): its fields are static facts, JSON
   values; it implements `init`, `init_stats`, `apply`, `predictor`, `macs`, and where it differs from what is usual
   `loss` (several outputs, penalties), `matrices` and `generator`.
2. Name it in `KINDS`, so that its model files can be read.
3. Write its options as a record in `experiments/config/`, whose `make(num_classes, image_shape)` imports your file
   and returns the network; add the record to the union `Config.network`. No other network sees these options.
4. Write a preset in the file of an experiment: the whole configuration, with the number to expect at the file's head.

Loop, data, evaluation, checkpoints and run folders need no change. `tests/experiments/test_adding_a_network.py` does
steps 1 to 4 with a toy in fewer than 80 lines, and trains it.
"""

import importlib
from typing import Any

from experiments.fields import as_json, from_json
from experiments.networks.contract import Network as Network, Predictor as Predictor

KINDS = {
    "puppet": "puppet.PuppetNetwork",
    "early_exit": "early_exit.EarlyExitNetwork",
    "control": "puppet.ControlNetwork",
    "backbone": "backbone.BackboneNetwork",
    "dfn": "baselines.dfn.DFNNetwork",
    "weightnet": "baselines.weightnet.WeightNetNetwork",
    "ddf": "baselines.ddf.DDFNetwork",
    "dense_ddf": "baselines.ddf.DenseDDFNetwork",
    "branchynet": "baselines.branchynet.BranchyNetwork",
    "skipnet": "baselines.skipnet.SkipNetwork",
    "drnn": "baselines.drnn.DRNNNetwork",
    "odenet": "baselines.odenet.ODENetwork",
    "hyper_wrn": "baselines.hypernetwork.HyperWRNNetwork",
    "tiniest": "baselines.tiniest.TiniestNetwork",
    "transformer": "transformers.TransformerNetwork",
    "puppetized": "puppetized.PuppetizedNetwork",
    "resnet8": "baselines.resnet8.ResNet8Network",
}
"""Where the class of each kind of network is: module within this package, and name."""


def describe_network(network: Network) -> dict[str, Any]:
    """JSON values from which `read_network` makes the same network."""
    name = f"{type(network).__module__.removeprefix(__name__ + '.')}.{type(network).__name__}"
    (kind,) = (kind for kind, path in KINDS.items() if path == name)
    return {"kind": kind} | as_json(network)


def read_network(described: dict[str, Any]) -> Network:
    """The network that `describe_network` described, after a way through JSON.

    Raises:
        ValueError: if it describes none.
    """
    fields = dict(described)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"the kind of a network is one of {', '.join(KINDS)}, got {kind!r}")
    module, _, name = KINDS[kind].rpartition(".")
    return from_json(getattr(importlib.import_module(f"{__name__}.{module}"), name), fields)
