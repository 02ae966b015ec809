"""Draws docs/viewer.png, the viewer with a head clicked: needs a Chromium with its driver.

make demo && make setup                 # or: circuits discover ioi --n 16 --edges 200 --out runs/ioi
python docs/viewer_picture.py runs/ioi/circuit.html
python docs/viewer_picture.py PAGE --node a23.h3@end --out docs/viewer_tokens.png      # over tokens: see docs/tokens.md
"""

import argparse
import shutil
import time
from pathlib import Path

from selenium import webdriver

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1400, 850


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--node", default="a23.h3", help="what is clicked")
    parser.add_argument("--edges", type=int, default=40, help="where the slider stands")
    parser.add_argument("--out", type=Path, default=HERE / "viewer.png")
    asked = parser.parse_args()
    browser = opened()
    try:
        browser.get(asked.page.resolve().as_uri())
        browser.execute_script(
            "const s = document.getElementById('slider'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));"
            ""
            "document.querySelector(`[data-node='${arguments[1]}']`).dispatchEvent(new Event('click', {bubbles: true}));",
            asked.edges,
            asked.node,
        )
        time.sleep(0.5)
        browser.save_screenshot(str(asked.out))
    finally:
        browser.quit()


def opened() -> webdriver.Chrome:
    """A headless browser whose window shows WIDTH × HEIGHT."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    browser.set_window_size(WIDTH, HEIGHT)
    inner = browser.execute_script("return [innerWidth, innerHeight]")
    browser.set_window_size(2 * WIDTH - inner[0], 2 * HEIGHT - inner[1])
    return browser


if __name__ == "__main__":
    main()
