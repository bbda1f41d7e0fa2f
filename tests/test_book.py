"""Tests of the book: complete, without a network, on a narrow screen, in the dark, on paper, and for every reader."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import axe_core_python
import pytest
from chromium import BROWSER, Chromium
from filelock import FileLock

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
# Pages of text, equations, tables, figures and code.
FIVE = ["docs/index", "docs/api", "notebooks/02_denoising", "notebooks/07_table1", "notebooks/18_your_own_network"]
DRAWN = "!window.MathJax || MathJax.isReady && !MathJax.Hub.queue.pending && !MathJax.Hub.queue.running"
ARGUMENTS = ["--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", "docs", "--doctree-dir"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The book's folder. The processes of pytest-xdist share one book."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    command = [sys.executable, "-m", "sphinx", *ARGUMENTS, folder / "doctrees", ".", folder / "book"]
    with FileLock(folder / "book.lock"):
        if not (folder / "book").exists():
            merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            done = subprocess.run(command, cwd=ROOT, timeout=180, **merged)
            (folder / "printed").write_text(f"{done.returncode} {done.stdout}")
    assert (folder / "printed").read_text() == "0 ", "a warning is an error"
    return folder / "book"


class Page(HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, path):
        super().__init__()
        self.path, self.tags = path, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def values(self, attribute, *tags):
        return [held[attribute] for tag, held in self.tags if tag in tags and held.get(attribute)]


@pytest.fixture(scope="session")
def pages(book):
    found = [Page(path) for path in sorted(book.rglob("*.html")) if "mathjax" not in path.parts]
    assert {f"notebooks/{name}.html" for name in NOTEBOOKS} | {"docs/api.html", "search.html"} <= {
        page.path.relative_to(book).as_posix() for page in found
    }
    return found


def test_it_stays_small(book):
    assert 5e6 < sum(path.stat().st_size for path in book.rglob("*") if path.is_file()) < 60e6


def test_the_makefile_makes_this_book():
    recipe = subprocess.run(["make", "-n", "book"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"-m sphinx {' '.join(ARGUMENTS)} build/doctrees . build/book\n" in recipe


def test_every_link_leads_somewhere(pages):
    anchors = {page.path: set(page.values("id", *{tag for tag, _ in page.tags})) | {"", "top"} for page in pages}
    links = 0
    for page in pages:
        addresses = [*page.values("href", "a", "link"), *page.values("src", "img", "script", "source", "iframe")]
        for address in addresses:
            if re.match(r"https?:|data:|mailto:", address):
                continue
            links += 1
            path, _, anchor = unquote(address).partition("#")
            target = (page.path.parent / path.partition("?")[0]).resolve() if path else page.path
            assert target.is_file(), f"{page.path.name} leads to {address}"
            assert anchor in anchors.get(target, {anchor}), f"{page.path.name} leads to {address}"
    assert links > 100 * len(NOTEBOOKS)


def test_its_address_leads_to_the_first_page(book):
    assert 'content="0; url=docs/index.html"' in (book / "index.html").read_text()


def test_nothing_is_loaded_from_elsewhere(book, pages):
    """The browser tests see what scripts load. A link that a reader follows may lead anywhere."""
    for page in pages:
        loaded = [*page.values("src", *{tag for tag, _ in page.tags}), *page.values("href", "link")]
        assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)], page.path.name
    for path in (book / "_static").glob("**/*.css"):
        if "mathjax" not in path.parts:
            assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", path.read_text(encoding="utf-8")), (
                path.name
            )


def test_every_picture_has_the_text_and_the_width_that_its_notebook_stores(book):
    for name in NOTEBOOKS:
        cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        kinds = [(output, kind) for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
        stored = [output["metadata"][kind] for output, kind in kinds]
        shown = [held for tag, held in Page(book / f"notebooks/{name}.html").tags if tag == "img"]
        assert [(held["alt"], held.get("width")) for held in shown] == [
            (told["alt"], str(told["width"]) if "width" in told else None) for told in stored
        ]
        assert all(len(held["alt"]) > 20 for held in shown)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if not BROWSER:
        pytest.skip("no Chromium on this machine")
    with Chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def show(browser, book, page, **look):
    browser.look(**look)
    browser.open(f"{(book / page).as_uri()}.html")
    browser.wait(DRAWN)


@pytest.mark.browser
@pytest.mark.parametrize("page", [*(f"notebooks/{name}" for name in NOTEBOOKS), "docs/index", "docs/api"])
def test_on_a_telephone_equations_are_drawn_and_nothing_is_wider_than_the_page(browser, book, page):
    show(browser, book, page, width=390)
    parts = "['.math.notranslate', '.math .MathJax', '.merror, .noError, .MathJax_Error']"
    equations, drawn, errors = browser.run(f"{parts}.map(part => document.querySelectorAll(part).length)")
    assert (drawn, errors) == (equations, 0)
    name = page.rpartition("/")[2]
    assert equations > 0 or name in ("index", "api") or "$" not in (ROOT / f"{page}.ipynb").read_text()
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert "Math Processing Error" not in browser.run("document.body.innerText")
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


@pytest.mark.browser
def test_the_search_finds_pages(browser, book):
    browser.look()
    browser.open(f"{(book / 'search.html').as_uri()}?q=gradient")
    browser.wait("document.querySelectorAll('#search-results li').length > 5")
    found = browser.run("[...document.querySelectorAll('#search-results li a')].map(link => link.href)")
    assert f"{(book / 'notebooks/02_denoising.html').as_uri()}" in {
        url.partition("?")[0].partition("#")[0] for url in found
    }


@pytest.mark.browser
def test_answers_are_folded_until_they_are_asked_for_or_printed(browser, book):
    visible = "[...document.querySelectorAll('details > :not(summary)')].map(part => part.checkVisibility())"
    show(browser, book, "notebooks/18_your_own_network")
    assert len(folded := browser.run(visible)) >= 3
    assert not any(folded)
    browser.run("document.querySelectorAll('summary').forEach(part => part.click())")
    assert all(browser.run(visible))
    browser.open("about:blank")
    show(browser, book, "notebooks/18_your_own_network", media="print")
    assert all(browser.run(visible))


@pytest.mark.browser
def test_a_printed_page_has_no_navigation_and_cuts_no_line_off(browser, book):
    around = (
        "['.sidebar-drawer', '.toc-drawer', '.mobile-header', '.related-pages', '.copybtn', '.content-icon-container']"
    )
    count = f"{around}.map(s => [...document.querySelectorAll(s)].filter(part => part.checkVisibility()).length)"
    show(browser, book, "notebooks/07_table1")
    assert sum(browser.run(count)) > 10
    show(browser, book, "notebooks/07_table1", width=720, media="print")
    assert browser.run(count) == [0] * 6
    wide = "[...document.querySelectorAll('pre')].filter(part => part.scrollWidth > part.clientWidth).length"
    assert browser.run(wide) == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", FIVE)
def test_axe_finds_nothing_serious(browser, book, page, scheme):
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    show(browser, book, page, scheme=scheme)
    browser.run(f"{axe};0")
    say = "found => found.violations.map(each => [each.impact, each.id, each.nodes.map(node => node.html)])"
    rules = "{}" if scheme == "light" else "{runOnly: ['color-contrast']}"  # nothing else depends on the colours
    found = browser.run(f"axe.run(document, {rules}).then({say})")
    assert [each for each in found if each[0] in ("serious", "critical", "moderate")] == []
    assert (browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (
        scheme == "light"
    )
