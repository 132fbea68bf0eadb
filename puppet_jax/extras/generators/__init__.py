"""Generators other than the puppeteer, of as many floats as asked for: `puppet_jax.puppetize(model, generator=...)`.

None of them depends on the complexity of an image; a `Hypernetwork` depends on a vector where it is told to.
"""

from puppet_jax.extras.generators.frozen_basis import FrozenBasis as FrozenBasis
from puppet_jax.extras.generators.hypernetwork import Hypernetwork as Hypernetwork
from puppet_jax.extras.generators.inverse_dct import InverseDCT as InverseDCT
from puppet_jax.extras.generators.low_rank import LowRank as LowRank
from puppet_jax.extras.generators.shared import Shared as Shared
