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

    Args:
        puppet: of `puppetize(model, ...)`, with any generator. Its default condition `puppet.h` is fitted.
        model: the trained model; not changed.
        inputs: examples, an array (examples, ...) or a tuple of such, one a positional argument of the model.
        num_steps: batches that are seen.
        batch_size: examples a batch, drawn at random.
        learning_rate: peak.
        key: of the draws; `jax.random.key(0)` if not given.

    Returns:
        (num_steps,) the loss: the mean squared difference of the outputs over the variance of the model's.

    Raises:
        TypeError: if `puppet` is none.
        ValueError: if the weights of the model are not those that the puppet replaces.

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
    inputs = tuple(map(jnp.asarray, inputs)) if isinstance(inputs, tuple) else (jnp.asarray(inputs),)
    num_steps, batch_size = as_integer("num_steps", num_steps), as_integer("batch_size", batch_size)
    trained = [_weight_of(model, one) for one in puppet.kernels]
    nnx.eval_shape(lambda puppet: puppet(*(x[:1] for x in inputs)), puppet)  # finds the order, if it is not known
    teacher = nnx.merge(*nnx.split(model), copy=True)
    teacher.eval()
    _copy_rest(teacher, puppet)
    puppet.keep_scale(trained)
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

    puppet.train()
    losses = []
    for one in jax.random.split(jax.random.key(0) if key is None else key, num_steps):
        places = jax.random.randint(one, (min(batch_size, len(inputs[0])),), 0, len(inputs[0]))
        losses.append(step(puppet, optimizer, teacher, tuple(x[places] for x in inputs)))
    puppet.eval()
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


def _copy_rest(teacher: nnx.Module, puppet: PuppetModel) -> None:
    """Gives the puppet's model all that is not generated."""
    trained = dict(nnx.to_flat_state(nnx.state(teacher)))
    for path, _ in nnx.to_flat_state(nnx.state(puppet.model)):
        if path in trained:
            at(puppet.model, path).set_value(jnp.array(trained[path].get_value()))


def _difference(found: Any, wanted: Any) -> Array:
    """Mean squared difference over the variance of what is wanted, mean over the arrays of two pytrees."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    errors = [jnp.square(a - b).mean() / (b.var() + 1e-6) for a, b in pairs if jnp.issubdtype(b.dtype, jnp.floating)]
    return jnp.stack(errors).mean()
