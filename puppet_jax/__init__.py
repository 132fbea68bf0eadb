"""Puppet-CNN in JAX: a small neural ODE generates every convolution kernel of a deep CNN.

The names here are public. Those in the modules may change at any time. What the papers do not have is in
`puppet_jax.extras`, pictures are in `puppet_jax.plots`; neither is imported here.
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError, version as _version

from puppet_jax.accounting import (
    generator_macs as generator_macs,
    num_bytes as num_bytes,
    num_floats as num_floats,
    puppet_macs as puppet_macs,
)
from puppet_jax.adaptation import (
    depth as depth,
    depth_interval as depth_interval,
    initial_level as initial_level,
    step_size as step_size,
)
from puppet_jax.any_depth import estimate_batch_stats as estimate_batch_stats
from puppet_jax.architecture import Puppet as Puppet
from puppet_jax.complexity import (
    CalibratedComplexity as CalibratedComplexity,
    calibrate as calibrate,
    complexity as complexity,
)
from puppet_jax.execution_order import execution_order as execution_order
from puppet_jax.fit import fit as fit
from puppet_jax.gains import start_gains as start_gains
from puppet_jax.generator import Generator as Generator, PuppeteerGenerator as PuppeteerGenerator
from puppet_jax.predictor import Predictor as Predictor
from puppet_jax.pretrained import (
    PretrainedPuppet as PretrainedPuppet,
    load_pretrained as load_pretrained,
    pretrained_models as pretrained_models,
)
from puppet_jax.projection import project as project
from puppet_jax.puppet import (
    BatchStats as BatchStats,
    PuppetParams as PuppetParams,
    apply_puppet as apply_puppet,
    init_batch_stats as init_batch_stats,
    init_puppet as init_puppet,
)
from puppet_jax.puppeteer import (
    Puppeteer as Puppeteer,
    field as field,
    init_puppeteer as init_puppeteer,
)
from puppet_jax.puppetize import puppetize as puppetize
from puppet_jax.puppetized.model import PuppetModel as PuppetModel
from puppet_jax.routing import complexities as complexities
from puppet_jax.seeded import seeded_pattern as seeded_pattern
from puppet_jax.trajectory import (
    generate_kernels as generate_kernels,
    num_steps as num_steps,
    trajectory as trajectory,
)

try:
    __version__ = _version("puppet-jax")
except _PackageNotFoundError:  # used from a checkout that is not installed
    __version__ = "0.0.0"
