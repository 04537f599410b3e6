"""The page of `framer-jax app` in headless Chromium: real uploads, the slider, downloads, a broken file.

Needs Debian's chromium and chromium-driver, selenium and Gradio: `apt-get install -y chromium chromium-driver`,
`pip install 'framer_jax[app,browser]'`, `python -m pytest -m slow tests/commands/test_app_browser.py`. With
`--basetemp shots`, the screenshots are kept below that folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from PIL import Image

from tests.support.paths import CONFIGS, ROOT
from tests.support.tiny import photo, weights

selenium = pytest.importorskip("selenium", reason="needs selenium: pip install 'framer_jax[browser]'")
pytest.importorskip("gradio", reason="needs Gradio: pip install 'framer_jax[app]'")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets of selenium
]

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,1000")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """(process, address) of a page that offers a tiny model."""
    folder = tmp_path_factory.mktemp("app")
    file = weights(folder / "tiny.safetensors", base=CONFIGS / "swinir_small.py")
    command = [sys.executable, "-m", "framer_jax", "app", "--weights", str(file), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stdout.read().strip().endswith("ended")


@pytest.fixture
def browser(app):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(app[1])
    WebDriverWait(driver, 60).until(lambda driver: driver.find_elements(By.ID, "upscale"))
    yield driver
    driver.quit()


def upload(browser, *paths):
    browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys("\n".join(map(str, paths)))
    text = " ".join(path.stem for path in paths)
    WebDriverWait(browser, 60).until(lambda driver: all(word in driver.page_source for word in text.split()))
    browser.find_element(By.ID, "upscale").click()


def messages(browser):
    WebDriverWait(browser, 180).until(lambda driver: "upscaled" in driver.find_element(By.ID, "messages").text)
    return browser.find_element(By.ID, "messages").text


def test_photographs_are_upscaled(app, browser, tmp_path):
    paths = [tmp_path / f"holiday{index}.png" for index in (1, 2)]
    for index, path in enumerate(paths):
        Image.fromarray(photo(48, 64, index)).save(path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:200])
    upload(browser, *paths, broken)
    text = messages(browser)
    assert "2 images upscaled." in text
    assert "broken.png" in text
    links = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#results a[href]")]
    assert len(links) == 2
    with urllib.request.urlopen(links[0]) as answer:
        assert Image.open(answer).size == (256, 192)
    sides = browser.find_elements(
        By.CSS_SELECTOR, "[data-testid=imageslider] img, .slider-wrap img, .image-container img"
    )
    assert len(sides) >= 2
    browser.save_screenshot(str(tmp_path / "page.png"))


def test_without_images_there_is_a_message(browser):
    browser.find_element(By.ID, "upscale").click()
    WebDriverWait(browser, 60).until(lambda driver: "Choose one or more images first." in driver.page_source)


def test_nothing_else_is_served(app, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (secret, ROOT / "README.md", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{app[1]}gradio_api/file={path}")
