"""What the papers do not have: an early exit, few bits a float, ensembles, splitting. The core does not import it."""

from puppet_jax.extras.early_exit import (
    EarlyExitParams as EarlyExitParams,
    ExitHead as ExitHead,
    apply_with_exit as apply_with_exit,
    combine_exits as combine_exits,
    confidence as confidence,
    exit_macs as exit_macs,
    exit_threshold as exit_threshold,
    init_exit as init_exit,
)
from puppet_jax.extras.ensembling import (
    DIAGONALS as DIAGONALS,
    ensemble as ensemble,
    shifted_views as shifted_views,
)
from puppet_jax.extras.exit_predictor import (
    EarlyExitPredictor as EarlyExitPredictor,
    load_early_exit as load_early_exit,
)
from puppet_jax.extras.quantization import (
    Quantized as Quantized,
    choose_bits as choose_bits,
    dequantize as dequantize,
    dequantize_tree as dequantize_tree,
    fake_quantize as fake_quantize,
    quantize as quantize,
    quantize_tree as quantize_tree,
    quantized_bytes as quantized_bytes,
)
from puppet_jax.extras.sharding import shard_puppeteer as shard_puppeteer
