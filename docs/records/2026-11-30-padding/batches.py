"""Times predictors of shipped models on batches of many sizes: batches.py DATA."""

import json
import statistics
import sys
import time
from pathlib import Path

import puppet_jax as pj
from experiments.data import load_dataset, spread_indices

images = load_dataset("cifar10", Path(sys.argv[1])).test_images
routed = images[spread_indices(len(images), 2048)]


def milliseconds(predictor, batch, rounds):
    """Median of so many calls after the first."""
    predictor(batch)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        predictor(batch)
        times.append(time.perf_counter() - started)
    return round(1e3 * statistics.median(times), 2)


several = pj.load_pretrained("cifar10-adaptive").predictor(max_sets=4096)
one = pj.load_pretrained("cifar10-c64-4bit").predictor()
found = {"cifar10-adaptive": {len(part): milliseconds(several, part, 5) for part in (routed, routed[:32])}}
counts = (2, 3, 5, 10, 24, 32, 100, 130, 200, 256)
found["cifar10-c64-4bit"] = {count: milliseconds(one, images[:count], 9) for count in counts}
pj.complexities(images[:2048])
started = time.perf_counter()
pj.complexities(images)
found["complexity of 10,000 images"] = round(1e3 * (time.perf_counter() - started))
print(json.dumps(found))
