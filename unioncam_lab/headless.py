"""Execution of the notebooks without a screen: executed copies, web pages and an index page, and pictures.

find          find notebooks by their numbers or names
values_for    the values of a notebook's parameters, of the types that it declares
execute       execute notebooks, several at a time; the command is python -m unioncam_lab notebooks
keep_seconds  write into the notebooks how long they took, so that the next run can say when it will end
"""

import base64
import heapq
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from unittest import mock

import jinja2
import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat.reader import NotJSONError
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger
from tqdm import tqdm

from unioncam_lab import FIGURES, ROOT, literal

NOTEBOOKS = ROOT / "notebooks"
# MathJax and its fonts are copied beside the pages, so that equations need no network. The package that brings them is
# not imported, because that takes seconds.
MATHJAX = Path(str(distribution("jupyter-server-mathjax").locate_file("jupyter_server_mathjax/static")))
MATHJAX_URL = "mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe"
MEMORY = 2 << 30  # bytes that a notebook may need
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg"}
EXPECTED = 60.0  # seconds that a notebook is expected to take where nothing is known of it


@dataclass(frozen=True)
class Executed:
    """What the summary and the index page show of an executed notebook."""

    name: str
    title: str
    lead: str  # the paragraph below the heading
    seconds: float
    error: str | None  # where and why it stopped; None if it did not
    cover: tuple[str, str] | None = None  # a picture: the name of its file, and its alternative text


@dataclass
class _Job:
    """A notebook that waits, runs, or has ended."""

    source: Path
    copy: Path
    values: Mapping[str, object]
    heading: Executed
    alone: bool  # it measures time, so nothing may run beside it
    expected: float  # seconds
    started: float | None = None  # of time.monotonic
    interrupted: bool = False
    ended: Executed | None = None

    @property
    def state(self) -> str:
        return "ended" if self.ended else "waiting" if self.started is None else "running"


def find(wanted: Sequence[str]) -> list[Path]:
    """Return the notebooks whose names start with one of the requested numbers or names; all if none is requested.

    Raises:
        ValueError: no notebook starts with a requested number or name.
    """
    available = sorted(NOTEBOOKS.glob("*.ipynb"))
    for start in wanted:
        if not any(path.name.startswith(start) for path in available):
            raise ValueError(f"No notebook starts with {start!r}; there are {', '.join(p.stem for p in available)}.")
    return [path for path in available if not wanted or path.name.startswith(tuple(wanted))]


def _path(text: str) -> str:
    """The absolute path of a file or folder, whether it exists or not; ~ is the home directory."""
    return str(Path(os.path.expanduser(text)).resolve())


# A notebook's kernel runs in the notebook's folder, so a path relative to the caller's is made absolute here. The names
# of our photos and data sets are imported only where a value may be one, because that imports PyTorch.


def _photo(text: str) -> str:
    """The name of a demo photo, or else the path of a file."""
    from unioncam_lab.images import DEMO_PHOTOS

    return text if text in DEMO_PHOTOS else _path(text)


def _pictures(text: str) -> str:
    """The name of a data set of `datasets.pictures`, its folder as an absolute path."""
    from unioncam_lab.datasets import CATALOGUE

    kind, _, argument = text.partition(":")
    if kind not in CATALOGUE:
        return _path(text)
    if not argument:
        return text
    return f"{kind}:{_pictures(argument) if kind == 'mosaics' else _path(argument)}"


# The types that Python lacks, and the reader of each.
PATHS: dict[str, Callable[[str], str]] = {"path": _path, "photo": _photo, "pictures": _pictures}


def values_for(notebook: Path, given: Mapping[str, object]) -> dict[str, object]:
    """The values of those given parameters that a notebook has, of the types that it declares.

    The type of a parameter is that of its default, or what a comment behind it declares. That is `# type: float`,
    `# type: list[float]`, `# type: int|None`, or one of

        path        a file or folder, which need not exist
        photo       the name of a demo photo, or the path of a file
        pictures    a data set, as for `datasets.pictures`

    A relative path starts in the current folder, and becomes absolute. A name of ours wins over a file or folder that
    is called the same: `demo` is the demo photos, and `./demo` a folder.

    Args:
        notebook: the file of the notebook.
        given: a value for each name. A text, as a command line has it, is read as the parameter's type.

    Raises:
        ValueError: a value is not of its parameter's type.
    """
    declared = papermill.inspect_notebook(notebook)
    return {name: _value(name, given[name], declared[name], notebook.stem) for name in declared if name in given}


