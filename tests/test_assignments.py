"""The problem sets, proven with nbgrader itself: right, blank, wrong and hostile submissions get what they should."""

import ast
import csv
import importlib
import io
import logging
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from filelock import FileLock
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.apps.exportapp import ExportApp
from nbgrader.coursedir import CourseDirectory
from nbgrader.exchange.default import ExchangeFetchAssignment, ExchangeSubmit
from PIL import Image
from wrong_solutions import Wrong

from unioncam_lab.classifiers import load_classifier

ROOT = Path(__file__).parent.parent
ASSIGNMENTS = ROOT / "assignments"
SETS = sorted(folder.name for folder in (ASSIGNMENTS / "source").iterdir())
STUDENTS = ["ada", "bo.li", "chidi", "dina-2", "emre"]

sys.path.insert(0, str(ASSIGNMENTS))
build, collect = map(importlib.import_module, ("build", "collect"))


def source(name):
    return nbformat.read(ASSIGNMENTS / "source" / name / f"{name}.ipynb", 4)


def cells(notebook, **wanted):
    """Return {id: cell} of the cells whose nbgrader settings are as wanted."""
    of_nbgrader = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    fit = [c for c in of_nbgrader if all(c.metadata.nbgrader[key] == value for key, value in wanted.items())]
    return {cell.metadata.nbgrader.grade_id: cell for cell in fit}


def graded_by_tests(notebook):
    return cells(notebook, grade=True, solution=False)


def between(text, what):
    """Return what stands between the marks of nbgrader: the lines that a release must not have."""
    return re.findall(rf"### BEGIN {what}\n(.*?)### END {what}", text, re.DOTALL)


