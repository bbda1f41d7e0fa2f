"""Record the explorer: a still and an animation of 20 seconds, from `make app` in Chromium.

    make app ARGS=--no-browser &
    python docs/record_explorer.py http://127.0.0.1:8866/

Each frame waits until the page has answered, so the animation is not a measurement of its speed.
"""

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FIGURES = Path(__file__).parent.parent / "figures"
SIZE = {"width": 1280, "height": 860}
WIDTH = 960  # pixels of the animation
QUIET = "() => new Promise(done => { let seen = -1; const look = () => { const now = document.querySelector(\
'.unioncam-explorer').dataset.shown; if (now === seen) done(); else { seen = now; setTimeout(look, 250) } }; look() })"


def scenes(page: Page) -> Iterator[int]:
    """Act as a visitor, and yield the milliseconds that each frame stays."""

    def change(name: str, value: object):
        page.evaluate(
            "([name, value]) => { const c = document.querySelector(`[data-name='${name}']`); c.value = value; "
            "for (const kind of ['input', 'change']) c.dispatchEvent(new Event(kind, {bubbles: true})) }",
            [name, str(value)],
        )

    yield 1500
    change("reading", "map")
    yield 700
    for theta in range(14, 98, 6):
        change("theta", theta)
        yield 200
    change("theta", 60)
    yield 900
    for i in (2, 5):
        page.locator(".feature").nth(i).click()
        yield 900
    page.locator(".answer input").nth(1).check()
    yield 1200
    page.locator(".answer input").first.check()
    page.click("button[value=fusion_cam]")
    yield 1500
    page.click("#tab-paint")
    page.wait_for_selector("canvas[data-ready]")
    yield 900
    page.click("button[value=most]")
    yield 1600
    page.click("button[value=nothing]")
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 250)
    page.mouse.down()
    for x in range(160, 320, 20):
        page.mouse.move(box["x"] + x, box["y"] + 250 + (x % 60), steps=3)
        yield 200
    page.mouse.up()
    yield 900
    page.click("#tab-metrics")
    page.wait_for_selector(".chart svg")
    for share in range(0, 104, 8):
        change("share", min(100, share))
        yield 260
    yield 900


def record(address: str):
    """Write figures/15_explorer_page.png and figures/15_explorer.webp."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as started:
        options = ["--no-sandbox", "--disable-gpu"]
        page = started.chromium.launch(executable_path=browser, args=options).new_page(viewport=SIZE)
        page.goto(address)
        page.wait_for_selector(".saving", timeout=120_000)
        page.screenshot(path=FIGURES / "15_explorer_page.png")
        frames, durations = [], []
        for milliseconds in scenes(page):
            page.evaluate(QUIET)
            frame = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            frames.append(frame.resize((WIDTH, WIDTH * frame.height // frame.width), Image.Resampling.LANCZOS))
            durations.append(milliseconds)
    file = FIGURES / "15_explorer.webp"
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=70, method=4)
    print(f"{len(frames)} frames, {sum(durations) / 1000:.1f} s, {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    record(sys.argv[1])
