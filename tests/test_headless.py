"""Tests of the execution of notebooks: side by side, with pages that can be read offline; failures lose nothing."""

import ast
import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import psutil
import pytest
from chromium import BROWSER
from runs import notebook

from unioncam_lab import headless

PICTURE = """
import numpy as np
from unioncam_lab import figures
figures.show(figures.row({"noise": np.zeros((4, 4, 3))}), "noise", alt="Nothing at all")
"""
KINDS = {"image/png": ".png", "image/jpeg": ".jpg"}


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
    cells = nbformat.read(folder / "out" / "a.ipynb", 4).cells
    ((kind, stored),) = [
        (kind, output.data[kind])
        for cell in cells
        for output in cell.get("outputs", [])
        for kind in KINDS
        if kind in output.get("data", {})
    ]
    cover = folder / "out" / f"a{KINDS[kind]}"
    assert cover.read_bytes() == base64.b64decode(stored)
    assert f'src="{cover.name}" alt="Nothing at all"' in (folder / "out" / "index.html").read_text()


def drawn(kind, alt, **more):
    """A code cell with a picture of some bytes that name it."""
    data, metadata = {kind: base64.b64encode(alt.encode()).decode(), "text/plain": alt}, {kind: {"alt": alt, **more}}
    return nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data, metadata=metadata)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_both_kinds_are_covers_and_keep_their_text_and_width(tmp_path, kind):
    (other,) = KINDS.keys() - {kind}
    made = nbformat.v4.new_notebook(cells=[drawn(other, "The first, <b>"), drawn(kind, "The second", width=570)])
    assert headless._cover(made)[0] == other
    made.cells[1].metadata.tags = ["cover"]
    nbformat.write(made, tmp_path / "a.ipynb")
    headless._write_page(tmp_path / "a.ipynb")
    assert headless._read(tmp_path / "a.ipynb").cover == (f"a{KINDS[kind]}", "The second")
    assert (tmp_path / f"a{KINDS[kind]}").read_bytes() == b"The second"
    page = (tmp_path / "a.html").read_text()
    first, second = re.findall(r'<img alt="([^"]*)" src="data:(\S+);base64,[^" ]+"( width="570")?/>', page)
    assert first == ("The first, &lt;b&gt;", other, "")
    assert second == ("The second", kind, ' width="570"')
    assert headless._cover(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell()])) is None


@pytest.mark.notebook
def test_pages_ask_nothing_of_the_network(executed):
    folder, _ = executed
    for page in (folder / "out").glob("*.html"):
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', page.read_text())


WAIT = """
import time
from pathlib import Path
def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it waited in vain"
        time.sleep(0.05)
"""
THREADS = "import os; print(os.environ.get('OMP_NUM_THREADS'))"


