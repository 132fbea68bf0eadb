"""The page of `experiments.explore` in a browser: an image is dropped, the slider moved, other files refused.

The page is a process of its own: gradio leaves event loops open, which are errors in a process of tests.
Writes docs/explore.png where PUPPET_WRITE_SCREENSHOTS=1 is set.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import photograph, write_screenshot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(170)]
ROOT = Path(__file__).parents[2]
SECONDS = 60
"""How long an answer may take: the first one compiles."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the command, run as a user runs it, with two models beside each other."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "experiments.explore", "cifar10-adaptive", "cifar10-c64-4bit", "--port", str(port)]
    log = tmp_path_factory.mktemp("explore") / "log"
    folder = tmp_path_factory.mktemp("tmp")
    environment = os.environ | {"TMPDIR": str(folder)}
    with log.open("w") as output:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
    end = time.monotonic() + SECONDS
    while f"127.0.0.1:{port}" not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    status = process.wait(30)
    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()
    assert not list(folder.iterdir())  # what was dropped is not kept


@pytest.fixture
def page(address, browser):  # the browser is quit first: its connections keep the server
    browser.get(address)
    wait(browser, lambda: browser.find_elements("css selector", "input[type=file]") and text(browser, "about"))
    return browser


def wait(browser, condition):
    """Until `condition()` is true, which it returns; what the page says otherwise."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except Exception as error:  # an element that is not there yet, or is being replaced
            if "stale" not in str(error) and "no such element" not in str(error):
                raise
        time.sleep(0.1)
    raise AssertionError(browser.find_element("tag name", "body").text[:2000])


def drop(page, path):
    page.find_element("css selector", "input[type=file]").send_keys(str(path))


def text(page, name):
    return page.find_element("id", name).text


def depth(page, name="first"):
    found = re.search(r"Depth (\d+)", text(page, name))
    return found and int(found[1])


def move_slider(page, h):
    """As a hand would: to the value, then the events that tell of it."""
    page.execute_script(
        "const slider = document.querySelector('#complexity input[type=range]'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}));",
        h,
    )


def test_a_photograph_is_dropped_and_the_slider_moved(page, tmp_path, requested):
    drop(page, photograph(tmp_path))
    wait(page, lambda: depth(page) and depth(page, "second"))
    assert "the image's own" in text(page, "first")
    assert len(page.find_elements("css selector", "#first tr")) == 6  # five classes and their head
    pictures = page.find_elements("css selector", "#about img, #first img, #second img")
    assert len(pictures) == 5
    assert all(one.get_attribute("alt") and one.get_property("naturalWidth") > 600 for one in pictures)
    if os.environ.get("PUPPET_WRITE_SCREENSHOTS") == "1":
        write_screenshot(page, ROOT / "docs" / "explore.png")
    page.save_screenshot(str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 20_000
    other = text(page, "second").split("Kernels are generated")[1]
    depths = []
    for h in (4.3, 5.2):
        move_slider(page, h)
        wait(page, lambda h=h: f"H = {h:.3f} nats (the slider's" in text(page, "first"))
        depths.append(depth(page))
    assert depths == [5, 7]
    assert "the slider changes nothing here" in text(page, "second")
    assert text(page, "second").split("Kernels are generated")[1] == other
    assert {url.split(":")[1] for url in requested() if url.startswith("http")} == {"//127.0.0.1"}


def test_what_is_no_image_is_refused_in_words(page, tmp_path):
    (tmp_path / "words.png").write_text("these are words")
    drop(page, tmp_path / "words.png")
    wait(page, lambda: "words.png is damaged or no image" in text(page, "about"))
    assert "Traceback" not in page.page_source
    assert str(tmp_path) not in page.page_source


def test_a_file_that_is_too_large_is_refused_in_words(page, tmp_path):
    np.save(tmp_path / "large.npy", np.zeros((1400, 1400, 3), np.uint8))
    drop(page, tmp_path / "large.npy")
    wait(page, lambda: "maximum allowed size of" in page.find_element("tag name", "body").text)


def test_an_example_is_chosen(page):
    wait(page, lambda: page.find_elements("css selector", ".gallery-item, .thumbnail-item"))[0].click()
    wait(page, lambda: depth(page))
