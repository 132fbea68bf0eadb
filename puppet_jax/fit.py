"""From trained weights to a generator: a puppet that answers as a trained model does."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from puppet_jax.checks import as_integer
from puppet_jax.puppetized.model import PuppetModel
from puppet_jax.puppetized.plan import Generated, name_of
from puppet_jax.puppetized.weights import at


def fit(
    puppet: PuppetModel,
    model: nnx.Module,
    inputs: Any,
    *,
    num_steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    key: PRNGKeyArray | None = None,
) -> Float[Array, " steps"]:
    """Fits the puppet of a trained model to it, in place: first the scale of each weight, then the outputs.

    A generator of few floats cannot make given weights; it can make others that answer alike. Scales are set as
    `puppetize(keep_scale=True)` does, whatever is not generated (biases, norms, statistics) is copied, and then all
    that the puppet trains follows the outputs of the model (distillation, Hinton et al. 2015), by Adam with a cosine
    schedule. No labels are needed. To follow the outputs of the layers as well, or the weights, reached less far. How
    much is lost depends on how many floats are: compare both on data that neither saw, and train on with labels where
    there are any.

    The puppet then has scales: its state loads into `puppetize(model, ..., keep_scale=True)`, of a model of which the
    same weights are zero. It is left in the modes, of training or evaluation, in which it was found.

    Args:
        puppet: of `puppetize(model, ...)`, with any generator. Its default condition `puppet.h` is fitted.
        model: the trained model, with a `__call__`; not changed.
        inputs: examples, an array (examples, ...) or a tuple of such, one a positional argument of the model.
        num_steps: batches that are seen.
        batch_size: examples a batch, drawn at random.
        learning_rate: peak.
        key: of the draws; `jax.random.key(0)` if not given.

    Returns:
        (num_steps,) the loss: the mean squared difference of the outputs over the variance of the model's.

    Raises:
        TypeError: if `puppet` is none, or the model has no `__call__`.
        ValueError: if the model has not the weights that the puppet replaces, or others of other shapes; the puppet
            keeps the weights of a model, a generated one is zero, `inputs` are not as many each, or no output is
            floating.

    Example:
        >>> import jax, jax.numpy as jnp, puppet_jax as pj
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> trained = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.relu, nnx.Conv(8, 8, (3, 3), rngs=rngs))
        >>> x = jax.random.normal(jax.random.key(0), (32, 8, 8, 3))
        >>> puppet = pj.puppetize(trained, x[:1])
        >>> losses = pj.fit(puppet, trained, x, num_steps=20)
        >>> bool(losses[-1] < losses[0])
        True
    """
    if not isinstance(puppet, PuppetModel):
        raise TypeError(f"puppet must be a PuppetModel, which puppetize makes, got {type(puppet).__name__}.")
    if puppet.kept is not None:
        raise ValueError(
            "the puppet keeps the weights of its model and already answers as it does; fit one that was puppetized "
            "without difference=True."
        )
    for one in (puppet.model, model):
        if not callable(one):
            raise TypeError(
                f"fit calls puppet and model with inputs, and {type(one).__name__} has no __call__; give its class one "
                "that returns what is to be followed, and puppetize it anew."
            )
    inputs = tuple(map(jnp.asarray, inputs)) if isinstance(inputs, tuple) else (jnp.asarray(inputs),)
    if len({x.shape[:1] for x in inputs}) != 1 or inputs[0].shape[:1] in ((), (0,)):
        raise ValueError(
            "inputs must be an array of examples, or a tuple of such of one length, got shapes "
            f"{', '.join(str(x.shape) for x in inputs)}."
        )
    num_steps, batch_size = as_integer("num_steps", num_steps), as_integer("batch_size", batch_size)
    trained = [_weight_of(model, one) for one in puppet.kernels]
    teacher = nnx.merge(*nnx.split(model), copy=True)
    teacher.eval()
    rest = _rest(teacher, puppet)
    first = tuple(x[:1] for x in inputs)  # traced, finds the order of the weights, if it is not known
    nnx.eval_shape(lambda puppet, teacher: _difference(puppet(*first), teacher(*first)), puppet, teacher)
    puppet.keep_scale(trained)
    for variable, value in rest:
        variable.set_value(value)
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = nnx.Optimizer(puppet, optax.adam(schedule), wrt=nnx.Param)

    @nnx.jit
    def step(puppet: PuppetModel, optimizer: nnx.Optimizer, teacher: nnx.Module, batch: tuple[Array, ...]) -> Array:
        wanted = teacher(*batch)  # type: ignore[operator]

        def loss(puppet: PuppetModel) -> Array:
            return _difference(puppet(*batch), wanted)

        value, grads = nnx.value_and_grad(loss)(puppet)
        optimizer.update(puppet, grads)
        return value

    modes = _modes(puppet)
    puppet.train()
    losses = []
    for one in jax.random.split(jax.random.key(0) if key is None else key, num_steps):
        places = jax.random.randint(one, (min(batch_size, len(inputs[0])),), 0, len(inputs[0]))
        losses.append(step(puppet, optimizer, teacher, tuple(x[places] for x in inputs)))
    for module, name, mode in modes:
        setattr(module, name, mode)
    return jnp.stack(losses)


def _weight_of(model: nnx.Module, one: Generated) -> Array:
    """The trained weight that a generated one replaces."""
    try:
        found = at(model, one.paths[0]).get_value()
    except (AttributeError, KeyError, IndexError, TypeError):
        found = None
    shape = getattr(found, "shape", None)
    if found is None or shape != one.shape:
        raise ValueError(
            f"the model has no weight {one}: at {name_of(one.paths[0])} lies {'none' if shape is None else shape}. Fit "
            "the puppet of this model."
        )
    return found


def _rest(teacher: nnx.Module, puppet: PuppetModel) -> list[tuple[nnx.Variable, Array]]:
    """Variables of the puppet's model that are not generated, and what the teacher has there."""
    trained, found = dict(nnx.to_flat_state(nnx.state(teacher))), []
    for path, own in nnx.to_flat_state(nnx.state(puppet.model)):
        if path not in trained:
            continue
        value = jnp.array(trained[path].get_value())
        if value.shape != own.shape:
            raise ValueError(
                f"{name_of(path)} of the model has shape {value.shape}, that of the puppet {own.shape}; fit the puppet "
                "of this model."
            )
        found.append((at(puppet.model, path), value))
    return found


def _modes(puppet: PuppetModel) -> list[tuple[nnx.Module, str, bool]]:
    """What `train` and `eval` change: modules, names and values."""
    names = ("deterministic", "use_running_average")
    modules = [node for _, node in nnx.iter_graph(puppet) if isinstance(node, nnx.Module)]
    return [(module, name, vars(module)[name]) for module in modules for name in names if name in vars(module)]


def _difference(found: Any, wanted: Any) -> Array:
    """Mean squared difference over the variance of what is wanted, mean over the arrays of two pytrees."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    floats = [(a, b) for a, b in pairs if isinstance(b, jax.Array) and jnp.issubdtype(b.dtype, jnp.inexact)]
    if not floats:
        raise ValueError(
            "no output of the model is a floating array; fit one that returns such, as logits for classes."
        )
    errors = [jnp.square(jnp.abs(a - b)).mean() / (b.var() + 1e-6) for a, b in floats]
    return jnp.stack(errors).mean()
