"""The rows of the study: what each trains. Imports no JAX."""

import dataclasses
from typing import Any

from experiments.config import NARROW, SMALL, STATE, VELOCITY, Config

SHORT = dataclasses.replace(SMALL, adapt="none", spread=(4, 4), num_levels=1, epochs=8, num_test=1_000)
"""C = 64, stages 16-32-64 of four layers, Adam; eight epochs, three minutes on two cores."""
MUON = dataclasses.replace(SHORT, optimizer="muon", learning_rate=2.5e-3)
WIDE = dataclasses.replace(MUON, channels=(32, 48, 64), stem=True)
RESIDUAL = dataclasses.replace(
    SHORT, network="resnet20", num_layers=8, max_channels=19, kernels="stored", adapt=None, spread=None
)
"""An ordinary residual network of as many bytes."""
WHOLE = dataclasses.replace(
    MUON,
    channels=(32, 64, 64),
    stem=True,
    depth_rule="total",
    spread=(6, 6),
    dropout=0.2,
    weight_decay=0.4,
    epochs=28,
)
"""Layers 1-2-3, dropout: the first preset `best`; ten minutes on one core."""
WHOLE_64 = dataclasses.replace(WHOLE, channels=(64, 64, 64), spread=(7, 7), num_test=None)
"""As wide as the puppeteer can make it from the stem on, layers 1-3-3."""
BEST_64 = dataclasses.replace(WHOLE_64, mirror=True, **VELOCITY, dropout=0.1)
"""Mirrored, from the velocity, with less dropout."""
LAST_64 = dataclasses.replace(BEST_64, depth_rule="last", spread=(8, 8))
"""Layers 1-1-6: a layer costs least in the last stage."""
WHOLE_128 = dataclasses.replace(WHOLE_64, channels=(64, 128, 128))
"""C = 128; a quarter of an hour on one core."""
DOUBT: dict[str, Any] = {"adapt": "doubt", "spread": (5, 7), "deep_share": 0.36}
"""Layers 1-1-3 for all images, 1-3-3 for those in doubt; as many multiply-accumulates as layers 1-2-3 for all."""
WHOLE_RESIDUAL = dataclasses.replace(RESIDUAL, epochs=28, learning_rate=1e-2, num_test=None)
RESIDUAL_128 = dataclasses.replace(WHOLE_RESIDUAL, max_channels=34)
"""As many bytes as a puppet of C = 128."""
RESIDUAL_512 = dataclasses.replace(WHOLE_RESIDUAL, num_layers=20, max_channels=65, batch_size=128)
"""ResNet-20, 1.1 MB."""
ADAM: dict[str, Any] = {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 0.05}
SLIM = dataclasses.replace(WHOLE, channels=(6, 12, 12), kernels="stored", dropout=0.0, num_test=None)
"""The puppet's own layers 1-2-3, but slim, and every weight stored: as many bytes."""
SLIM_ADAM = dataclasses.replace(SLIM, **ADAM)
SLIM_MIRROR = dataclasses.replace(SLIM_ADAM, channels=(8, 16, 16), spread=(7, 7), mirror=True, dropout=0.1)
"""The best of them, and the fair opponent: mirrored as the puppet is."""
COMBINED_64 = dataclasses.replace(WHOLE_64, mirror=True, kernels="combined", **ADAM)
"""The control of frozen random kernels, as `whole-64-mirror` otherwise."""

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
    "whole-four": dataclasses.replace(WHOLE, channels=(32, 64, 64, 64), spread=(9, 9)),
    "whole-64": WHOLE_64,
    "whole-64-dropout-0.1": dataclasses.replace(WHOLE_64, dropout=0.1),
    "whole-64-mirror": dataclasses.replace(WHOLE_64, mirror=True),
    "whole-64-mirror-dropout-0.1": dataclasses.replace(WHOLE_64, mirror=True, dropout=0.1),
    "whole-64-velocity": dataclasses.replace(WHOLE_64, mirror=True, kernels_from="velocity"),
    "whole-64-velocity-0.03": dataclasses.replace(WHOLE_64, mirror=True, **VELOCITY),
    "whole-residual": WHOLE_RESIDUAL,
    "whole-residual-twice": dataclasses.replace(WHOLE_RESIDUAL, learning_rate=2e-2),
    "whole-residual-four-times": dataclasses.replace(WHOLE_RESIDUAL, learning_rate=4e-2),
    "whole-residual-eight-times": dataclasses.replace(WHOLE_RESIDUAL, learning_rate=8e-2),
    "whole-residual-muon": dataclasses.replace(WHOLE_RESIDUAL, optimizer="muon", learning_rate=5e-3),
    "whole-slim": SLIM_ADAM,
    "whole-slim-muon": SLIM,
    "whole-slim-dropout": dataclasses.replace(SLIM_ADAM, dropout=0.1),
    "whole-slim-mirror": SLIM_MIRROR,
    "whole-slim-mirror-twice": dataclasses.replace(SLIM_MIRROR, learning_rate=2e-2),
    "whole-slim-mirror-four-times": dataclasses.replace(SLIM_MIRROR, learning_rate=4e-2),
    "whole-slim-mirror-eight-times": dataclasses.replace(SLIM_MIRROR, learning_rate=8e-2),
    "whole-128": WHOLE_128,
    "whole-128-mirror": dataclasses.replace(WHOLE_128, mirror=True),
    "whole-64-velocity-int4": dataclasses.replace(WHOLE_64, mirror=True, bits=4, **VELOCITY),
    "whole-128-velocity": dataclasses.replace(WHOLE_128, mirror=True, **VELOCITY),
    "whole-64-combined": COMBINED_64,
    "whole-64-combined-four-times": dataclasses.replace(COMBINED_64, learning_rate=4e-2),
    "whole-64-combined-four-times-dropout-0.1": dataclasses.replace(COMBINED_64, learning_rate=4e-2, dropout=0.1),
    "whole-64-combined-eight-times": dataclasses.replace(COMBINED_64, learning_rate=8e-2),
    "whole-64-wider": dataclasses.replace(WHOLE_128, mirror=True, max_channels=64),
    "whole-64-mixed": dataclasses.replace(WHOLE_64, mirror=True, adapt="depth", spread=(4, 7), mix_depths=True),
    "whole-64-doubt": dataclasses.replace(WHOLE_64, mirror=True, **DOUBT),
    "whole-64-doubt-third": dataclasses.replace(WHOLE_64, mirror=True, **DOUBT, shallow_weight=0.3),
    "whole-64-velocity-doubt": dataclasses.replace(WHOLE_64, mirror=True, **VELOCITY, **DOUBT),
    "whole-64-velocity-doubt-own": dataclasses.replace(WHOLE_64, mirror=True, **VELOCITY, **DOUBT, own_exit=True),
    "whole-64-velocity-doubt-own-dropout-0.1": dataclasses.replace(BEST_64, **DOUBT, own_exit=True),
    "whole-64-velocity-dropout-0.1": BEST_64,
    "whole-64-velocity-dropout-0.1-twice": dataclasses.replace(BEST_64, learning_rate=5e-3),
    "whole-64-velocity-dropout-0.1-four-times": dataclasses.replace(BEST_64, learning_rate=1e-2),
    "whole-64-mirror-dropout-0.1-twice": dataclasses.replace(WHOLE_64, mirror=True, dropout=0.1, learning_rate=5e-3),
    "whole-64-velocity-depth-6-dropout-0.1": dataclasses.replace(BEST_64, spread=(6, 6)),
    "whole-64-velocity-depth-5-dropout-0.1": dataclasses.replace(BEST_64, spread=(5, 5)),
    "whole-64-last-8": LAST_64,
    "whole-64-last-12": dataclasses.replace(LAST_64, spread=(12, 12)),
    "whole-64-last-doubt": dataclasses.replace(
        LAST_64, adapt="doubt", spread=(5, 12), deep_share=0.42, own_exit=True
    ),  # as many multiply-accumulates as 1-1-6
    "whole-64-last-detached": dataclasses.replace(
        LAST_64, adapt="doubt", spread=(5, 8), deep_share=0.4, own_exit=True, detach_exit=True
    ),
    "whole-128-doubt": dataclasses.replace(WHOLE_128, mirror=True, **DOUBT),
    "whole-128-mirror-dropout-0.3": dataclasses.replace(WHOLE_128, mirror=True, dropout=0.3),
    "whole-512": dataclasses.replace(NARROW, **STATE, dropout=0.3, batch_size=128),
    "whole-512-velocity": dataclasses.replace(NARROW, dropout=0.3, batch_size=128),
    "whole-512-residual": RESIDUAL_512,
    "whole-512-residual-four-times": dataclasses.replace(RESIDUAL_512, learning_rate=4e-2),
    "whole-128-slim-mirror": dataclasses.replace(SLIM_MIRROR, channels=(14, 28, 28)),
    "whole-128-residual": RESIDUAL_128,
    "whole-128-residual-half": dataclasses.replace(RESIDUAL_128, learning_rate=5e-3),
    "whole-128-residual-four-times": dataclasses.replace(RESIDUAL_128, learning_rate=4e-2),
    "whole-128-slim": dataclasses.replace(SLIM_ADAM, channels=(10, 20, 20), spread=(7, 7)),
    "whole-128-slim-muon": dataclasses.replace(SLIM, channels=(10, 20, 20), spread=(7, 7)),
    "whole-128-slim-dropout": dataclasses.replace(SLIM_ADAM, channels=(10, 20, 20), spread=(7, 7), dropout=0.1),
}
"""By name; README.md has the question of each and what came of it."""
