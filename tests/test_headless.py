"""Tests of the execution of notebooks: pages that can be read offline, and failures that lose nothing."""

import ast
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


PARAMETERS = """
folder = ""  # type: path  where the pictures are
out = None  # type: path  where they go
photo = "coffee"  # type: photo  one of ours, or yours
images = "demo"  # type: pictures  a data set
limit = None  # type: int  how many
most = 8  # type: int|None  at most
theta = 10  # type: float  a percentile
size = 224  # in pixels
level = 0.01
scale = "demo"
checked = True
photos = ["coffee",
          "rocket"]
thetas = [0, 10]  # type: list[float]  percentiles
"""


@pytest.fixture
def declares(tmp_path, monkeypatch):
    """A notebook with parameters of every type; the current folder holds files named as our photos and sets are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("coffee", "demo", "2007", "my.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "notebooks").mkdir()
    return notebook(tmp_path / "notebooks", "07_all", PARAMETERS.strip())


HERE = "<the current folder>"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("folder", "2007", f"{HERE}/2007"),
        ("folder", "my_photos/", f"{HERE}/my_photos"),
        ("folder", "home/../10", f"{HERE}/10"),
        ("folder", "demo", f"{HERE}/demo"),
        ("folder", "None", f"{HERE}/None"),
        ("folder", "~/photos", f"{HERE}/home/photos"),
        ("folder", "/data/photos", "/data/photos"),
        ("folder", "", ""),
        ("out", "runs/mine", f"{HERE}/runs/mine"),
        ("out", "None", None),
        ("photo", "my.jpg", f"{HERE}/my.jpg"),
        ("photo", "missing.jpg", f"{HERE}/missing.jpg"),
        ("photo", "coffee", "coffee"),
        ("photo", "rocket", "rocket"),
        ("photo", "./coffee", f"{HERE}/coffee"),
        ("images", "demo", "demo"),
        ("images", "scenes", "scenes"),
        ("images", "./demo", f"{HERE}/demo"),
        ("images", "2007", f"{HERE}/2007"),
        ("images", "voc2007:2007", f"voc2007:{HERE}/2007"),
        ("images", "ilsvrc2012:~/demo", f"ilsvrc2012:{HERE}/home/demo"),
        ("images", "voc2007:demo", f"voc2007:{HERE}/demo"),
        ("images", "mosaics:demo", "mosaics:demo"),
        ("images", "mosaics:2007", f"mosaics:{HERE}/2007"),
        ("limit", "5", 5),
        ("limit", "None", None),
        ("most", "5", 5),
        ("most", "None", None),
        ("theta", "50", 50),
        ("theta", "12.5", 12.5),
        ("size", "96", 96),
        ("level", "1", 1),
        ("scale", "10", "10"),
        ("scale", "None", "None"),
        ("scale", "demo", "demo"),
        ("checked", "False", False),
        ("photos", "['camera']", ["camera"]),
        ("thetas", "[0, 2.5]", [0, 2.5]),
    ],
)
def test_a_parameter_keeps_its_type_and_a_path_starts_where_the_caller_is(declares, tmp_path, name, text, value):
    expected = value.replace(HERE, str(tmp_path)) if isinstance(value, str) else value
    (found,) = headless.values_for(declares, {name: text, "colour": "red"}).items()
    assert found == (name, expected)
    assert type(found[1]) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("size", "big", "int"),
        ("size", "96.5", "int"),
        ("size", "True", "int"),
        ("size", "None", "int"),
        ("limit", "many", "int"),
        ("limit", "", "int"),
        ("most", "2.5", "int|None"),
        ("theta", "high", "float"),
        ("theta", "False", "float"),
        ("checked", "1", "bool"),
        ("photos", "coffee", "list[str]"),
        ("photos", "['coffee', 3]", "list[str]"),
        ("thetas", "['a']", "list[float]"),
        ("thetas", "10", "list[float]"),
        ("out", "", "path"),
        ("folder", None, "path"),
        ("scale", 3, "str"),
    ],
)
def test_a_value_of_another_type_is_refused_before_a_notebook_runs(declares, tmp_path, name, value, kind):
    with pytest.raises(ValueError, match="The parameter") as error:
        headless.execute([declares], tmp_path / "out", tmp_path, {name: value})
    begin = f"The parameter {name} is {value!r}; in 07_all it has the type {kind}, and is "
    assert str(error.value).startswith(begin)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(headless.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_parameter_of_the_notebooks_has_a_type(path):
    """Each is a path, a word, or refuses a word. A comment with = in it would hide a parameter from papermill."""
    cells = nbformat.read(path, 4).cells
    (source,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    named = {node.targets[0].id for node in ast.parse(source).body}
    paths = {"folder", "out", "images"} | ({"photo"} if path.stem == "00_start_here" else set())
    for name in named:
        if name in paths:
            assert headless.values_for(path, {name: "2007"}) == {name: str(Path("2007").resolve())}
        elif name in {"photo", "scale", "precision"}:
            assert headless.values_for(path, {name: "2007"}) == {name: "2007"}
        else:
            with pytest.raises(ValueError, match=rf"The parameter {name} is 'word'; in {path.stem} it has the type "):
                headless.values_for(path, {name: "word"})
    assert headless.values_for(path, {"theta": 12.5}) == ({"theta": 12.5} if "theta" in named else {})


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
