"""What can be trained: the papers' puppet, and backbones with kernels of their own or generated ones."""

from experiments.networks.backbone import BackboneNetwork as BackboneNetwork, BackbonePredictor as BackbonePredictor
from experiments.networks.build import make_network as make_network, read_network as read_network
from experiments.networks.contract import Generator as Generator, Network as Network, Predictor as Predictor
from experiments.networks.puppet import PuppetNetwork as PuppetNetwork
