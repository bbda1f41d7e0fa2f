"""Tests of the project's promises: the thin core, the README, the records, the size."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from PIL import Image
from torchvision import models

from unioncam_lab import findings, methods, store

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Lowest first. A module imports only from its own floor and those below; a package is one room.
FLOORS = [
    {"unioncam_core"},
    {"fusioncam"},
    {"unioncam_lab"},
    {"colours"},
    {"cache", "provenance"},
    {"archives"},
    {"images"},
    {"scenes", "shapes"},
    {"datasets"},
    {"engine"},
    {"classifiers"},
    {"methods"},
    {"metrics"},
    {"store"},
    {"download"},
    {"tables"},
    {"experiment"},
    {"figures", "cluster"},
    {"report", "findings", "bench", "headless", "paper", "launch", "train_shapes", "explorer"},
    {"__main__"},
]


def modules_after(statement):
    listing = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    printed = subprocess.run(
        [sys.executable, "-c", f"{statement}; {listing}"], capture_output=True, text=True, cwd=ROOT
    )
    return set(printed.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(("module", "lines"), [("unioncam_core", 450), ("fusioncam", 100)])
def test_the_core_is_thin_and_imports_torch_and_numpy_alone(module, lines):
    own = {"unioncam_core", "fusioncam", "contextlib", "dataclasses", "functools", "typing", "collections"}
    assert modules_after(f"import {module}") - modules_after("import torch, numpy") <= own
    assert len((ROOT / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= lines, "the bound is never raised"


def test_the_lab_depends_on_the_core_and_never_the_other_way():
    assert "unioncam_lab" not in re.findall(r"^(?:from|import) (\w+)", (ROOT / "unioncam_core.py").read_text(), re.M)


def imported_modules(source, package=()):
    """Return the dotted names that a module of a package imports, also in functions, but not only for type checking."""
    found, todo = set(), [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return found


def test_imports_are_found_wherever_they_are():
    source = """
import torch.nn as nn
from unioncam_lab import images, literal
if TYPE_CHECKING:
    from unioncam_lab.report import Run
else:
    import numpy
def late():
    from unioncam_lab.figures.maps import overlay
    from .style import use_style
    from ..store import load
    from . import steps
"""
    assert imported_modules(source, ("unioncam_lab", "figures")) == {
        "torch.nn",
        "unioncam_lab.images",
        "unioncam_lab.literal",
        "numpy",
        "unioncam_lab.figures.maps.overlay",
        "unioncam_lab.figures.style.use_style",
        "unioncam_lab.store.load",
        "unioncam_lab.figures.steps",
    }


def rooms_imported():
    """Room -> the project's other rooms that it imports."""
    files = {path: (path.stem,) for path in (ROOT / "unioncam_core.py", ROOT / "fusioncam.py") if path.exists()}
    for path in (ROOT / "unioncam_lab").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[path] = parts[:-1] if path.stem == "__init__" else parts
    rooms = {(parts[:2] if parts[0] == "unioncam_lab" else parts) for parts in files.values()}
    imported = {room[-1]: set() for room in rooms}
    for path, parts in files.items():
        package = parts if path.stem == "__init__" else parts[:-1]
        for name in imported_modules(path.read_text(encoding="utf-8"), package):
            target = tuple(name.split("."))
            for room in (target[:2], target[:1]):  # the room itself, or a name in its face
                if room in rooms:
                    imported[parts[:2][-1]].add(room[-1])
                    break
    return {room: others - {room} for room, others in imported.items()}


@pytest.mark.slow
def test_each_module_has_a_floor():
    assert {"unioncam_core", "images", "datasets"} <= set(rooms_imported()) <= set().union(*FLOORS)


def test_no_module_imports_from_a_higher_floor():
    imported = rooms_imported()
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    assert [f"{room} <- {o}" for room, others in imported.items() for o in others if floor[o] > floor[room]] == []


def test_no_imports_go_in_a_circle():
    TopologicalSorter(rooms_imported()).prepare()


def test_the_readmes_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"\bmake (\w+)", README))
    assert {"demo", "test", "lab"} <= commands
    assert all(re.search(rf"^{command}:", makefile, re.M) for command in commands)


def test_the_readmes_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README) + re.findall(r'(?:src|href)="(?!https?:)([^"]+)"', README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_the_readmes_example_runs(tmp_path, monkeypatch):
    """An untrained ResNet-18 replaces the ResNet-50, and a stand-in for the download returns its weights."""
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "my_photo" in block]
    Image.new("RGB", (300, 200), (90, 120, 30)).save(tmp_path / "my_photo.jpg")
    monkeypatch.chdir(tmp_path)
    state = models.resnet18(weights=None).state_dict()
    state["layer4.1.bn2.bias"][16:] = -1e3  # constant channels, of which no masked image is scored
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    names = {}
    exec(example.replace("resnet50", "resnet18").replace("ResNet50", "ResNet18"), names)
    assert names["maps"].shape == (1, 224, 224)


@pytest.mark.slow
@pytest.mark.usefixtures("kept_passes")  # the gallery explains the run's photos again
def test_a_newcomers_method_takes_part_in_a_run_and_in_its_gallery(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)
    assert len(list(filter(str.strip, example.splitlines()))) <= 10
    for registry in ("METHODS", "TITLES", "NEED_REGIONS"):
        monkeypatch.setattr(methods, registry, getattr(methods, registry).copy())
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    records = store.load("runs/positive_sum").records
    assert records.groupby("method").size().to_dict() == {"positive_sum": 3, "union_cam": 3}
    page = Path(capsys.readouterr().out.strip().removeprefix("The report is ").removesuffix(".")).read_text("utf-8")
    assert page.count("Positive sum") >= 3
    assert page.count("data:image/png") >= 2, "curves and a gallery"


