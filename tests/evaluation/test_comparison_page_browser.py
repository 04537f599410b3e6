"""The comparison page in headless Chromium: sort, filter, slider, zoom, keys, addresses, narrow screens.

Needs Debian's chromium and chromium-driver, and selenium: `apt-get install -y chromium chromium-driver`,
`pip install 'framer_jax[browser]'`, `python -m pytest -m slow tests/evaluation/test_comparison_page_browser.py`.
With `--basetemp shots`, the screenshots are kept below that folder.
"""

import shutil

import numpy as np
import pytest
from PIL import Image

from framer_jax.cli import main
from tests.support.results import write

selenium = pytest.importorskip("selenium", reason="needs selenium: pip install 'framer_jax[browser]'")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets of selenium
]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--force-device-scale-factor=1"),
)

HOSTILE = "<img src=x onerror=alert(1)> & 'z' 字"

COLORS = {"gray": (0, 0, 0), "red": (60, -60, -60), "blue": (-50, -50, 50)}
"""Method → what it adds to the middle gray of the references."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of four images by three methods whose images have plain colors; in image_2, blue is best."""
    place = tmp_path_factory.mktemp("page")
    names = ["image_1", "image_2", "image_10", HOSTILE]
    for index, name in enumerate(names):
        noise = np.random.default_rng(index).integers(-9, 10, (160, 240, 1))
        base = np.broadcast_to(128 + noise, (160, 240, 3))
        write(place / "gt", name, base.astype(np.uint8))
        write(place / "lr", name, base[::4, ::4].astype(np.uint8))
        for method, color in COLORS.items():
            factor = 0.1 if (index, method) == (1, "blue") else 1
            pixels = np.clip(base + np.asarray(color) * factor + (4 + index if method == "gray" else 0), 0, 255)
            write(place / method, name, pixels.astype(np.uint8))
    command = ["compare", *(str(place / method) for method in COLORS), "--reference", str(place / "gt")]
    assert main([*command, "--lr", str(place / "lr"), "--html", str(place / "page.html"), "--title", HOSTILE]) == 0
    return (place / "page.html").as_uri()


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,800"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    log = [entry["message"] for entry in driver.get_log("browser")]
    driver.quit()
    assert not [message for message in log if "getImageData" not in message]  # of these tests


