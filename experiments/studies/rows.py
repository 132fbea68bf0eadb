"""The rows of the study: what each trains. Imports no JAX."""

import dataclasses

from experiments.config import BEST, SMALL, Config

SHORT = dataclasses.replace(SMALL, adapt="none", spread=(4, 4), num_levels=1, epochs=8, num_test=1_000)
"""C = 64, stages 16-32-64 of four layers, Adam; eight epochs, three minutes on two cores."""
MUON = dataclasses.replace(SHORT, optimizer="muon", learning_rate=2.5e-3)
WIDE = dataclasses.replace(MUON, channels=(32, 48, 64), stem=True)
RESIDUAL = dataclasses.replace(
    SHORT, network="resnet20", num_layers=8, max_channels=19, kernels="stored", adapt=None, spread=None
)
"""An ordinary residual network of as many bytes."""
WHOLE = dataclasses.replace(BEST, num_test=1_000)
"""As long as preset `best`: a quarter of an hour."""

ROWS: dict[str, Config] = {
    "adam": SHORT,
    "muon": MUON,
    "muon-twice": dataclasses.replace(MUON, learning_rate=5e-3),
    "wide": WIDE,
    "wide-decay": dataclasses.replace(WIDE, weight_decay=0.4),
    "wide-decay-thrice": dataclasses.replace(WIDE, weight_decay=1.2),
    "wide-adam": dataclasses.replace(WIDE, optimizer="adam", learning_rate=3e-3),
    "wide-depth-3": dataclasses.replace(WIDE, spread=(3, 3)),
    "wide-standardised": dataclasses.replace(WIDE, kernels="standardised"),
    "wide-reseeded": dataclasses.replace(WIDE, kernels="reseeded"),
    "wide-learned": dataclasses.replace(WIDE, initial_state="learned"),
    "wide-plain": dataclasses.replace(WIDE, residual=False),
    "wide-total": dataclasses.replace(WIDE, depth_rule="total", spread=(8, 8)),
    "wide-both": dataclasses.replace(WIDE, adapt="both", spread=None, num_levels=2),
    "wide-depth": dataclasses.replace(WIDE, adapt="depth", spread=(3, 5)),
    "wide-combined": dataclasses.replace(WIDE, kernels="combined"),
    "wide-combined-adam": dataclasses.replace(WIDE, kernels="combined", optimizer="adam", learning_rate=1e-2),
    "wide-stored": dataclasses.replace(WIDE, kernels="stored"),
    "residual-adam": dataclasses.replace(RESIDUAL, learning_rate=3e-3),
    "residual-adam-thrice": dataclasses.replace(RESIDUAL, learning_rate=1e-2),
    "residual-muon": dataclasses.replace(RESIDUAL, optimizer="muon", learning_rate=2.5e-3),
    "residual-muon-thrice": dataclasses.replace(RESIDUAL, optimizer="muon", learning_rate=8e-3),
    "residual-14-layers": dataclasses.replace(RESIDUAL, num_layers=14, max_channels=12, learning_rate=1e-2),
    "whole": WHOLE,
    "whole-undropped": dataclasses.replace(WHOLE, dropout=0.0),
    "whole-dropout-0.3": dataclasses.replace(WHOLE, dropout=0.3),
    "whole-depth": dataclasses.replace(WHOLE, adapt="depth", spread=(5, 7)),
    "whole-both": dataclasses.replace(WHOLE, adapt="both", spread=(5, 7), num_levels=2),
    "whole-int4": dataclasses.replace(WHOLE, bits=4),
}
"""By name; README.md has the question of each and what came of it."""
