"""Networks from configurations, and from what a model file says of them."""

from typing import Any

import puppet_jax as pj
from experiments.config import Config
from experiments.networks.backbone import BackboneNetwork
from experiments.networks.contract import Generator, Network
from experiments.networks.puppet import PuppetNetwork


def make_network(config: Config, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
    """The network that a configuration describes.

    Args:
        config: of the run.
        num_classes: of the data set.
        image_shape: (height, width, channels) of its images.

    Raises:
        ValueError: if there is no such network.
    """
    settings: dict[str, Any] = {
        "initial_state": config.initial_state,
        "seed": config.pattern_seed,
        "scale": config.scale,
        "kernels_from": config.kernels_from,
    }
    if config.network != "puppet":
        # as wide as the width that is asked for (AlexNet's widest is 384 of 512), or as the widest kernel
        c = None if config.network in ("resnet20", "mobilenet_v2") else config.max_channels or 512
        generated = Generator(max_channels=c, kernel_size=None, **settings)
        return BackboneNetwork(
            name=config.network,
            num_classes=num_classes,
            image_shape=image_shape,
            num_layers=config.num_layers,
            max_channels=config.max_channels,
            generator=generated if config.kernels == "generated" else None,
        )
    exits = config.spread if config.adapts == "doubt" else None
    puppet = pj.Puppet(
        channels=config.channels,
        num_classes=num_classes,
        in_channels=image_shape[-1],
        kernel_size=config.kernel_size,
        depth_rule=config.depth_rule,
        stem=config.stem,
        dropout=config.dropout,
        mirror=config.mirror,
        residual=config.residual,
        affine=config.affine,
        classifier=config.classifier,
        max_depth=exits and exits[1],
        exit_depth=exits[0] if exits and config.own_exit else None,
    )
    if exits is not None and puppet.layers(exits[0]) == puppet.layers(exits[1]):
        raise ValueError(f"puppets of depths {exits[0]} and {exits[1]} are the same; give other depths to --spread.")
    generator = Generator(max_channels=config.max_channels, kernel_size=config.kernel_size, **settings)
    size = image_shape[:2]
    return PuppetNetwork(puppet=puppet, generator=generator, image_size=size, kernels=config.kernels, exits=exits)


def read_network(described: dict[str, Any]) -> Network:
    """The network that `describe` described, after a way through JSON.

    Raises:
        KeyError, TypeError, ValueError: if it describes none.
    """
    fields = dict(described)
    kind = fields.pop("kind")
    if fields["generator"] is not None:
        fields["generator"] = Generator(**fields["generator"])
    if kind == "backbone":
        return BackboneNetwork(**fields | {"image_shape": tuple(fields["image_shape"])})
    if kind != "puppet":
        raise ValueError(f"the kind of a network is puppet or backbone, got {kind!r}")
    fields["puppet"] = pj.Puppet(**fields["puppet"] | {"channels": tuple(fields["puppet"]["channels"])})
    exits = fields.get("exits")
    return PuppetNetwork(**fields | {"image_size": tuple(fields["image_size"]), "exits": exits and tuple(exits)})
