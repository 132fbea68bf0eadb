"""Puppet-CNN in JAX: a small neural ODE generates every convolution kernel of a deep CNN.

Everything named here is public; everything else may change at any time.
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
from puppet_jax.answers import (
    average_answers as average_answers,
    moved_views as moved_views,
)
from puppet_jax.complexity import (
    CalibratedComplexity as CalibratedComplexity,
    calibrate as calibrate,
    complexity as complexity,
)
from puppet_jax.early_exit import (
    EarlyExitPredictor as EarlyExitPredictor,
    combine_exits as combine_exits,
    doubt as doubt,
    exit_threshold as exit_threshold,
)
from puppet_jax.execution_order import execution_order as execution_order
from puppet_jax.kernel_bank import KernelBank as KernelBank
from puppet_jax.pretrained import (
    PretrainedPuppet as PretrainedPuppet,
    load_pretrained as load_pretrained,
    pretrained_file as pretrained_file,
    pretrained_models as pretrained_models,
)
from puppet_jax.projection import (
    adaptive_average_pool as adaptive_average_pool,
    project as project,
)
from puppet_jax.puppet import (
    BatchStats as BatchStats,
    ExitParams as ExitParams,
    Puppet as Puppet,
    PuppetParams as PuppetParams,
    apply_exits as apply_exits,
    apply_puppet as apply_puppet,
    centred as centred,
    init_batch_stats as init_batch_stats,
    init_puppet as init_puppet,
    puppet_matrices as puppet_matrices,
)
from puppet_jax.puppeteer import (
    Puppeteer as Puppeteer,
    field as field,
    init_puppeteer as init_puppeteer,
)
from puppet_jax.puppetize import (
    PuppetModel as PuppetModel,
    puppetize as puppetize,
)
from puppet_jax.quantization import (
    Quantized as Quantized,
    choose_bits as choose_bits,
    dequantize as dequantize,
    dequantize_tree as dequantize_tree,
    fake_quantize as fake_quantize,
    quantize as quantize,
    quantize_tree as quantize_tree,
    quantized_bytes as quantized_bytes,
)
from puppet_jax.routing import (
    Group as Group,
    Predictor as Predictor,
    complexities as complexities,
    make_groups as make_groups,
    nearest_depths as nearest_depths,
    run_groups as run_groups,
    slice_centre as slice_centre,
)
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
