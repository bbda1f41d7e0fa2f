"""Tests of the explorer as its visitors meet it: a page of Voilà in Chromium, driven by Playwright."""

import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import axe_core_python
import numpy as np
import psutil
import pytest
from chromium import BROWSER
from PIL import Image

ROOT = Path(__file__).parent.parent
SERVER = ROOT / "unioncam_lab/explorer/server"
with socket.socket() as free:  # two processes of tests have a server each
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
SCREENSHOTS = os.environ.get("UNIONCAM_SCREENSHOTS")  # a folder for pictures of the page, to look at

pytestmark = [pytest.mark.slow, pytest.mark.browser]
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command of `make app`, at another port, with a cache of its own."""
    if not BROWSER:
        pytest.skip("no Chromium on this machine")
    recipe = subprocess.run(["make", "-n", "app"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "voila notebooks/15_explorer.ipynb" in recipe
    environment = os.environ | {
        "JUPYTER_PATH": str(SERVER),
        "UNIONCAM_CACHE": str(tmp_path_factory.mktemp("kept")),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "voila", "notebooks/15_explorer.ipynb", f"--port={PORT}", "--no-browser"]
    command.append(f"--Voila.config_file_paths={SERVER}")
    log = tmp_path_factory.mktemp("voila") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 180
        while not answers(f"http://127.0.0.1:{PORT}/static/"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(30)
        for child in children:
            if child.is_running():
                child.kill()


@pytest.fixture(scope="module")
def chromium(server):
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


class Visitor:
    """One tab of the browser on the explorer."""

    def __init__(self, chromium, query="", **context):
        self.context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **context)
        self.page, self.errors, self.hosts = self.context.new_page(), [], set()
        self.page.set_default_timeout(180_000)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "request", lambda asked: self.hosts.add(asked.url.split("/")[2]) if "http" in asked.url[:5] else None
        )
        start = time.monotonic()
        self.page.goto(f"http://127.0.0.1:{PORT}/{query}")
        self.page.wait_for_selector("select[data-name=picture]")
        self.ready = time.monotonic() - start
        self.explained()

    def explained(self):
        """Wait until the masked passes are done and the flow is drawn."""
        self.page.wait_for_selector(".finished")
        self.page.wait_for_selector(".saving")

    def alert(self):
        return self.page.locator("[role=alert]").inner_text()

    def wait_for_alert(self, words):
        self.page.wait_for_function(
            "words => document.querySelector('[role=alert]').innerText.includes(words)", arg=words
        )
        return self.alert()

    def change(self, name, value):
        """Change a control by its name, and wait until the kernel has answered and nothing is left to draw."""
        self.page.evaluate(
            """([name, value]) => { const control = document.querySelector(`[data-name="${name}"]`);
            control.value = value;
            control.dispatchEvent(new Event(control.type === "range" ? "input" : "change", {bubbles: true})) }""",
            [name, str(value)],
        )
        self.page.wait_for_timeout(700)

    def pictures(self):
        return self.page.eval_on_selector_all(".flow img", "all => all.map(one => one.src)")

    def upload(self, path):
        self.page.set_input_files("input[data-upload=photo]", path)

    def look(self, name):
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


@pytest.fixture(scope="module")
def first_visitor(chromium):
    visitor = Visitor(chromium)
    yield visitor
    visitor.context.close()


@pytest.fixture
def visitor(first_visitor):
    """One visitor for all tests, who begins each one with the same picture and tab."""
    page = first_visitor.page
    page.click("#tab-explain")
    first_visitor.explained()
    if page.locator("[data-name=picture]").input_value() != "chelsea":
        page.select_option("[data-name=picture]", "chelsea")
        page.wait_for_function("document.querySelector('[data-part=source]').innerText.includes('Egyptian cat')")
        first_visitor.explained()
    return first_visitor


@pytest.fixture
def photo(tmp_path):
    from skimage.data import coffee

    path = tmp_path / "my coffee.jpg"
    Image.fromarray(coffee()).save(path)
    return path


def test_it_is_ready_and_loads_nothing_from_elsewhere(visitor):
    print(f"page ready after {visitor.ready:.1f} s;", visitor.page.locator(".finished").inner_text())
    assert visitor.hosts == {f"127.0.0.1:{PORT}"}
    assert "Egyptian cat" in visitor.page.locator("fieldset [role=radiogroup], fieldset").all_inner_texts()[1]
    assert visitor.page.locator(".flow img").count() >= 13
    assert visitor.errors == []
    visitor.look("explain")


def test_it_answers_this_computer_alone(server):
    ours = [each for each in server.net_connections() if each.status == "LISTEN" and each.laddr.port == PORT]
    assert [each.laddr.ip for each in ours] == ["127.0.0.1"]


def test_a_file_can_be_dropped(visitor):
    visitor.page.evaluate(
        """bytes => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(bytes)], "dropped.txt"));
        const drop = new DragEvent("drop", {dataTransfer: held, bubbles: true, cancelable: true});
        document.querySelector("[data-drop]").dispatchEvent(drop) }""",
        list(b"no picture"),
    )
    assert "dropped.txt" in visitor.wait_for_alert("no picture that can be read")


def test_nothing_else_of_the_notebook_is_shown(visitor):
    shown = visitor.page.locator("body").inner_text()
    assert "import" not in shown
    assert "?theta" not in shown, "nor what the notebook's last cell prints"


def test_theta_changes_the_maps_at_once(visitor):
    visitor.change("reading", "map")
    times = visitor.page.evaluate(
        """async () => {
        const slider = document.querySelector('[data-name="theta"]'), times = [];
        const pause = (ms) => new Promise((done) => setTimeout(done, ms));
        for (let i = 0; i < 20; i++) {
            const picture = document.querySelector('.at-first img'), before = picture.src;
            slider.value = 12 + 4 * i;
            const start = performance.now();
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            while (picture.src === before && performance.now() - start < 5000) await pause(1);
            await picture.decode();
            times.push(performance.now() - start);
            await pause(300);
        }
        return times }"""
    )
    ordered = sorted(times)
    print(f"theta to picture: median {statistics.median(times):.0f} ms, p95 {ordered[18]:.0f} ms")
    assert max(times) < 5000, "each move gives a new picture"
    assert visitor.page.locator("label", has_text="percentile:").locator("output").inner_text() == "88"
    visitor.change("reading", "channel")
    assert "constant in each channel" in visitor.page.locator(".remark").inner_text()


def test_a_second_class_has_other_maps(visitor):
    before = visitor.pictures()
    visitor.page.locator(".answer input").nth(1).check()
    visitor.page.wait_for_function("src => document.querySelector('.at-last img').src !== src", arg=before[-1])
    assert visitor.page.locator(".answer input").nth(1).is_checked()
    visitor.page.fill("[data-name=class]", "espresso")
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_function("document.querySelector('.at-last img').alt.includes('espresso')")
    visitor.page.fill("[data-name=class]", "dragon")
    visitor.page.keyboard.press("Enter")
    assert "komodo dragon" in visitor.wait_for_alert("Did you mean").lower() or "dragonfly" in visitor.alert()


def test_a_feature_map_shows_its_mask_and_score(visitor):
    button = visitor.page.locator(".feature").nth(3)
    number = button.get_attribute("value")
    button.click()
    visitor.page.wait_for_function(
        "n => document.querySelector('.chain').innerText.includes(`channel ${n}`)", arg=number
    )
    assert button.get_attribute("aria-pressed") == "true"


def test_painting_changes_the_probability_by_pointer_and_by_key(visitor):
    page = visitor.page
    page.locator(".answer input").first.check()
    page.click("#tab-paint")
    page.wait_for_selector("canvas[data-ready]")
    told = page.locator(".answer-now b")
    before = told.inner_text()
    box = page.locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 80, y)
    page.mouse.down()
    page.mouse.move(x + 80, y, steps=5)
    page.mouse.up()
    page.wait_for_function("text => document.querySelector('.answer-now b').innerText !== text", arg=before)
    page.click("button[value=nothing]")
    page.wait_for_function("text => document.querySelector('.answer-now b').innerText === text", arg=before)
    page.focus("canvas")
    for key in ("ArrowUp", "ArrowLeft", " ", "ArrowRight", " ", "+", "ArrowRight", " "):
        page.keyboard.press(key)
    page.wait_for_function("text => document.querySelector('.answer-now b').innerText !== text", arg=before)
    page.click("button[value=most]")
    page.wait_for_function("document.querySelector('.answer-now').innerText.includes('10.0 %')")
    visitor.look("paint")


def test_the_curves_show_the_photo_at_a_point(visitor):
    visitor.page.click("#tab-metrics")
    visitor.page.wait_for_selector(".chart svg")
    before = visitor.page.locator(".measured .picture img").first.get_attribute("src")
    visitor.change("share", 60)
    assert visitor.page.locator(".measured .picture img").first.get_attribute("src") != before
    assert "60 % deleted" in visitor.page.locator(".measured").inner_text()
    visitor.look("metrics")


def test_tabs_answer_to_the_arrow_keys(visitor):
    visitor.page.click("#tab-metrics")
    visitor.page.wait_for_selector(".chart svg")
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.wait_for_selector(".flow")
    assert visitor.page.evaluate("document.activeElement.id") == "tab-explain"


@pytest.mark.parametrize(("kind", "first"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_figure_is_downloaded(visitor, kind, first):
    with visitor.page.expect_download() as waited:
        visitor.page.click(f"button[value='steps.{kind}']")
    content = Path(waited.value.path()).read_bytes()
    assert content.startswith(first)
    assert waited.value.suggested_filename == f"union_cam_chelsea.{kind}"
    if kind == "png":
        assert Image.open(io.BytesIO(content)).width > 600


def test_a_saved_view_and_its_address_show_the_same_again(visitor, chromium, tmp_path):
    page = visitor.page
    visitor.change("theta", 35)
    with page.expect_download() as waited:
        page.click("button[value='view.json']")
    saved = tmp_path / "view.json"
    waited.value.save_as(saved)
    assert json.loads(saved.read_text())["theta"] == 35
    last, address = visitor.pictures()[-1], page.locator(".address").get_attribute("href")
    other = Visitor(chromium, address)
    assert other.pictures()[-1] == last
    other.context.close()
    visitor.change("theta", 80)
    page.set_input_files("input[data-upload=view]", saved)
    page.wait_for_function("document.querySelector('[data-name=theta]').value === '35'")
    visitor.explained()


def test_an_uploaded_photo_is_explained_and_bad_files_get_a_sentence(visitor, photo, tmp_path):
    visitor.upload(photo)
    visitor.page.wait_for_function("document.querySelector('[data-part=source]').innerText.includes('espresso')")
    visitor.explained()
    print(visitor.page.locator(".finished").inner_text())
    assert visitor.page.locator("[data-name=picture]").input_value() == "upload"
    visitor.look("upload")
    shown = visitor.pictures()
    bad = {
        "notes.png": (b"no picture", "no picture that can be read"),
        "half.jpg": (photo.read_bytes()[:20_000], "damaged or incomplete"),
        "IMG_1.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        "heavy.png": (np.random.default_rng(0).bytes(9_000_000), "at most 8 MB"),
    }
    for name, (content, words) in bad.items():
        (tmp_path / name).write_bytes(content)
        visitor.upload(tmp_path / name)
        assert name in visitor.wait_for_alert(words)
        assert "Traceback" not in visitor.page.locator("body").inner_text()
    visitor.look("bad_upload")
    assert visitor.pictures() == shown


def test_the_passes_can_be_cancelled_and_taken_up_again(visitor, photo, tmp_path):
    turned = tmp_path / "turned.jpg"
    Image.open(photo).rotate(180).save(turned)
    visitor.upload(turned)
    visitor.page.click("button[data-name=cancel]")
    visitor.page.click("button[data-name=again]")
    visitor.explained()


def test_two_visitors_do_not_meet(visitor, chromium, server):
    before = visitor.page.locator("[data-name=picture]").input_value()
    other = Visitor(chromium, "?picture=rocket&theta=70")
    assert other.page.locator("[data-name=picture]").input_value() == "rocket"
    assert visitor.page.locator("[data-name=picture]").input_value() == before != "rocket"
    other.change("opacity", 40)
    assert visitor.page.locator("[data-name=opacity]").input_value() == "85"
    kernels = [child for child in server.children(recursive=True) if "ipykernel" in " ".join(child.cmdline())]
    print("MiB of each kernel:", [child.memory_info().rss >> 20 for child in kernels])
    other.context.close()


@pytest.mark.parametrize("width", [390, 640, 1280])  # a telephone; 1280 at 200 % zoom; a laptop
@pytest.mark.parametrize("tab", ["explain", "paint", "metrics"])
def test_it_fits_every_screen_and_axe_finds_nothing_serious(visitor, width, tab):
    page = visitor.page
    page.set_viewport_size({"width": width, "height": 844})
    page.click(f"#tab-{tab}")
    page.wait_for_selector({"explain": ".saving", "paint": ".painting", "metrics": ".chart"}[tab])
    visitor.look(f"{tab}_{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(Path(axe_core_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate(
        "axe.run(document).then(f => f.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 200))]))"
    )
    assert [each for each in found if each[0] in ("serious", "critical", "moderate")] == []
