"""Execution of the notebooks without a screen: executed copies, web pages and an index page, and pictures.

find          find notebooks by their numbers or names
values_for    the values of a notebook's parameters, of the types that it declares
execute       execute notebooks; the command is python -m unioncam_lab notebooks
"""

import base64
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import jinja2
import jupyter_server_mathjax
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from unioncam_lab import FIGURES, ROOT, literal

NOTEBOOKS = ROOT / "notebooks"
# MathJax and its fonts are copied beside the pages, so that equations need no network.
MATHJAX = Path(jupyter_server_mathjax.__file__).parent / "static"
MATHJAX_URL = "mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe"


@dataclass(frozen=True)
class Executed:
    """What the summary and the index page show of an executed notebook."""

    name: str
    title: str
    lead: str  # the paragraph below the heading
    seconds: float
    error: str | None  # where and why it stopped; None if it did not


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
    read = literal(value) if isinstance(value, str) and kind != "str" else value
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
    notebooks: Sequence[Path], out: Path, figures: Path = FIGURES, parameters: Mapping[str, object] | None = None
) -> list[Executed]:
    """Execute notebooks and write out/NAME.ipynb, out/NAME.html, and an index page of all notebooks in that folder.

    If a notebook fails, its copy keeps the outputs so far, the result names the cell, and the next notebook runs.

    Args:
        notebooks: files of the notebooks.
        out: folder for the copies and pages.
        figures: folder where the notebooks save their pictures.
        parameters: values for variables of the cells tagged `parameters`; each notebook takes the values that it knows,
            as `values_for` reads them.

    Raises:
        ValueError: no notebook has such a parameter, or a notebook declares another type; none was executed.
    """
    parameters = parameters or {}
    values = {path: values_for(path, parameters) for path in notebooks}
    known = {name for path in notebooks for name in papermill.inspect_notebook(path)}
    for name in parameters:
        if name not in known:
            raise ValueError(f"No notebook here has the parameter {name!r}; there are {', '.join(sorted(known))}.")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(MATHJAX, out / "mathjax", ignore=shutil.ignore_patterns("a11y"), dirs_exist_ok=True)
    runs = []
    bar = tqdm(notebooks, "notebooks", disable=None)
    with mock.patch.dict(os.environ, UNIONCAM_FIGURES=str(figures.resolve()), TQDM_DISABLE="1"):
        for path in bar:
            bar.set_postfix_str(path.stem)
            _run_notebook(path, out / path.name, values[path])
            _write_page(out / path.name)
            runs.append(_read(out / path.name))
            bar.write(f"{runs[-1].name:<24}{runs[-1].seconds:6.0f} s   {runs[-1].error or 'done'}")
    everything = [_read(path) for path in sorted(out.glob("*.ipynb"))]
    template = jinja2.Template(Path(__file__).with_name("index.html.j2").read_text(encoding="utf-8"), autoescape=True)
    (out / "index.html").write_text(template.render(runs=everything), encoding="utf-8")
    return runs


def _run_notebook(path: Path, executed: Path, parameters: dict[str, object]):
    # Without `extra_arguments` every kernel warns that it does not encrypt the loopback.
    options = {
        "progress_bar": {"desc": path.stem, "leave": False, "disable": None},
        "extra_arguments": ["--IPKernelApp.log_level=ERROR"],
    }
    try:
        papermill.execute_notebook(path, executed, parameters, cwd=path.parent, kernel_name="python3", **options)
    except PapermillExecutionError:
        pass  # the executed copy holds the error
    except DeadKernelError:
        notebook = nbformat.read(executed, 4)
        notebook.metadata.papermill.exception = "stopped: its kernel died, perhaps because memory ran out"
        nbformat.write(notebook, executed)


def _read(executed: Path) -> Executed:
    """Read from an executed notebook its heading, the paragraph below it, its time and its error."""
    notebook = nbformat.read(executed, 4)
    text = next(cell.source for cell in notebook.cells if cell.source.startswith("# "))
    title, _, rest = text.partition("\n")
    lead = " ".join(rest.strip().split("\n\n")[0].split())
    error = notebook.metadata.papermill.exception  # None, True, or what _run_notebook wrote
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                error = f"stopped in cell {cell.execution_count}: {output.ename}: {output.evalue}"
    return Executed(executed.stem, title.removeprefix("# "), lead, notebook.metadata.papermill.duration or 0, error)


def _write_page(executed: Path):
    """Write an executed notebook as a web page, and its cover picture, if it has one."""
    notebook = nbformat.read(executed, 4)
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    exporter = HTMLExporter(raw_template=template, mathjax_url=MATHJAX_URL)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": executed.stem}})
    page = re.sub(r'href="(\w+)\.ipynb"', r'href="\1.html"', page)
    executed.with_suffix(".html").write_text(page, encoding="utf-8")
    if jpeg := _cover(notebook):
        executed.with_suffix(".jpg").write_bytes(jpeg)


def _cover(notebook: nbformat.NotebookNode) -> bytes | None:
    """Return the picture of the cell tagged `cover`, otherwise the first picture; None if there is none."""
    cells = sorted(notebook.cells, key=lambda cell: "cover" not in cell.metadata.get("tags", []))
    outputs = (output for cell in cells for output in cell.get("outputs", []))
    pictures = (output["data"]["image/jpeg"] for output in outputs if "image/jpeg" in output.get("data", {}))
    return base64.b64decode(jpeg) if (jpeg := next(pictures, None)) else None