@pytest.mark.slow
def test_the_readmes_numbers_are_the_records():
    """The code writes its tables, and each sentence with a number, from the records."""
    assert findings.render(README) == README
    assert all(len(write().split()) > 20 for write in findings.BLOCKS.values())


def test_the_readme_says_no_other_number_of_a_record():
    rest = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", README, flags=re.S)
    assert re.findall(r"\d+\.\d+ ?%|\[\d+\.\d", rest) == []


def test_the_readmes_numbers_about_the_rocket_are_notebook_00s():
    """Its outputs are compared whenever the notebooks run."""
    (sentences,) = re.findall(r"The network takes this rocket .*?\(\[", README, re.S)
    cells = json.loads(findings.START.read_text(encoding="utf-8"))["cells"]
    (cell,) = [cell for cell in cells if "left tower" in "".join(cell["source"])
               and "nbval-check-output" in cell["metadata"].get("tags", [])]  # fmt: skip
    printed = dict(re.findall(r"(\d\.\d\d)  painted out: (.+)", "".join(cell["outputs"][0]["text"])))
    stated = re.findall(r"\d\.\d\d", sentences)
    assert [printed[p] for p in stated] == ["nothing", "left tower, sky", "right tower, sky", "rocket, sky"]


def test_notebook_00_and_the_readme_list_every_notebook(tmp_path):
    every = findings.chapters()
    assert {chapter.number for chapter in every} == set(findings.SHOWN)
    assert all(chapter.reading > 0 for chapter in every)
    assert findings.notebooks("notebooks/").replace("(notebooks/", "(") == findings.notebooks()
    start = tmp_path / "start.ipynb"
    start.write_bytes(findings.START.read_bytes())
    findings.write_start(start)
    assert start.read_bytes() == findings.START.read_bytes(), "python -m unioncam_lab readme writes the list anew"
    assert "](18_your_own_network.ipynb)" in start.read_text(encoding="utf-8")


def test_a_time_is_rounded_as_a_reader_needs_it():
    assert [findings._duration(minutes) for minutes in (3, 44, 89, 100, 290)] == [
        "10 minutes",
        "40 minutes",
        "90 minutes",
        "1.5 hours",
        "5 hours",
    ]


def test_a_page_without_a_place_for_the_numbers_is_refused():
    with pytest.raises(ValueError, match="must have <!-- costs --> and <!-- /costs --> once"):
        findings.render("nothing")


@pytest.mark.slow
def test_each_claim_has_two_verdicts():
    found = findings.verdicts()
    assert list(found["no."].drop_duplicates()) == list(range(1, len(findings.CLAIMS) + 1))
    assert set(found["on ours"]) == {findings.HOLDS, findings.OPEN, findings.CONTRADICTED, "not run"}
    paper = found["on the paper's setup"]
    assert paper.str.startswith(("not run: ", "proved")).all(), "nothing here was run on the paper's setup"
    tried = found[found["on ours"] != "not run"]
    assert (tried["N"] > 1).all()
    assert tried["network and pictures"].str.len().gt(0).all()
    assert not found["found"].str.contains("nan").any()


@pytest.mark.slow
def test_a_verdict_follows_from_the_records(monkeypatch):
    """Reversed records give the opposite verdict. Records without differences give none."""
    usual = findings.records("imagenet_500")

    def judged(change):
        monkeypatch.setattr(findings, "records", lambda name: usual.assign(drop=change(usual)))
        return next(iter(findings.CLAIMS[0].findings())).verdict

    assert judged(lambda r: r["drop"]) == findings.HOLDS
    assert judged(lambda r: 100 - r["drop"]) == findings.CONTRADICTED
    assert judged(lambda r: r.groupby("image")["drop"].transform("first")) == findings.OPEN


def test_every_record_is_a_finished_run_that_says_how_it_was_made():
    runs = sorted(path.parent for path in store.RECORDS.rglob("run.json"))
    assert len(runs) >= 8
    new = {
        "changed",
        "code",
        "instruction sets",
        "kernels",
        "backend",
        "precision",
        "chunk",
        "threads",
        "numpy",
        "pillow",
    }
    for path in runs:
        run = store.load(path)
        assert run.info["finished"]
        assert all(re.fullmatch("[0-9a-f]{40}", start["commit"]) for start in run.info["started"])
        if "start" in run.records:  # older records do not say it
            assert all(new <= set(start) and not start["changed"] for start in run.info["started"])
            assert run.records["start"].between(0, len(run.info["started"]) - 1).all()
        assert run.info["images"] in {
            "imagenet-samples", "mosaics:imagenet-samples", "scenes", "shapes", "brain-mri-test",
        }  # fmt: skip
        named = all(reason.endswith("which is not in it") for reason in run.info["skipped"].values())
        assert named
        assert run.records["image"].nunique() + len(run.info["skipped"]) >= 24
        assert set(run.records["method"]) == set(run.info["options"]["methods"])


def test_the_citation_file_names_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PYPROJECT["version"]
    assert citation["license"] == PYPROJECT["license"]
    assert [len(reference["authors"]) for reference in citation["references"]] == [4, 4]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_repository_stays_small():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    sizes = {name: (ROOT / name).stat().st_size for name in files if (ROOT / name).exists()}
    assert sum(sizes.values()) < 60e6
    assert sum(size for name, size in sizes.items() if name.startswith("data/cutouts/")) < 2.5e6