def meta(path, **ours):
    """Write into a notebook what the project says of it."""
    written = nbformat.read(path, 4)
    written.metadata.unioncam = ours
    nbformat.write(written, path)
    return path


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    """Execute four notebooks, two at a time: one that must run alone, and two that wait for each other."""
    folder = tmp_path_factory.mktemp("side_by_side")
    index, kept = folder / "out" / "index.html", folder / "kept.html"
    grown = f"wait_for(lambda: 'href=\"1_short.html\"' in Path({str(index)!r}).read_text())"
    paths = [
        meta(notebook(folder, "0_alone", THREADS), alone=True),
        notebook(folder, "1_short", WAIT + "wait_for(Path('begun').exists)", THREADS),
        notebook(
            folder,
            "2_long",
            WAIT + "Path('begun').touch()",
            grown,
            f"import shutil; shutil.copy({str(index)!r}, 'kept.html')",
        ),
        meta(notebook(folder, "3_alone", THREADS), alone=True),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setattr(headless, "_usable_cores", lambda: 6)
        runs = headless.execute(paths, folder / "out", folder / "figures", jobs=2)
    return folder, kept.read_text(), runs


@pytest.mark.notebook
def test_notebooks_overlap_unless_one_must_run_alone(side_by_side):
    folder, _, runs = side_by_side
    assert [(run.name, run.error) for run in runs] == [
        ("0_alone", None),
        ("1_short", None),
        ("2_long", None),
        ("3_alone", None),
    ]
    times = {}
    for run in runs:
        kept = nbformat.read(folder / "out" / f"{run.name}.ipynb", 4).metadata.papermill
        times[run.name] = (kept.start_time, kept.end_time)
    assert times["2_long"][0] < times["1_short"][1] < times["2_long"][1] < times["0_alone"][0]
    assert times["0_alone"][1] < times["3_alone"][0]


@pytest.mark.notebook
def test_notebooks_share_the_cores_and_one_alone_has_all(side_by_side):
    folder, _, _ = side_by_side
    assert outputs(folder, "1_short") == "3\n"
    assert outputs(folder, "0_alone") == outputs(folder, "3_alone") == "None\n"


@pytest.mark.notebook
def test_the_index_grows_and_reloads_itself_until_all_have_ended(side_by_side):
    folder, growing, _ = side_by_side
    assert re.search(r"1 of 4 notebooks have run\.</strong> All should be here at about \d\d:\d\d\.", growing)
    assert re.findall(r'<li class="(\w+)">', growing) == ["waiting", "ended", "running", "waiting"]
    assert 'http-equiv="refresh"' in growing
    assert re.findall(r'href="(\w+)\.html"', growing) == ["1_short"]
    final = (folder / "out" / "index.html").read_text()
    assert re.findall(r'<li class="(\w+)">', final) == ["ended"] * 4
    assert "http-equiv" not in final
    assert "All should be here" not in final
    assert "<p>Its <em>lead</em> in two lines.</p>" in final
    assert set(re.findall(r'href="(\w+)\.html"', final)) == {"0_alone", "1_short", "2_long", "3_alone"}


@pytest.mark.notebook
def test_given_threads_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(headless, "_usable_cores", lambda: 2)
    headless.execute([notebook(tmp_path, name, THREADS) for name in "ab"], tmp_path / "out", tmp_path, jobs=2)
    assert outputs(tmp_path, "a") == outputs(tmp_path, "b") == "5\n"


@pytest.mark.notebook
def test_the_index_lists_what_earlier_runs_made(tmp_path):
    """What was stopped before its end is named; what was stopped while it was written is left out."""
    for name in "ab":
        out = tmp_path / "out"
        headless.execute([notebook(tmp_path, name, "1")], out, tmp_path)
        if name == "a":
            stopped = nbformat.read(out / "a.ipynb", 4)
            stopped.metadata.papermill.end_time = None
            nbformat.write(stopped, out / "stopped.ipynb")
            (out / "half.ipynb").write_text((out / "a.ipynb").read_text()[:500])
    index = (out / "index.html").read_text()
    assert 'href="a.html"' in index
    assert 'href="b.html"' in index
    assert index.count("stopped before its end") == 1
    assert "half" not in index


SLEEP = """
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
Path("NAME.part").write_text(f"{os.getpid()} {child.pid}")
Path("NAME.part").rename("NAME.pids")
time.sleep(300)
"""
GREETING = "The notebooks appear in {} as they run.\n"
COMMAND = """
import signal, sys
from pathlib import Path
from unioncam_lab import __main__, headless
signal.signal(signal.SIGINT, signal.default_int_handler)
headless.NOTEBOOKS = Path(sys.argv[1])
sys.exit(__main__.main(["notebooks", "--jobs", "2", "--out", sys.argv[2], "--figures", sys.argv[2]]))
"""


@pytest.mark.notebook
def test_an_interrupt_leaves_no_process_and_an_index_that_says_so(tmp_path):
    for name in "abc":
        notebook(tmp_path, name, SLEEP.replace("NAME", name))
    out = tmp_path / "out"
    command = [sys.executable, "-c", COMMAND, str(tmp_path), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 100
    while len(started := list(tmp_path.glob("*.pids"))) < 2:
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    processes = [int(pid) for path in started for pid in path.read_text().split()]
    assert all(map(psutil.pid_exists, processes))
    process.send_signal(signal.SIGINT)
    printed, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (printed, error) == (GREETING.format(out / "index.html"), "Stopped.\n")
    end = time.monotonic() + 20  # a process that was killed is there until its parent, or init, has seen it
    while left := [pid for pid in processes if psutil.pid_exists(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)
    index = (out / "index.html").read_text()
    assert index.count("stopped: it was interrupted") == 2
    assert "http-equiv" not in index
    assert not (out / "c.ipynb").exists()


NOW = 1000.0


def job(name, expected, alone=False, elapsed=None, took=None):
    """A notebook of a plan: one that waits, that began `elapsed` seconds before NOW, or that ended."""
    path, heading = Path(f"{name}.ipynb"), headless.Executed(name, name, "", 0, None)
    made = headless._Job(path, path, {}, heading, alone, expected)
    made.started = None if elapsed is None else NOW - elapsed
    made.ended = None if took is None else replace(heading, seconds=took)
    return made


def test_the_first_notebook_comes_first_then_the_longest_and_those_alone_last():
    jobs = [job("0", 20), job("1", 30, alone=True), job("2", 40), job("3", 90), job("4", 70, alone=True)]
    assert [each.copy.stem for each in headless._plan(jobs)] == ["0", "3", "2", "4", "1"]


@pytest.mark.parametrize(
    ("plan", "jobs", "left"),
    [
        ([job("a", 10), job("b", 50), job("c", 45)], 1, 105),
        ([job("a", 10), job("b", 50), job("c", 45)], 2, 55),
        ([job("a", 10), job("b", 50), job("c", 45)], 16, 50),
        ([job("a", 10), job("b", 50), job("c", 45, alone=True)], 2, 95),
        ([job("a", 10, took=10), job("b", 50, elapsed=20), job("c", 45)], 2, 45),
        ([job("a", 10, elapsed=30), job("b", 50, elapsed=30)], 2, 20),
        ([job("a", 60, took=180), job("b", 50)], 1, 100),
        ([job("a", 10, took=9), job("b", 10, took=11)], 2, 0),
    ],
)
def test_the_seconds_left_follow_from_the_plan_and_from_what_others_took(plan, jobs, left):
    """In the seventh case a minute took three. With one more minute as expected, that is twice as long."""
    assert headless._seconds_left(plan, jobs, NOW) == pytest.approx(left)


@pytest.mark.notebook
def test_a_notebook_is_expected_to_take_what_it_took_before(executed, tmp_path):
    folder, _ = executed
    known = headless._executed(folder / "out")
    for name, took in (("a", known["a"].seconds), ("b", 12), ("e", 12), ("f", 60)):  # b failed in its earlier run
        path = meta(notebook(tmp_path, name), **({"seconds": 12} if name != "f" else {}))
        assert headless._job(path, tmp_path / "out" / path.name, {}, known.get(name)).expected == took
    assert 0 < known["a"].seconds < 60


@pytest.mark.notebook
def test_the_seconds_that_notebooks_took_are_kept_in_them(executed, tmp_path, monkeypatch):
    folder, _ = executed
    monkeypatch.setattr(headless, "NOTEBOOKS", tmp_path)
    meta(notebook(tmp_path, "a", "1"), alone=True, seconds=1000)
    notebook(tmp_path, "b", "1")
    before = (tmp_path / "b.ipynb").read_text()
    headless.keep_seconds(folder / "out")
    kept = nbformat.read(tmp_path / "a.ipynb", 4).metadata.unioncam
    assert kept == {"alone": True, "seconds": round(headless._read(folder / "out" / "a.ipynb").seconds)}
    assert (tmp_path / "b.ipynb").read_text() == before, "which failed"


PARAMETERS = """
folder = ""  # type: path  where the pictures are
out = None  # type: path  where they go
photo = "coffee"  # type: photo  one of ours, or yours
images = "demo"  # type: pictures  a data set
limit = None  # type: int  how many
most = 8  # type: int|None  at most
theta = 10  # type: float  a percentile
other = None  # type: str|None  a class
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
        ("other", "2007", "2007"),
        ("other", "None", None),
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
        elif name in {"photo", "scale", "precision", "other", "model"}:
            assert headless.values_for(path, {name: "2007"}) == {name: "2007"}
        else:
            with pytest.raises(ValueError, match=rf"The parameter {name} is 'word'; in {path.stem} it has the type "):
                headless.values_for(path, {name: "word"})
    assert headless.values_for(path, {"theta": 12.5}) == ({"theta": 12.5} if "theta" in named else {})


def render(page, *more):
    options = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --virtual-time-budget=20000 --dump-dom"
    )
    command = [BROWSER, *options.split(), *more, f"--user-data-dir={page.parent / 'profile'}", page.as_uri()]
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


COUNT = """<!doctype html>
{frames}
<script>
addEventListener("load", () => setTimeout(() => {{
  const counts = [...document.querySelectorAll("iframe")].map(frame =>
    ["script[type^='math/tex']", ".MathJax", ".noError, .MathJax_Error"].map(
      wanted => frame.contentDocument.querySelectorAll(wanted).length));
  document.body.textContent = JSON.stringify(counts);
}}, 15000));
</script>
"""


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_a_browser_typesets_every_equation_of_the_notebooks(tmp_path):
    """One browser opens all pages, without their pictures, in frames of a page that counts their equations."""
    paths = sorted(headless.NOTEBOOKS.glob("*.ipynb"))
    shutil.copytree(headless.MATHJAX, tmp_path / "mathjax")
    for path in paths:
        made = nbformat.read(path, 4)
        for output in [output for cell in made.cells for output in cell.get("outputs", [])]:
            for kind in KINDS:
                output.get("data", {}).pop(kind, None)
        nbformat.write(made, tmp_path / path.name)
        headless._write_page(tmp_path / path.name)
    frames = "".join(f'<iframe src="{path.stem}.html"></iframe>' for path in paths)
    (tmp_path / "all.html").write_text(COUNT.format(frames=frames))
    page = render(tmp_path / "all.html", "--allow-file-access-from-files")
    counts = json.loads(re.search(r"<body>(.*)</body>", page).group(1))
    for path, (equations, typeset, errors) in zip(paths, counts, strict=True):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        assert (equations > 0) == any("$" in source for source in cells), path.stem
        assert (typeset, errors) == (equations, 0), path.stem


def test_find(tmp_path, monkeypatch):
    monkeypatch.setattr(headless, "NOTEBOOKS", tmp_path)
    for name in ("00_first", "01_second", "10_third"):
        notebook(tmp_path, name)
    assert [p.stem for p in headless.find([])] == ["00_first", "01_second", "10_third"]
    assert [p.stem for p in headless.find(["10", "00"])] == ["00_first", "10_third"]
    with pytest.raises(ValueError, match="No notebook starts with '07'; there are 00_first, 01_second, 10_third"):
        headless.find(["07"])
