"""A browser without a screen, for tests that see pages as visitors do."""

import json
import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by selenium; every request that a page makes is logged."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("there is no chromium with a chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    found.set_script_timeout(120)
    yield found
    found.quit()


@pytest.fixture
def requested(browser):
    """A function: the addresses that pages have asked for since it was called last."""

    def addresses():
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    addresses()
    return addresses
