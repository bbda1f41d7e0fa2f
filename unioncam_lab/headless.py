"""Execution of the notebooks without a screen: executed copies, web pages and an index page, and pictures.

find       find notebooks by their numbers or names
execute    execute notebooks; the command is python -m unioncam_lab notebooks
"""

import base64
import os
import re
import shutil
from collections.abc import Sequence
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

from unioncam_lab import FIGURES, ROOT

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


def execute(
    notebooks: Sequence[Path], out: Path, figures: Path = FIGURES, parameters: dict[str, object] | None = None
) -> list[Executed]:
    """Execute notebooks and write out/NAME.ipynb, out/NAME.html, and an index page of all notebooks in that folder.

    If a notebook fails, its copy keeps the outputs so far, the result names the cell, and the next notebook runs.

    Args:
        notebooks: files of the notebooks.
        out: folder for the copies and pages.
        figures: folder where the notebooks save their pictures.
        parameters: values for variables of the cells tagged `parameters`; each notebook takes the values that it knows.

    Raises:
        ValueError: no notebook has such a parameter.
    """
    parameters = parameters or {}
    declared = {path: papermill.inspect_notebook(path) for path in notebooks}
    known = {name for names in declared.values() for name in names}
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
            _run_notebook(
                path, out / path.name, {name: parameters[name] for name in declared[path] if name in parameters}
            )
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
