"""Multiply-accumulates of an image through each network of the frontier, as a CPU computes them."""

import json

import jax

from experiments.cifar10 import PRESETS
from experiments.fields import replace
from experiments.tables.definitions import equal_bytes, few_products

configs = {row.label: row.config for table in (equal_bytes(), few_products()) for row in table.rows}
configs["preset full"] = PRESETS["full"]
configs["C = 256, stages 32-64-256-256"] = replace(PRESETS["light"], channels=(32, 64, 256, 256), layers=(1, 1, 2, 2))
found = {}
for label, config in configs.items():
    network = config.network.make(10, (32, 32, 3))
    depth = network.depth
    params = jax.eval_shape(lambda network=network, depth=depth: network.init(0, (depth,)))
    found[label] = network.macs(params, depth)[1]
print(json.dumps(found, indent=1))
