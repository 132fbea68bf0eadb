"""The networks that the papers compare with, as ordinary Flax NNX modules.

Every network takes floating images (batch, height, width, in_channels) that are already centred and returns logits
(batch, num_classes). All end in a global average pool, so that images of 32x32 and of 64x64 give the same parameters.

The papers print sizes, not layers. The AlexNet, VGG, ResNet, MobileNet-v1 and SqueezeNet here are the plain networks
of at most 512 channels that have those sizes. What the papers leave open is chosen as is usual for small images:
convolutions are padded by half their kernel, pools are 2x2, the first layer has stride 1; kernels and hidden linear
layers start He-normal (fan-in), classifiers uniform within 1 / sqrt(fan-in), biases at zero; batch norms average
with momentum 0.9, ε = 1e-5.

A new network is in training mode; `network.eval()` makes its batch norms use their running statistics.
"""

import inspect
from typing import Any

from flax import nnx

from experiments.networks.backbones.alexnet import AlexNet
from experiments.networks.backbones.mobilenet import MobileNetV1, MobileNetV2
from experiments.networks.backbones.resnet import ResNet, ResNet20
from experiments.networks.backbones.squeezenet import SqueezeNet
from experiments.networks.backbones.vgg import VGG

BACKBONES: dict[str, type[Any]] = {
    "alexnet": AlexNet,
    "vgg": VGG,
    "resnet": ResNet,
    "resnet20": ResNet20,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "squeezenet": SqueezeNet,
}
"""The networks by name."""


def make_backbone(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    num_layers: int | None = None,
    max_channels: int | None = None,
    affine: bool | None = None,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Makes a network of `BACKBONES`.

    Args:
        name: of the network.
        num_classes: at least 1.
        in_channels: of the images.
        num_layers: of "vgg", "resnet" or "resnet20"; the network's own default if None.
        max_channels: scales every width; 512 if None, of "resnet20" 64.
        affine: of "vgg" and "resnet"; true if None.
        rngs: `params` are drawn from it.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: if there is no such network, if it has no such option, or if it refuses a value.
    """
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {', '.join(BACKBONES)}, got {name!r}.")
    network = BACKBONES[name]
    given = {"num_layers": num_layers, "max_channels": max_channels, "affine": affine}
    options = {option: value for option, value in given.items() if value is not None}
    for option, value in options.items():
        if option not in inspect.signature(network.__init__).parameters:
            raise ValueError(f"{option} is no option of {name}, got {value}; leave it out.")
    return network(num_classes, in_channels=in_channels, rngs=rngs, **options)