def solutions(notebook):
    """Return {id: the teacher's answer} of the answers in code and in text."""
    return {
        name: re.sub(r" *### (BEGIN|END) SOLUTION\n?", "", cell.source)
        for name, cell in cells(notebook, solution=True).items()
    }


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The data of a course, written once for all processes of pytest."""
    folder = tmp_path_factory.getbasetemp().parent / "assignments"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "course.npz").exists():
            build.write_data(folder, "a test")
    return folder / "course.npz"


class Course:
    """A course in a folder of its own, with an exchange through which students fetch and hand in."""

    def __init__(self, folder, name, data):
        self.name, self.root = name, folder / "course"
        (self.root / "source").mkdir(parents=True)
        shutil.copytree(ASSIGNMENTS / "source" / name, self.root / "source" / name)
        shutil.copy(data, self.root)
        build.release(self.root, [name])
        self.config = build.settings(self.root)
        self.config.Exchange.root, self.config.Exchange.cache = str(folder / "exchange"), str(folder / "cache")
        self.config.Exchange.assignment_dir = str(folder / "home")
        for made in ("exchange", "cache", "home"):
            (folder / made).mkdir(mode=0o777)
        (folder / "exchange").chmod(0o777)
        self.home = folder / "home"

    @property
    def api(self):
        api = NbGraderAPI(config=self.config)
        api.log.setLevel(logging.ERROR)
        return api

    def exchange(self, what, student):
        place = CourseDirectory(config=self.config)
        place.assignment_id, place.student_id = self.name, student
        what(coursedir=place, authenticator=self.api.authenticator, config=self.config).start()

    def submission(self, student, answers):
        """Return the release with some answers in it: {id of a cell: its text}."""
        notebook = nbformat.read(self.root / "release" / self.name / f"{self.name}.ipynb", 4)
        for name, cell in cells(notebook).items():
            cell.source = answers.get(name, cell.source)
        (who,) = (cell for cell in notebook.cells if cell.source.startswith("STUDENT = "))
        who.source = f"STUDENT = {student!r}"
        return notebook

    def hand_in(self, student, answers):
        """Copy a submission to where nbgrader collects it, as a teacher does who gets notebooks by other ways."""
        folder = self.root / "submitted" / student / self.name
        folder.mkdir(parents=True)
        nbformat.write(self.submission(student, answers), folder / f"{self.name}.ipynb")

    def grade(self, student):
        """Return what a submission gets: {id of a test cell: points}, and {id: the message of the cell's error}."""
        result = self.api.autograde(self.name, student)
        assert result["success"], result["log"]
        with self.api.gradebook as gradebook:
            (graded,) = gradebook.find_submission(self.name, student).notebooks
            points = {grade.name: grade.auto_score for grade in graded.grades if grade.auto_score is not None}
        return points, self.messages(student)

    def messages(self, student):
        notebook = nbformat.read(self.root / "autograded" / student / self.name / f"{self.name}.ipynb", 4)
        return {
            name: " ".join(
                f"{output.ename}: {output.evalue}" for output in cell.outputs if output.output_type == "error"
            )
            for name, cell in graded_by_tests(notebook).items()
        }


def wrong_solutions(name) -> dict[str, Wrong]:
    return importlib.import_module(f"wrong_solutions.{name}").WRONG


def apart(wrong):
    """Return groups of wrong solutions that share neither an answer nor a failing test. A group is one submission."""
    groups = []
    for title, one in wrong.items():
        for group in groups:
            if all({*one.cells, *one.lost}.isdisjoint({*wrong[other].cells, *wrong[other].lost}) for other in group):
                group.append(title)
                break
        else:
            groups.append([title])
    return groups


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("name", SETS[::-1])  # the last ones take longest
def test_nbgrader_gives_each_submission_the_points_it_should(name, tmp_path, data):
    course, given = Course(tmp_path, name, data), source(name)
    maximum = {test: cell.metadata.nbgrader.points for test, cell in graded_by_tests(given).items()}
    answers, wrong = solutions(given), wrong_solutions(name)

    # Generate, release, fetch, submit, collect: five students with the right answers, each with numbers of his own.
    course.api.release_assignment(name)
    for student in STUDENTS:
        shutil.rmtree(course.home / name, ignore_errors=True)
        course.exchange(ExchangeFetchAssignment, student)
        nbformat.write(course.submission(student, answers), course.home / name / f"{name}.ipynb")
        course.exchange(ExchangeSubmit, student)
    assert course.api.collect(name)["success"]
    for student in STUDENTS:
        points, messages = course.grade(student)
        assert points == maximum, f"{student}: {messages}"

    course.hand_in("blank", {})
    points, messages = course.grade("blank")
    assert set(points.values()) == {0}, points
    essays = cells(given, grade=True, solution=True)
    assert all(messages[test] for test in maximum), "each test of a blank notebook says why it failed"

    assert len(wrong) >= 4
    for number, several in enumerate(apart(wrong)):
        written = {cell: text.strip() for one in several for cell, text in wrong[one].cells.items()}
        lost = {test: said for one in several for test, said in wrong[one].lost.items()}
        assert set(written) <= set(answers), several
        course.hand_in(f"wrong{number}", answers | written)
        points, messages = course.grade(f"wrong{number}")
        assert points == {test: most * (test not in lost) for test, most in maximum.items()}, (several, messages)
        for test, said in lost.items():
            assert said in messages[test], (several, test, messages[test])

    # The essays are graded by hand; then the export has 40 points for who has them all.
    with course.api.gradebook as gradebook:
        submission = gradebook.find_submission(name, "ada")
        assert submission.needs_manual_grade
        for grade in submission.notebooks[0].grades:
            if grade.name in essays:
                grade.manual_score = grade.max_score
                grade.needs_manual_grade = False
        gradebook.db.commit()
    exported = export(course, "nbgrader.plugins.CsvExportPlugin")
    of = {row["student_id"]: row for row in exported}
    assert (float(of["ada"]["score"]), float(of["ada"]["max_score"])) == (40, 40)
    assert float(of["bo.li"]["score"]) == 30
    assert float(of["blank"]["score"]) == 0


def export(course, plugin):
    """Run `nbgrader export` and return the rows of its table."""
    file = course.root / "exported.csv"
    app = ExportApp.instance(parent=None)
    try:
        app.config = course.config.copy()
        app.initialize([f"--to={file}", f"--exporter={plugin}", f"--CourseDirectory.root={course.root}"])
        app.start()
    finally:
        ExportApp.clear_instance()
    with file.open(newline="") as table:
        return list(csv.DictReader(table))


@pytest.mark.slow
def test_students_get_the_projects_networks_and_data_of_their_own(data, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    course = importlib.import_module("course")
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(course.network()(images), load_classifier("shapes_vgg")(images))
    drawn = {}
    for student in STUDENTS:
        course.begin("ps1", student)
        numbers, scene = course.integers("1", 4, 4), course.scenes("2", 1)[0]
        assert torch.equal(course.integers("1", 4, 4), numbers)
        drawn[student] = numbers.tolist(), scene.image.tolist()
    assert len({str(numbers) for numbers, _ in drawn.values()}) == len(STUDENTS)
    assert len({str(image) for _, image in drawn.values()}) > 1
    photo, large = course.photo("5"), load_classifier("efficientnet_lite0")
    found = dict(large.predict(photo.image, 5))
    assert list(found) == photo.classes
    logits = photo.weights @ photo.activations.mean((1, 2)) + photo.bias
    differences = torch.tensor(list(found.values())).log().diff()
    torch.testing.assert_close(logits.diff(), differences, atol=0.05, rtol=0)
    shown = Image.open(io.BytesIO(course._png(scene.image)))
    assert np.array_equal(np.asarray(shown), (scene.image * 255).round().byte().permute(1, 2, 0).numpy())
    assert f"ps1 of {STUDENTS[0]}, course a test." in capsys.readouterr().out


def a_notebook(student):
    cells = [nbformat.v4.new_markdown_cell("# Problem set 1"), nbformat.v4.new_code_cell(f"STUDENT = {student}  # put")]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_notebooks_are_collected_by_the_id_in_them(kind, tmp_path):
    files = {
        "Lovelace_1_assignsubmission_file_/ps1.ipynb": a_notebook("'ada'"),
        "bo_77_ps1-2.ipynb": a_notebook('"bo.li"'),
        "__MACOSX/bo_77_ps1-2.ipynb": a_notebook('"bo.li"'),
        "chidi/ps1.ipynb": a_notebook("'chidi'"),
        "copy of chidi.ipynb": a_notebook("'chidi'"),
        "new.ipynb": a_notebook("'your.id'"),
        "outside.ipynb": a_notebook("'../../outside'"),
        "number.ipynb": a_notebook("7"),
        "computed.ipynb": a_notebook("open('x')"),
        "empty.ipynb": "",
        "list.ipynb": "[]",
        "other.ipynb": nbformat.writes(nbformat.v4.new_notebook()),
        "notes.txt": "no notebook",
    }
    place = tmp_path / "handed in"
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    if kind == "zip":
        place = Path(shutil.make_archive(str(place), "zip", place))
    course = tmp_path / "course"
    students, problems = collect.collect(course, "ps1", place)
    assert students == ["ada", "bo.li"]
    assert {str(file.relative_to(course)) for file in course.rglob("*.ipynb")} == {
        "submitted/ada/ps1/ps1.ipynb",
        "submitted/bo.li/ps1/ps1.ipynb",
    }
    said = "\n".join(problems)
    assert len(problems) == 8
    assert "new.ipynb is left out: its STUDENT is still 'your.id'." in said
    assert "outside.ipynb is left out: its STUDENT is '../../outside'; letters, digits and . _ @ - are allowed." in said
    assert "empty.ipynb is left out: it is not a notebook." in said
    assert "other.ipynb is left out: its cell with STUDENT = ... cannot be read." in said
    assert "chidi is left out: chidi/ps1.ipynb, copy of chidi.ipynb all have this id." in said
    with pytest.raises(ValueError, match="is neither a folder nor a zip file"):
        collect.collect(course, "ps1", tmp_path / "missing.zip")


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
def test_moodle_and_canvas_get_a_column_for_each_problem_set(tmp_path):
    """A cell is empty where nothing was handed in, and where an essay waits for its points."""
    course = SimpleNamespace(root=tmp_path, config=build.settings(tmp_path))
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "unioncam") as gradebook:
        for name in ("ps1", "ps2"):
            gradebook.add_assignment(name)
            gradebook.add_notebook(name, name)
            gradebook.add_grade_cell("tests", name, name, max_score=30, cell_type="code")
            gradebook.add_grade_cell("essay", name, name, max_score=10, cell_type="markdown")
        gradebook.add_student("ada", first_name="Ada", last_name="Lovelace, Countess", email="ada@example.org")
        gradebook.add_student("bo")
        for student, name, essay in (("ada", "ps1", 7.5), ("ada", "ps2", None), ("bo", "ps1", 0)):
            gradebook.add_submission(name, student)
            tests = gradebook.find_grade("tests", name, name, student)
            tests.auto_score, tests.needs_manual_grade = 26, False
            written = gradebook.find_grade("essay", name, name, student)
            written.manual_score, written.needs_manual_grade = essay, essay is None
        gradebook.db.commit()
    moodle = export(course, "exporters.Moodle")
    assert list(moodle[0]) == ["Username", "First name", "Last name", "Email address", "ps1", "ps2"]
    assert list(moodle[0].values()) == ["bo", "", "", "", "26.0", ""]
    assert list(moodle[1].values()) == ["ada", "Ada", "Lovelace, Countess", "ada@example.org", "33.5", ""]
    possible, *students = export(course, "exporters.Canvas")
    assert (possible["Student"], possible["ps1"], possible["ps2"]) == ("    Points Possible", "40.0", "40.0")
    assert [row["SIS Login ID"] for row in students] == ["bo", "ada"]
    assert [row["ps1"] for row in students] == ["26.0", "33.5"]
    assert [row["Student"] for row in students] == ["bo", "Lovelace, Countess, Ada"]


@pytest.mark.parametrize("name", SETS)
def test_a_problem_set_has_30_points_by_tests_and_10_for_an_essay_with_a_rubric(name):
    given = source(name)
    assert sum(cell.metadata.nbgrader.points for cell in graded_by_tests(given).values()) == 30
    essays = cells(given, grade=True, solution=True)
    assert sum(cell.metadata.nbgrader.points for cell in essays.values()) == 10
    text = "\n".join(cell.source for cell in given.cells if cell.cell_type == "markdown")
    rubric = re.findall(r"(?m)^\| (\d+) \| ", text[text.index("| Points | What is looked for |") :])
    assert sum(map(int, rubric)) == 10
    assert len(rubric) >= 4
    for needed in ("**You will learn**", "**You need**", "**Time**", "**Points**"):
        assert needed in text
    visible = [cell for cell in graded_by_tests(given).values() if "course.check(" in cell.source]
    assert sum(cell.metadata.nbgrader.points for cell in visible) >= 8
    assert all("HIDDEN" not in cell.source for cell in visible)
    assert not any(cell.get("outputs") for cell in given.cells)


def imports(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.slow
def test_a_release_has_no_answer_and_no_hidden_test(tmp_path, data):
    """Whatever stands between the marks, line by line, is nowhere in the files that students get."""
    shutil.copytree(ASSIGNMENTS / "source", tmp_path / "source")
    shutil.copy(data, tmp_path)
    build.release(tmp_path)
    for name in SETS:
        folder = tmp_path / "release" / name
        core = {"unioncam_core.py"} & {file.name for file in folder.iterdir()}
        assert {file.name for file in folder.iterdir()} == {
            f"{name}.ipynb",
            "course.py",
            "course.npz",
            "how_to_work.md",
        } | core
        with zipfile.ZipFile(tmp_path / "release" / f"{name}.zip") as archive:
            assert f"{name}/{name}.ipynb" in archive.namelist()
        assert bool(core) == (name in build.USES_CORE)
        released = nbformat.read(folder / f"{name}.ipynb", 4)
        text = "\n".join(cell.source for cell in released.cells)
        assert "### BEGIN" not in text
        assert "### END" not in text
        seen = {line.strip() for line in text.splitlines()}
        secret = [
            part
            for cell in source(name).cells
            for what in ("SOLUTION", "HIDDEN TESTS")
            for part in between(cell.source, what)
        ]
        lines = {line.strip() for part in secret for line in part.splitlines()}
        visible = {
            line.strip()
            for cell in source(name).cells
            for part in [re.sub(r"(?s)### BEGIN (SOLUTION|HIDDEN TESTS)\n.*?### END \1", "", cell.source)]
            for line in part.splitlines()
        }
        assert {line for line in lines - visible if len(line) > 25} & seen == set()
        code = "\n".join(cell.source for cell in released.cells if cell.cell_type == "code")
        assert set(imports(code)) <= {"torch", "numpy", "math", "course"} | {Path(file).stem for file in core}, name
        assert not any(cell.get("outputs") for cell in released.cells)
    helper = (tmp_path / "release" / SETS[0] / "course.py").read_text()
    installed = {module.split(".")[0] for module in imports(helper)} - set(sys.stdlib_module_names)
    assert installed == {"torch", "numpy", "IPython"}, "IPython is there wherever a notebook runs"


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
def test_a_submission_that_never_ends_prints_100_mb_or_dies_is_cut_off(tmp_path, data):
    """It loses the points of the cells that it spoils, and what it did right counts."""
    course, given = Course(tmp_path, "ps1", data), source("ps1")
    # Not the course's 30 seconds for each of the two cells that wait.
    course.config.ExecutePreprocessor.timeout_func = lambda cell: 4 if "saliency(" in cell.source else 120
    maximum = {test: cell.metadata.nbgrader.points for test, cell in graded_by_tests(given).items()}
    spoilt = {
        "saliency": "def saliency(cam, size):\n    while True:\n        pass",
        "evidence": "def evidence(photo, c):\n    for _ in range(100):\n        print('x' * 1_000_000)",
    }
    course.hand_in("hostile", solutions(given) | spoilt)
    points, messages = course.grade("hostile")
    lost = {"saliency_visible", "saliency_hidden", "evidence_visible", "evidence_hidden"}
    assert points == {test: most * (test not in lost) for test, most in maximum.items()}, messages
    assert "CellTimeoutError" in messages["saliency_visible"]
    assert "printed more than 100,000 characters" in messages["evidence_visible"]
    graded = course.root / "autograded" / "hostile" / "ps1" / "ps1.ipynb"
    assert graded.stat().st_size < 2e6

    # Who kills the kernel is not graded: nbgrader says so.
    course.hand_in("dead", solutions(given) | {"saliency": "import os\n\nos._exit(1)"})
    result = course.api.autograde("ps1", "dead")
    assert not result["success"]
    assert "Kernel died" in result["log"]
