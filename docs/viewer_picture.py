"""Draws docs/viewer.png from the runs of `make demo`: two circuits side by side, a head clicked. Needs Chromium and its driver.

make demo && make setup && .venv/bin/python docs/viewer_picture.py [runs/ioi runs/ioi-acdc]
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver

ROOT = Path(__file__).parents[1]
HEAD = "a23.h3"
SIZE = (1400, 850)


def main() -> None:
    runs = sys.argv[1:] or [str(ROOT / "runs" / name) for name in ("ioi", "ioi-acdc")]
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "view.html"
        subprocess.run([sys.executable, "-m", "circuits", "view", *runs, "--out", str(page)], check=True, cwd=ROOT)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.get(page.as_uri())
            browser.execute_script(f"choose('{HEAD}'); document.getElementById('tip').style.display = 'none'")
            browser.save_screenshot(str(ROOT / "docs" / "viewer.png"))
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