def sized(browser, width, height, dark=False):
    """Give the page a size; headless windows have a smallest width, which this does not."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def rows(browser):
    """Names of the images in the list, as it shows them."""
    found = browser.find_elements(By.CSS_SELECTOR, "#images tbody tr:not([hidden]) a")
    return [element.text for element in found]


def by_id(browser, name):
    return browser.find_element(By.ID, name)


def keys(browser, *pressed):
    ActionChains(browser).send_keys(*pressed).perform()


def color(browser, x, y=0.5, element="canvas"):
    """Color of a canvas at a position, in shares of its width and height."""
    script = """
      const done = arguments[3];
      requestAnimationFrame(() => requestAnimationFrame(() => {
        const canvas = document.querySelector(arguments[0]);
        const at = [Math.floor(arguments[1] * canvas.width), Math.floor(arguments[2] * canvas.height)];
        done([...canvas.getContext("2d").getImageData(...at, 1, 1).data]);
      }));"""
    return browser.execute_async_script(script, f"#{element}" if element == "canvas" else element, x, y)


def kind(rgba):
    red, _, blue, alpha = rgba
    return "nothing" if not alpha else "red" if red > blue + 30 else "blue" if blue > red + 30 else "gray"


def shown(browser):
    """Wait until the images are drawn, and return the kinds of color left and right of the middle."""
    WebDriverWait(browser, 10).until(lambda driver: color(driver, 0.4)[3] and color(driver, 0.6)[3])
    return kind(color(browser, 0.4)), kind(color(browser, 0.6))


def opened(browser, page, address="image=image_1"):
    browser.get("about:blank")
    sized(browser, 1280, 800)
    browser.get(f"{page}#{address}")
    shown(browser)


def test_the_list_is_sorted_and_filtered(browser, page, tmp_path):
    sized(browser, 1280, 800)
    browser.get(page)
    assert rows(browser) == [HOSTILE, "image_1", "image_10", "image_2"]
    assert browser.title == HOSTILE and by_id(browser, "title").text == HOSTILE
    headers = browser.find_elements(By.CSS_SELECTOR, "#images th[aria-sort]")
    headers[0].find_element(By.TAG_NAME, "button").click()
    assert rows(browser)[1:] == ["image_1", "image_2", "image_10"]  # numbers as numbers
    assert headers[0].get_attribute("aria-sort") == "ascending"
    blue = next(header for header in headers if header.text.startswith("blue"))
    blue.find_element(By.TAG_NAME, "button").click()
    assert rows(browser)[0] == "image_2" and blue.get_attribute("aria-sort") == "descending"
    blue.find_element(By.TAG_NAME, "button").click()
    assert rows(browser)[-1] == "image_2" and blue.get_attribute("aria-sort") == "ascending"
    assert headers[0].get_attribute("aria-sort") == "none"
    keys(browser, "/")
    keys(browser, "IMAGE_1")
    assert sorted(rows(browser)) == ["image_1", "image_10"] and by_id(browser, "matches").text == "2 of 4 shown"
    by_id(browser, "filter-clear").click()
    Select(by_id(browser, "filter-better")).select_by_visible_text("blue")
    Select(by_id(browser, "filter-than")).select_by_visible_text("gray")
    assert rows(browser) == ["image_2"]
    Select(by_id(browser, "filter-than")).select_by_visible_text("red")
    assert "image_2" in rows(browser)
    difference = browser.find_element(By.CSS_SELECTOR, "#images tbody tr:not([hidden]) td.difference")
    assert difference.text.startswith("+")
    browser.save_screenshot(str(tmp_path / "list.png"))
    WebDriverWait(browser, 5).until(lambda driver: "better=3" in driver.current_url)
    before = rows(browser)
    browser.refresh()
    assert rows(browser) == before
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert not [name for name in loaded if not name.startswith("data:")]


def test_the_slider_divides_the_two_images(browser, page, tmp_path):
    opened(browser, page, "image=image_1&left=2&right=3")
    assert shown(browser) == ("red", "blue")
    split = by_id(browser, "split")
    split.send_keys(Keys.HOME)
    assert shown(browser) == ("blue", "blue")
    split.send_keys(Keys.END)
    assert shown(browser) == ("red", "red") and split.get_attribute("aria-valuetext") == "100 % red, 0 % blue"
    keys(browser, Keys.ARROW_LEFT)
    assert float(split.get_attribute("value")) == 99.5  # arrows move the slider while it has the focus
    browser.execute_script("arguments[0].value = 50; arguments[0].dispatchEvent(new Event('input'))", split)
    shown(browser)
    divider = by_id(browser, "divider").rect
    start = (round(divider["x"]), round(divider["y"] + divider["height"] / 3))
    drag = ActionChains(browser)
    drag.w3c_actions.pointer_action.move_to_location(*start).pointer_down().move_to_location(start[0] - 150, start[1])
    drag.w3c_actions.pointer_action.pointer_up()
    drag.perform()
    assert shown(browser) == ("blue", "blue") and float(split.get_attribute("value")) < 40
    browser.save_screenshot(str(tmp_path / "divider.png"))


def test_keys_choose_images_and_methods(browser, page):
    opened(browser, page)
    assert by_id(browser, "name").text == "image_1" and by_id(browser, "position").text == "2 of 4"
    keys(browser, "3")
    assert Select(by_id(browser, "right")).first_selected_option.text.endswith("blue")
    ActionChains(browser).key_down(Keys.SHIFT).send_keys("2").key_up(Keys.SHIFT).perform()
    assert Select(by_id(browser, "left")).first_selected_option.text.endswith("red")
    assert shown(browser) == ("red", "blue")
    keys(browser, "x")
    assert shown(browser) == ("blue", "red")
    keys(browser, "b")
    assert shown(browser) == ("blue", "blue")
    keys(browser, "b")
    assert shown(browser) == ("red", "red")
    keys(browser, "j")
    assert by_id(browser, "name").text == "image_10"
    keys(browser, Keys.ARROW_DOWN)
    assert by_id(browser, "name").text == "image_2" and not by_id(browser, "next").is_enabled()
    keys(browser, "j", "k", Keys.ARROW_LEFT, "k")
    assert by_id(browser, "name").text == HOSTILE
    keys(browser, "?")
    assert by_id(browser, "help").get_attribute("open")
    keys(browser, "j", Keys.ESCAPE)
    assert not by_id(browser, "help").get_attribute("open") and by_id(browser, "name").text == HOSTILE
    keys(browser, Keys.ESCAPE)
    assert by_id(browser, "list").is_displayed() and not by_id(browser, "viewer").is_displayed()
    assert browser.switch_to.active_element.text == HOSTILE
    keys(browser, "j", Keys.ENTER)
    assert by_id(browser, "name").text == "image_1"
    browser.back()
    assert by_id(browser, "list").is_displayed()


def test_zoom_keeps_the_point_and_shows_pixels(browser, page, tmp_path):
    opened(browser, page, "image=image_1&left=2&right=3")
    viewport = by_id(browser, "viewport")
    origin = ScrollOrigin.from_element(viewport, 100, 50)
    ActionChains(browser).scroll_from_origin(origin, 0, -400).perform()
    zoomed = int(by_id(browser, "zoom-value").text.split()[0])
    keys(browser, *"++++++++++++")
    shown(browser)
    assert by_id(browser, "zoom-value").text == "1600 %" and zoomed < 1600
    assert "enlarged" in viewport.get_attribute("class")
    # A pixel is a square of 16 by 16 equal values.
    values = browser.execute_script(
        "const c = document.getElementById('canvas'); return [...c.getContext('2d')"
        ".getImageData(8, 8, 64, 1).data].filter((_, index) => index % 4 === 0)"
    )
    changes = np.flatnonzero(np.diff(values))
    assert len(changes) >= 2 and (np.diff(changes) % 16 == 0).all()
    before = browser.execute_script("return [state.x, state.y]")
    ActionChains(browser).drag_and_drop_by_offset(viewport, 0, 0).perform()
    keys(browser, "d", "s")
    after = browser.execute_script("return [state.x, state.y]")
    assert after[0] >= before[0] and after[1] >= before[1] and after != before
    browser.save_screenshot(str(tmp_path / "zoom.png"))
    keys(browser, "0")
    shown(browser)
    assert by_id(browser, "zoom-fit").get_attribute("aria-pressed") == "true"


def touch(browser, kind, *points):
    points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
    browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_two_fingers_zoom_and_one_moves_the_divider(browser, page):
    opened(browser, page, "image=image_1&left=2&right=3")
    before = browser.execute_script("return [geometry().zoom, dividerX()]")
    touch(browser, "touchStart", (400, 400), (500, 400))
    touch(browser, "touchMove", (390, 400), (510, 400))
    touch(browser, "touchMove", (350, 400), (550, 400))
    touch(browser, "touchEnd")
    shown(browser)
    assert browser.execute_script("return geometry().zoom") == pytest.approx(2 * before[0], rel=0.05)
    keys(browser, "0")
    shown(browser)
    divider = by_id(browser, "divider").rect
    touch(browser, "touchStart", (divider["x"], 400))
    touch(browser, "touchMove", (divider["x"] - 50, 400))
    touch(browser, "touchMove", (divider["x"] - 200, 400))
    touch(browser, "touchEnd")
    assert browser.execute_script("return dividerX()") == pytest.approx(before[1] - 200, abs=3)


def test_crops_show_the_same_region_of_all(browser, page):
    opened(browser, page)
    figures = browser.find_elements(By.CSS_SELECTOR, "#crops figure")
    assert [figure.find_element(By.TAG_NAME, "button").text[2:] for figure in figures] == [
        "gray",
        "red",
        "blue",
        "reference",
        "LR, nearest",
    ]
    selectors = [f"#crops figure:nth-child({number}) canvas" for number in range(1, 6)]
    assert [kind(color(browser, 0.5, element=selector)) for selector in selectors] == [
        "gray",
        "red",
        "blue",
        "gray",
        "gray",
    ]
    before = browser.execute_script("return region()")
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    after = browser.execute_script("return region()")
    assert after[0] == before[0] + round(before[2] / 8) and after[1:] == before[1:]
    Select(by_id(browser, "crop-size")).select_by_visible_text("16 px")
    assert browser.execute_script("return region()")[2] == 16
    figures[2].find_element(By.TAG_NAME, "button").click()
    assert "is-right" in figures[2].get_attribute("class")


def test_the_address_keeps_the_view(browser, page):
    opened(browser, page, "image=image_2&left=3&right=2&split=25&zoom=8&at=50,60&crop=10,20,32")
    state = browser.execute_script("return [state.left, state.right, state.split, state.zoom, region()[2]]")
    assert state == [2, 1, 25, 8, 32]
    keys(browser, "j", "k", "]")
    WebDriverWait(browser, 5).until(lambda driver: "split=30" in driver.current_url)
    for nonsense in (
        "image=none&left=99&zoom=x",
        "image=image_1&left=0&split=1e9&zoom=-3&crop=1,2&at=,",
        "%%%",
        "sort=9.9",
    ):
        browser.get("about:blank")
        browser.get(f"{page}#{nonsense}")
        assert by_id(browser, "list").is_displayed() != by_id(browser, "viewer").is_displayed()


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_and_dark_screens_have_no_horizontal_scrolling(browser, page, tmp_path, dark):
    for width, height in ((360, 740), (768, 1024), (1280, 800), (1920, 1080)):
        for address in ("", "#image=image_2&left=2&right=3"):
            browser.get("about:blank")
            sized(browser, width, height, dark)
            browser.get(page + address)
            if address:
                shown(browser)
            widths = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1] == width
            name = f"{width}{'-dark' * dark}{'-image' * bool(address)}.png"
            browser.save_screenshot(str(tmp_path / name))
            with Image.open(tmp_path / name) as image:
                background = np.asarray(image.convert("L")).mean()
            assert background < 110 if dark else background > 110
