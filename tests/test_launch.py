"""Tests of the badges and the cell for Colab: written twice they are the same, and at home the cell does nothing."""

import re
import shutil
import sys
from types import ModuleType

import nbformat
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from test_packaging import wanted

from unioncam_lab import ROOT, __main__, launch
from unioncam_lab.launch import add_badges


@pytest.fixture
def project(tmp_path):
    """A copy of the notebooks without what add_badges writes, and a README with a place for badges."""
    (tmp_path / "README.md").write_text("# A title\n\n<!-- badges -->\n<!-- /badges -->\n\nText.\n")
    (tmp_path / "notebooks").mkdir()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        notebook.cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
        nbformat.write(notebook, tmp_path / "notebooks" / path.name)
    return tmp_path


def contents(project):
    return {path.name: path.read_text(encoding="utf-8") for path in project.rglob("*.*") if path.is_file()}


def notebooks(project):
    return {path.name: nbformat.read(path, 4) for path in (project / "notebooks").iterdir()}


@pytest.mark.slow
def test_each_notebook_gets_one_cell_and_another_address_replaces_it(project):
    before = notebooks(project)
    add_badges("someone/some.paper", project)
    written = contents(project)
    for name, notebook in notebooks(project).items():
        nbformat.validate(notebook)
        first, *rest = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert "https://github.com/someone/some.paper\n" in first.source
        assert "parameters" in rest[0].metadata.tags
        notebook.cells.remove(first)
        assert notebook == before[name], "nothing else changed"
        path = project / "notebooks" / name
        assert papermill.inspect_notebook(path) == papermill.inspect_notebook(ROOT / "notebooks" / name) != {}
    add_badges("someone/some.paper", project)
    assert contents(project) == written
    add_badges("another/paper", project)
    assert not [name for name, text in contents(project).items() if "someone" in text]
    add_badges("someone/some.paper", project)
    assert contents(project) == written


def test_the_badges_lead_to_a_notebook(project):
    add_badges("someone/paper", project)
    readme = (project / "README.md").read_text()
    assert readme.startswith("# A title\n\n<!-- badges -->\n[![Binder]")
    assert readme.endswith("\n<!-- /badges -->\n\nText.\n")
    opened = re.findall(r"https://\S+/someone/paper/\S+(notebooks/\w+\.ipynb)", readme)
    assert len(opened) == 2
    assert all((ROOT / path).exists() for path in opened)


class Shell:
    """Records what a cell asks of IPython."""

    def __init__(self):
        self.asked = []

    def run_line_magic(self, name, line):
        self.asked.append(f"{name} {line}")

    def system(self, line):
        self.asked.append(line)


def run_cell(project):
    add_badges("someone/paper", project)
    (cell,) = [c for c in notebooks(project)["00_start_here.ipynb"].cells if "colab" in c.metadata.get("tags", [])]
    shell = Shell()
    exec(TransformerManager().transform_cell(cell.source), {"get_ipython": lambda: shell})
    return shell.asked


def test_at_home_the_cell_does_nothing(project, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    paths = list(sys.path)
    assert run_cell(project) == []
    assert sys.path == paths


def test_on_colab_the_cell_fetches_the_project_and_goes_to_its_notebooks(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    asked = run_cell(project)
    assert asked[:2] == ["cd -q /content", "git clone -q --depth 1 https://github.com/someone/paper"]
    assert asked[2].startswith("pip install -q efficientnet-lite-pytorch ")
    assert asked[3:] == ["cd -q /content/paper/notebooks"]
    assert sys.path[0] == "/content/paper"


def test_colab_lacks_only_what_the_notebooks_need():
    """A version that is pinned there is the project's."""
    needed = {requirement.name: requirement for requirement in wanted("binder")}
    for requirement in map(Requirement, launch.LACKING.split()):
        assert requirement.specifier in ("", needed[requirement.name].specifier)


@pytest.mark.parametrize("repository", ["", "paper", "https://github.com/someone/paper", "someone/paper/tree", "a b/c"])
def test_another_address_is_refused_in_one_sentence(project, repository, capsys, monkeypatch):
    before = contents(project)
    with pytest.raises(ValueError, match=r"it must be OWNER/NAME"):
        add_badges(repository, project)
    assert contents(project) == before
    assert __main__.main(["badges", repository]) == 2
    assert capsys.readouterr().err == (
        f"unioncam badges: The repository is {repository!r}; it must be OWNER/NAME, as in its address on GitHub.\n"
    )


def test_a_readme_without_a_place_for_badges_is_refused(project):
    shutil.copy(ROOT / "LICENSE", project / "README.md")
    before = contents(project)
    with pytest.raises(ValueError, match=r"README\.md has no lines <!-- badges -->"):
        add_badges("someone/paper", project)
    assert contents(project) == before
