"""What tests of `puppetize` share: inputs, small puppets, and networks with kernels put in by hand."""

import jax
import jax.numpy as jnp
import models
import numpy as np
from flax import nnx

import puppet_jax as pj


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X = noise(4, 6, 6, 3)


def one_layer(**options):
    return models.build(lambda rngs: nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs, **options)))


def small(h=4.5, where=None, puppet=True, **options):
    net = models.build(models.Small, **options)
    return pj.puppetize(net, where=where, h=h) if puppet else net


def find(model, path):
    for part in path:
        model = getattr(model, part) if isinstance(model, nnx.Module) and isinstance(part, str) else model[part]
    return model


def by_hand(net, puppet, h):
    """A copy of the plain network with the kernels of the puppet, of complexity `h`, assigned one by one."""
    net = nnx.clone(net)
    for generated, kernel in zip(puppet.kernels, puppet.generate(h), strict=True):
        for path in generated.paths:
            find(net, path[:-1]).kernel = nnx.Param(kernel.astype(generated.dtype))
    return net


def shape_of(model, x, **kwargs):
    """Shape of the result of a call that is traced only, as under `jit`."""
    return nnx.eval_shape(lambda model, x: model(x, **kwargs), model, x).shape


def recorded_order(net, x, monkeypatch):
    """Paths of the convolutions of a plain network in the order in which a call runs them."""
    kinds = (nnx.Conv, nnx.ConvTranspose)
    paths, record = {}, []

    def run(x):
        model = nnx.clone(net)
        paths.update({id(node): path for path, node in nnx.iter_graph(model) if isinstance(node, kinds)})
        return model(x)

    for kind in kinds:

        def logged(self, *args, original=kind.__call__, **kwargs):
            record.append(paths[id(self)])
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__call__", logged)
    jax.eval_shape(run, x)
    monkeypatch.undo()
    return record


def equal_trees(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
