"""Kernels once per level of complexity, reused: they depend on the image through the scalar H alone."""

from collections import OrderedDict
from collections.abc import Callable

from jaxtyping import Array

from puppet_jax.puppet import Puppet
from puppet_jax.puppeteer import Puppeteer
from puppet_jax.trajectory import generate_kernels


class KernelBank:
    """Generated kernels by depth and complexity; the least recently used set makes room for a new one.

    A cache is the one kind of state that a pure function cannot hold; this object holds it, and nothing else does.

    Args:
        puppet: the architecture.
        puppeteer: the generator. A bank belongs to one set of parameters: make a new bank after an update.
        max_sets: how many sets of kernels are kept, at least 1. A set of the papers' puppet takes 63 MB in float32.
        generate: from (puppeteer, h, shapes) to kernels; another function serves another kind of puppeteer.
    """

    def __init__(
        self,
        puppet: Puppet,
        puppeteer: Puppeteer,
        max_sets: int = 128,
        generate: Callable[..., tuple[Array, ...]] = generate_kernels,
    ):
        if max_sets < 1:
            raise ValueError(f"max_sets must be at least 1, got {max_sets}.")
        self.puppet = puppet
        self.puppeteer = puppeteer
        self.max_sets = max_sets
        self.generate = generate
        self._sets: OrderedDict[tuple[int, float], tuple[Array, ...]] = OrderedDict()

    def __len__(self) -> int:
        """Number of sets held."""
        return len(self._sets)

    def __call__(self, depth: int, h: float) -> tuple[Array, ...]:
        """The kernels of the puppet of `depth`, generated at complexity `h` (nats), or found in the bank."""
        key = (depth, float(h))
        if key not in self._sets:
            while len(self._sets) >= self.max_sets:
                self._sets.popitem(last=False)
            self._sets[key] = self.generate(self.puppeteer, key[1], self.puppet.kernel_shapes(depth))
        self._sets.move_to_end(key)
        return self._sets[key]
