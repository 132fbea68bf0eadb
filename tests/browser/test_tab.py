"""The network in a browser tab answers as the predictor in Python does, and asks nothing of other servers.

Writes docs/tab.png where PUPPET_WRITE_SCREENSHOTS=1 is set.
"""

import base64
import functools
import http.server
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import photograph, smooth_pictures, write_screenshot
from PIL import Image

import puppet_jax as pj
from experiments.data.pictures import read_image
from experiments.webpage import Command, webpage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(170)]
ROOT = Path(__file__).parents[2]
MODEL = "cifar10-c64-4bit"
READY = "5222 bytes became 111456 weights"
ANSWER = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), size = 4 * MODEL.size ** 2;
return Array.from({length: bytes.length / size}, (_, i) => logits(bytes.subarray(i * size, (i + 1) * size)));
"""
RESIZED = """
const [data, height, width, size] = arguments, bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
return Array.from(resize(resize(bytes, height, width, size), size, height, size));
"""


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """The page, its kernels generated."""
    folder = tmp_path_factory.mktemp("tab")
    webpage(Command(run=MODEL, out=folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            browser.get(f"http://127.0.0.1:{server.server_port}/index.html")
            wait(lambda: READY in said(browser), browser)
            yield browser
            browser.get("about:blank")
        finally:
            server.shutdown()
            thread.join()


def said(page):
    return page.find_element("id", "said").text


def wait(condition, page):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, page.find_element("tag name", "body").text
        time.sleep(0.05)


def in_base64(images):
    """Images (..., 3) uint8 as a page has them: with a fourth value of 255 a pixel."""
    return base64.b64encode(np.pad(images, [(0, 0)] * (images.ndim - 1) + [(0, 1)], constant_values=255)).decode()


def assert_answers_alike(page, images):
    found = np.array(page.execute_script(ANSWER, in_base64(images)))
    expected = pj.load_pretrained(MODEL).predictor()(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    return np.abs(found - expected).max()


def test_two_hundred_pictures_get_the_logits_of_the_predictor(page):
    images = smooth_pictures(200)
    print(f"largest difference: {assert_answers_alike(page, images):.1e}")
    assert len(set(pj.load_pretrained(MODEL).predictor()(images).argmax(axis=1).tolist())) > 3  # not one class for all


@pytest.mark.data
def test_two_hundred_test_images_get_the_logits_of_the_predictor(page, cifar10_dir):
    from experiments.data import load_dataset

    images = load_dataset("cifar10", cifar10_dir).test_images[:200]
    print(f"largest difference: {assert_answers_alike(page, images):.1e}")


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (50, 75), (20, 31)], ids=str)
def test_pictures_are_resized_as_pillow_does(page, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = np.array(page.execute_script(RESIZED, in_base64(image), *size, 32)).reshape(32, 32, 4)
    expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS))
    assert (found[..., :3] == expected).all()
    assert (found[..., 3] == 255).all()


def test_a_photograph_is_dropped(page, tmp_path):
    path = photograph(tmp_path)
    page.find_element("id", "file").send_keys(str(path))
    wait(lambda: page.find_elements("css selector", "#answer tr"), page)
    model = pj.load_pretrained(MODEL)
    logits = model.predictor()(read_image(path, model.image_shape)[None])[0]
    odds = np.exp(logits - logits.max())
    rows = [row.text for row in page.find_elements("css selector", "#answer tr")]
    order = np.argsort(-odds)
    assert [row.split()[0] for row in rows] == [model.class_names[n] for n in order]
    shown = [float(row.split()[1]) for row in rows]
    np.testing.assert_allclose(shown, 100 * odds[order] / odds.sum(), atol=0.06)  # of one digit
    bars = [float(bar.get_property("value")) for bar in page.find_elements("css selector", "#answer meter")]
    np.testing.assert_allclose(bars, odds[order] / odds.sum(), atol=1e-5)
    if os.environ.get("PUPPET_WRITE_SCREENSHOTS") == "1":
        write_screenshot(page, ROOT / "docs" / "tab.png", width=760)


def test_what_is_no_image_is_refused_in_words(page, tmp_path):
    (tmp_path / "words.png").write_text("these are words")
    page.find_element("id", "file").send_keys(str(tmp_path / "words.png"))
    wait(lambda: said(page) == "words.png is damaged or no image that this browser reads.", page)


def test_less_than_six_kilobytes_of_weights_and_no_other_server(page, requested):
    page.refresh()
    wait(lambda: said(page).startswith(READY), page)
    addresses = [url for url in requested() if not url.startswith("data:")]
    assert {url.split(":")[1] for url in addresses} == {"//127.0.0.1"}
    assert sorted(url.rpartition("/")[2] for url in addresses) == [
        *("index.html", "model.js", "network.js", "page.js", "weights.bin"),
    ]
    assert page.get_log("browser") == []  # nothing complained
