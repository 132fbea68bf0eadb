"""Pictures that tests make themselves."""

import numpy as np


def photo(height=32, width=32, channels=3):
    """A smooth picture with texture, (height, width, channels) uint8; the same on every machine."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((7 * x + 5 * y * (c + 1) + x * y // 4 + 13 * ((x // 5 + y // 3) % 4)) % 256).astype(np.uint8)


def smooth_pictures(count, size=32):
    """Pictures of a few waves of random colours, directions and lengths, (count, size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    found = np.zeros((count, size, size, 3))
    for _ in range(4):
        (fx, fy), phase = rng.uniform(-4, 4, (2, count, 1, 1)), rng.uniform(0, 6.3, (count, 1, 1))
        found += np.sin(6.3 * (fx * x + fy * y) + phase)[..., None] * rng.uniform(-1, 1, (count, 1, 1, 3))
    low, high = found.min(axis=(1, 2, 3), keepdims=True), found.max(axis=(1, 2, 3), keepdims=True)
    return np.round(255 * (found - low) / (high - low)).astype(np.uint8)


def photograph(folder, size=96):
    """The path of a photograph that comes with scikit-learn, cut and scaled down to `size` x `size`."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    square = Image.fromarray(load_sample_image("china.jpg")[40:380, 150:490])
    square.resize((size, size)).save(folder / "photograph.png")
    return folder / "photograph.png"


def write_screenshot(page, path, width=1000):
    """What a browser shows, from top to bottom, in few colours and at most `width` pixels wide."""
    import io
    import time

    from PIL import Image

    size = page.get_window_size()
    height = page.execute_script("return document.documentElement.scrollHeight")
    page.set_window_size(size["width"], height + 160)
    time.sleep(1)
    shot = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
    shot = shot.resize((width, width * shot.height // shot.width), Image.Resampling.LANCZOS)
    shot.quantize(64).save(path, optimize=True)
    page.set_window_size(size["width"], size["height"])
