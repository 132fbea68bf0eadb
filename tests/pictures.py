"""Pictures that tests make themselves."""

import numpy as np


def photo(height=32, width=32, channels=3):
    """A smooth picture with texture, (height, width, channels) uint8; the same on every machine."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((7 * x + 5 * y * (c + 1) + x * y // 4 + 13 * ((x // 5 + y // 3) % 4)) % 256).astype(np.uint8)
