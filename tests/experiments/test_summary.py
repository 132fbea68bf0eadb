"""`summary.json`: written and read, described, refused."""

import dataclasses
import json

import pytest
from made_up import make_summary
from tiny_run import CONFIG

from experiments.errors import RunError
from experiments.evaluation.summary import describe, read_summary, write_summary


def test_description_names_every_figure():
    figures = {"top1": 0.123, "top5": 0.456, "loss": 2.5, "latency_s": 0.001, "latency_generating_s": 0.02}
    figures |= {"images_per_s": 1234.5, "device": "one abacus", "test_images": 12, "depth_counts": {"1": 5, "2": 7}}
    figures |= {"puppeteer_bytes": 1_001, "trainable_bytes": 2_002, "file_bytes": 3_003, "coded_bytes": 1_717}
    figures |= {"host_peak_bytes": 5 * 10**9}
    figures |= {"generator_macs": 4_400_000, "puppet_macs": 5_500_000, "depth_mean": 1.5, "depth_std": 0.5}
    text = describe(dataclasses.asdict(make_summary(CONFIG, **figures)))
    for part in (
        *("12.30% of 12 test images", "45.60%", "2.5000", "1.50 ± 0.50 (depth 1: 5, depth 2: 7)", "0.00100 s/img"),
        *("0.02000 s/img", "1,234 images/s", "one abacus", "1,001 bytes", "2,002 bytes", "3,003 bytes"),
        "coded          1,717 bytes: all that inference needs",
        *("4.4 M", "5.5 M", "5.00 GB on the host"),
    ):
        assert part in text
    without = describe(dataclasses.asdict(make_summary(CONFIG, host_peak_bytes=None, coded_bytes=None)))
    assert "peak memory" not in without and "coded" not in without


def test_what_was_written_is_read(tmp_path):
    summary = make_summary(CONFIG, ensembles=({"runs": ["a", "b"], "top1": 0.5},), validation_top1=None)
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == summary


def test_none(tmp_path):
    with pytest.raises(RunError, match=r"holds no summary\.json; `python -m experiments\.evaluate .*` writes it"):
        read_summary(tmp_path)


FOUND = dataclasses.asdict(make_summary(CONFIG))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        json.dumps(FOUND | {"grade": "A"}),
        json.dumps({name: value for name, value in FOUND.items() if name != "loss"}),
        json.dumps({name: value for name, value in FOUND.items() if name != "ensembles"}),
        json.dumps(FOUND | {"top1": None}),
        json.dumps(FOUND | {"ensembles": 3}),
    ],
    ids=[
        *("empty", "cut off", "a list", "null", "no field", "a field too many", "a field missing", "no ensembles"),
        *("no figure", "no list"),
    ],
)
def test_damaged(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(RunError, match=r"summary\.json is damaged or of another version .* writes it anew"):
        read_summary(tmp_path)
