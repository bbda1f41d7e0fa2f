"""Tests of the execution of notebooks: pages that can be read offline, and failures that lose nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from runs import notebook

from unioncam_lab import headless

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
PICTURE = """
import numpy as np
from unioncam_lab import figures
figures.show(figures.row({"noise": np.zeros((4, 4, 3))}), "noise", alt="Nothing at all")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Execute four notebooks: one that works, one that raises, one whose kernel dies, and one more."""
    folder = tmp_path_factory.mktemp("notebooks")
    paths = [
        notebook(folder, "a", "number = 1", "print('number', number)", PICTURE),
        notebook(folder, "b", "kept = 'kept'", "print(kept)", "1 / 0", "print('never')"),
        notebook(folder, "c", "import os", "os._exit(1)"),
        notebook(folder, "d", "number = 4", "print('number', number)"),
    ]
    runs = headless.execute(paths, folder / "out", folder / "figures", {"number": 7})
    return folder, {run.name: run for run in runs}


def outputs(folder, name):
    cells = nbformat.read(folder / "out" / f"{name}.ipynb", 4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


@pytest.mark.notebook
def test_notebooks_are_executed_with_their_parameters(executed):
    folder, runs = executed
    assert runs["a"].error is None
    assert outputs(folder, "a") == outputs(folder, "d") == "number 7\n"
    assert (runs["a"].title, runs["a"].lead) == ("A title", "Its *lead* in two lines.")


@pytest.mark.notebook
def test_a_failing_notebook_names_its_cell_and_keeps_what_it_computed(executed):
    folder, runs = executed
    assert runs["b"].error == "stopped in cell 3: ZeroDivisionError: division by zero"
    assert "kept" in outputs(folder, "b")
    assert runs["c"].error.startswith("stopped: its kernel died")
    index = (folder / "out" / "index.html").read_text()
    assert "stopped in cell 3: ZeroDivisionError" in index
    assert "its kernel died" in index


@pytest.mark.notebook
def test_pictures_are_saved(executed):
    folder, _ = executed
    assert {path.name for path in (folder / "figures").iterdir()} == {"noise.png", "noise.svg"}
    assert (folder / "out" / "a.jpg").exists()


@pytest.mark.notebook
def test_pages_ask_nothing_of_the_network(executed):
    folder, _ = executed
    for page in (folder / "out").glob("*.html"):
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', page.read_text())


@pytest.mark.notebook
def test_the_index_lists_what_earlier_runs_made(executed, tmp_path):
    folder, _ = executed
    headless.execute([folder / "a.ipynb"], tmp_path, tmp_path / "figures")
    headless.execute([folder / "d.ipynb"], tmp_path, tmp_path / "figures")
    index = (tmp_path / "index.html").read_text()
    assert 'href="a.html"' in index
    assert 'href="d.html"' in index


def render(page):
    options = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --virtual-time-budget=20000 --dump-dom"
    )
    command = [BROWSER, *options.split(), f"--user-data-dir={page.parent / 'profile'}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
@pytest.mark.notebook
def test_a_browser_shows_equations_pictures_and_links(executed):
    folder, _ = executed
    page = render(folder / "out" / "a.html")
    assert re.search(r'<span class="MathJax"[^>]*>.*?<span class="msubsup"', page, re.S), "x squared, typeset"
    assert "STIX" in page
    assert 'class="MathJax_Error"' not in page
    assert 'alt="Nothing at all"' in page
    assert 'href="b.html"' in page
    assert 'href="index.html"' in page


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
@pytest.mark.parametrize("path", sorted(headless.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_browser_typesets_every_equation_of_the_notebooks(path, tmp_path):
    executed = Path(shutil.copy(path, tmp_path))
    shutil.copytree(headless.MATHJAX, tmp_path / "mathjax")
    headless._write_page(executed)
    page = render(executed.with_suffix(".html"))
    equations = sum(cell.source.count("$") for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    assert (page.count('class="MathJax"') > 0) == (equations > 0)
    assert 'class="noError"' not in page
    assert 'class="MathJax_Error"' not in page


def test_find(tmp_path, monkeypatch):
    monkeypatch.setattr(headless, "NOTEBOOKS", tmp_path)
    for name in ("00_first", "01_second", "10_third"):
        notebook(tmp_path, name)
    assert [p.stem for p in headless.find([])] == ["00_first", "01_second", "10_third"]
    assert [p.stem for p in headless.find(["10", "00"])] == ["00_first", "10_third"]
    with pytest.raises(ValueError, match="No notebook starts with '07'; there are 00_first, 01_second, 10_third"):
        headless.find(["07"])