def _value(name: str, value: object, declared: dict[str, str], notebook: str) -> object:
    default, kind = literal(declared["default"]), declared["inferred_type_name"]
    if default in (None, "") and str(value) == str(default):  # an empty path stands for none
        return default
    if kind == "None":  # nothing is declared
        kind = _type_of(default)
    if kind in PATHS and isinstance(value, str | Path) and str(value):
        return PATHS[kind](str(value))
    read = literal(value) if isinstance(value, str) and "str" not in kind.split("|") else value
    if not _is(read, kind):
        raise ValueError(
            f"The parameter {name} is {value!r}; in {notebook} it has the type {kind}, and is {default!r} by default."
        )
    return read


def _type_of(value: object) -> str:
    return f"list[{_type_of(value[0])}]" if isinstance(value, list) and value else type(value).__name__


def _is(value: object, kind: str) -> bool:
    """Whether a value has a type; an int may stand for a float, but a bool is no int."""
    if kind.startswith("list["):
        return isinstance(value, list) and all(_is(each, kind[5:-1]) for each in value)
    kinds = kind.split("|")
    if value is None:
        return "None" in kinds
    return type(value).__name__ in kinds or (type(value) is int and "float" in kinds)


def execute(
    notebooks: Sequence[Path],
    out: Path,
    figures: Path = FIGURES,
    parameters: Mapping[str, object] | Callable[[Path], Mapping[str, object]] | None = None,
    jobs: int | None = None,
) -> list[Executed]:
    """Execute notebooks and write out/NAME.ipynb, out/NAME.html, and an index page of all notebooks in that folder.

    The first notebook starts first, and then the longest ones. A notebook with `"unioncam": {"alone": true}` in its
    metadata measures time: it waits for the others and has all cores. The index page is there from the start, and
    grows. If a notebook fails, its copy keeps the outputs so far, the result names the cell, and the others run.

    Args:
        notebooks: files of the notebooks.
        out: folder for the copies and pages.
        figures: folder where the notebooks save their pictures.
        parameters: values for variables of the cells tagged `parameters`; each notebook takes the values that it knows,
            as `values_for` reads them. Or a function from a notebook's file to its values.
        jobs: how many notebooks run at a time; by default as many as there are cores, and memory for. They share the
            cores, unless OMP_NUM_THREADS is set.

    Raises:
        ValueError: no notebook has such a parameter, a notebook declares another type, or `jobs` is not positive; none
            was executed.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}; it is the number of notebooks that run at a time, 1 or more.")
    values = _values_for_each(notebooks, parameters or {})
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(MATHJAX, out / "mathjax", ignore=shutil.ignore_patterns("a11y"), dirs_exist_ok=True)
    known = _executed(out)
    plan = _plan([_job(path, out / path.name, values[path], known.get(path.stem)) for path in notebooks])
    jobs = jobs or max(1, min(_usable_cores(), psutil.virtual_memory().available // MEMORY))
    variables = {"UNIONCAM_FIGURES": str(figures.resolve()), "TQDM_DISABLE": "1"}
    begun, states = time.monotonic(), []
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left{postfix}"
    try:
        with (
            tqdm(desc="notebooks", total=0, bar_format=form, disable=None) as bar,
            mock.patch.dict(os.environ, variables),
            mock.patch.object(logger, "disabled", True),  # it would tell again which kernel died
            closing(_run(plan, jobs)) as steps,
        ):
            _write_index(out, known, plan, _seconds_left(plan, jobs, begun))
            if len(plan) > 1:
                bar.write(f"The notebooks appear in {out / 'index.html'} as they run.")
            for ended in steps:
                for job in ended:
                    _write_page(job.copy)
                    known[job.copy.stem] = job.ended = _read(job.copy)
                    bar.write(f"{job.copy.stem:<24}{job.ended.seconds:6.0f} s   {job.ended.error or 'done'}")
                now = time.monotonic()
                left = _seconds_left(plan, jobs, now)
                if states != (states := [job.state for job in plan]):
                    _write_index(out, known, plan, left)
                bar.n, bar.total = now - begun, now - begun + left
                running = [job.copy.stem.partition("_")[0] for job in plan if job.state == "running"]
                bar.set_postfix_str(f"running {' '.join(running)}" if running else "")
    finally:
        _write_index(out, _executed(out))
    return [known[path.stem] for path in notebooks]


def keep_seconds(out: str | Path):
    """Write into the metadata of our notebooks how many seconds their executed copies in a folder took."""
    for name, executed in _executed(Path(out)).items():
        path = NOTEBOOKS / f"{name}.ipynb"
        if path.exists() and not executed.error:
            notebook = nbformat.read(path, 4)
            notebook.metadata.setdefault("unioncam", {})["seconds"] = round(executed.seconds)
            nbformat.write(notebook, path)


def _values_for_each(
    notebooks: Sequence[Path], parameters: Mapping[str, object] | Callable[[Path], Mapping[str, object]]
) -> dict[Path, dict[str, object]]:
    given = {path: parameters(path) if callable(parameters) else parameters for path in notebooks}
    values = {path: values_for(path, own) if own else {} for path, own in given.items()}
    names = dict.fromkeys(name for own in given.values() for name in own)
    if unknown := [name for name in names if not any(name in each for each in values.values())]:
        known = {name for path in notebooks for name in papermill.inspect_notebook(path)}
        raise ValueError(f"No notebook here has the parameter {unknown[0]!r}; there are {', '.join(sorted(known))}.")
    return values


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _job(source: Path, copy: Path, values: Mapping[str, object], earlier: Executed | None) -> _Job:
    """What is known of a notebook before it runs. It is expected to take what it took in the same folder before."""
    notebook = nbformat.read(source, 4)
    ours = notebook.metadata.get("unioncam", {})
    expected = earlier.seconds if earlier and not earlier.error else ours.get("seconds", EXPECTED)
    return _Job(source, copy, values, _heading(notebook, source.stem), ours.get("alone", False), expected)


def _plan(jobs: Sequence[_Job]) -> list[_Job]:
    """The order of the notebooks: the first, the others from the longest to the shortest, and those that run alone."""
    return sorted(jobs, key=lambda job: (job.alone, job is not jobs[0], -job.expected))


def _seconds_left(plan: Sequence[_Job], jobs: int, now: float) -> float:
    """The seconds until all have ended.

    If those that ended took twice the time that was expected, the others are expected to do so too. One minute counts
    as having gone as expected, so that a short first notebook does not decide.
    """
    ended = [(job.ended.seconds, job.expected) for job in plan if job.ended]
    pace = (60 + sum(took for took, _ in ended)) / (60 + sum(expected for _, expected in ended))
    places, alone = [0.0] * jobs, 0.0  # when each of the places for a notebook gets free
    for job in plan:
        elapsed = 0 if job.started is None else now - job.started
        rest = 0 if job.ended else max(0, pace * job.expected - elapsed)
        if job.alone:
            alone += rest
        else:
            heapq.heapreplace(places, places[0] + rest)
    return max(places) + alone


def _run(plan: Sequence[_Job], jobs: int) -> Generator[list[_Job], None, None]:
    """Run the notebooks, and yield those that ended since the last time, at least once a second.

    Each has a kernel, which is a process, and a thread that waits for it. If the generator is closed early, the kernels
    and whatever they started are killed.
    """
    before = set(psutil.Process().children(recursive=True))
    for alone in (False, True):
        group = [job for job in plan if job.alone == alone]
        at_once = 1 if alone else min(jobs, len(group))
        share = at_once > 1 and "OMP_NUM_THREADS" not in os.environ
        threads = {"OMP_NUM_THREADS": str(max(1, _usable_cores() // at_once))} if share else {}
        with mock.patch.dict(os.environ, threads), ThreadPoolExecutor(max(1, at_once)) as pool:
            waiting = {}
            try:
                waiting.update((pool.submit(_run_notebook, job), job) for job in group)
                while waiting:
                    ended, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                    for future in ended:
                        future.result()
                    yield [waiting.pop(future) for future in ended]
            finally:
                for job in waiting.values():
                    job.interrupted = True
                pool.shutdown(wait=False, cancel_futures=True)
                while not all(future.done() for future in waiting):
                    for process in set(psutil.Process().children(recursive=True)) - before:
                        with suppress(psutil.NoSuchProcess):
                            process.kill()
                    time.sleep(0.1)


def _run_notebook(job: _Job):
    job.started = time.monotonic()
    # Without the first of these every kernel warns that it does not encrypt the loopback.
    options = {
        "extra_arguments": ["--IPKernelApp.log_level=ERROR"],
        "resources": {"metadata": {"path": str(job.source.parent)}},  # where the kernel runs
    }
    try:
        papermill.execute_notebook(
            job.source, job.copy, job.values, kernel_name="python3", progress_bar=False, **options
        )
    except PapermillExecutionError:
        pass  # the executed copy holds the error
    except RuntimeError as error:
        why = "its kernel died, perhaps because memory ran out" if isinstance(error, DeadKernelError) else str(error)
        notebook = nbformat.read(job.copy, 4)
        notebook.metadata.papermill.exception = f"stopped: {'it was interrupted' if job.interrupted else why}"
        nbformat.write(notebook, job.copy)


def _heading(notebook: nbformat.NotebookNode, name: str) -> Executed:
    """Read from a notebook its heading and the paragraph below it."""
    text = next((cell.source for cell in notebook.cells if cell.source.startswith("# ")), name)
    title, _, rest = text.partition("\n")
    return Executed(name, title.removeprefix("# "), " ".join(rest.strip().split("\n\n")[0].split()), 0, None)


def _executed(out: Path) -> dict[str, Executed]:
    """What the executed notebooks of a folder say, by name. One whose writing was interrupted is left out."""
    found = {}
    for path in sorted(out.glob("*.ipynb")):
        with suppress(NotJSONError):
            found[path.stem] = _read(path)
    return found


def _read(executed: Path) -> Executed:
    """Read from an executed notebook its heading, its time and its error."""
    notebook = nbformat.read(executed, 4)
    run = notebook.metadata.get("papermill", {})
    error = run.get("exception")  # None, True, or what _run_notebook wrote
    if run.get("end_time") is None:
        error = "stopped before its end"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                error = f"stopped in cell {cell.execution_count}: {output.ename}: {output.evalue}"
    found = _cover(notebook)
    cover = (f"{executed.stem}{SUFFIXES[found[0]]}", found[2]) if found else None
    return replace(_heading(notebook, executed.stem), seconds=run.get("duration") or 0, error=error, cover=cover)


def _write_index(out: Path, known: Mapping[str, Executed], plan: Sequence[_Job] = (), left: float = 0):
    """Write the index page of the notebooks that were executed into a folder, and of those that wait or run."""
    unfinished = {job.copy.stem: job for job in plan if not job.ended}
    covers = {name: each.cover for name, each in known.items() if each.cover and (out / each.cover[0]).exists()}
    entries = [
        {
            "notebook": unfinished[name].heading if name in unfinished else known[name],
            "state": unfinished[name].state if name in unfinished else "ended",
            "page": (out / f"{name}.html").exists(),  # perhaps of an earlier run
            "cover": covers.get(name),
        }
        for name in sorted({*known, *unfinished})
    ]
    template = Path(__file__).with_name("index.html.j2").read_text(encoding="utf-8")
    page = jinja2.Template(template, autoescape=True).render(
        entries=entries,
        unfinished=len(unfinished),
        end=datetime.now() + timedelta(seconds=left),
        markdown=markdown2html,
    )
    temporary = out / "index.html.part"  # a browser that reloads the page never finds half of it
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(out / "index.html")


def _write_page(executed: Path):
    """Write an executed notebook as a web page, and its cover picture, if it has one."""
    notebook = nbformat.read(executed, 4)
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    exporter = HTMLExporter(raw_template=template, mathjax_url=MATHJAX_URL)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": executed.stem}})
    page = re.sub(r'href="(\w+)\.ipynb"', r'href="\1.html"', page)
    executed.with_suffix(".html").write_text(page, encoding="utf-8")
    if found := _cover(notebook):
        kind, picture, _ = found
        executed.with_suffix(SUFFIXES[kind]).write_bytes(base64.b64decode(picture))


def _cover(notebook: nbformat.NotebookNode) -> tuple[str, str, str] | None:
    """Return the picture of the cell tagged `cover`, otherwise the first picture; None if there is none.

    It is its kind, a key of SUFFIXES, its content as the notebook stores it, and its alternative text.
    """
    cells = sorted(notebook.cells, key=lambda cell: "cover" not in cell.metadata.get("tags", []))
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        for kind in SUFFIXES.keys() & output.get("data", {}).keys():
            return kind, output["data"][kind], output.get("metadata", {}).get(kind, {}).get("alt", "")
    return None
