"""Tests of the committed notebooks: executed in order, clean, readable, and right with other parameters too."""

import ast
import re
from collections import Counter

import nbformat
import pytest

from unioncam_lab import headless

NOTEBOOKS = sorted(headless.NOTEBOOKS.glob("*.ipynb"))
SMALL = {
    "00_start_here": {"photo": "chelsea", "size": 96},
    "01_class_activation_maps": {"photo": "coffee", "photos": ["astronaut"], "groups": 5, "size": 96},
    "02_denoising": {"photo": "coffee", "scene": 4, "size": 96, "theta": 60},
    "03_union": {"photo": "coffee", "size": 96, "seeds": 18},
    "04_selection": {"photo": "coffee", "photos": ["astronaut"], "size": 96, "theta": 0, "seeds": 8},
    "05_fusion_cam": {"photo": "coffee", "photos": ["astronaut"], "size": 96, "theta": 40},
    "06_metrics": {"photo": "coffee", "photos": ["rocket"], "size": 96},
    "07_table1": {"limit": 2},
    "08_table2": {"limit": 2},
    "09_table3": {"limit": 2},
    "10_table4_and_figure8": {"limit": 2, "thetas": [0, 50]},
    "11_qualitative": {"count": 2, "answers": 1000, "scenes": 2, "tried": 12, "size": 128},
    "12_fusion_tables": {"limit": 2, "theta": 60},
    "13_ground_truth": {"count": 3, "composed": 1},
    "14_medical_case": {"thetas": [0, 90], "methods": ["grad_cam", "fake_cam"]},
    "15_explorer": {"photo": "coffee", "theta": 60},
    "16_cost": {"photo": "rocket", "size": 96, "compared": 64, "theta": 40, "seconds": 0.1},
    "17_reproduction_report": {"level": 0.05},
    "18_your_own_network": {"count": 4, "seed": 7, "theta": 60},
    "19_at_scale": {"photo": "coffee", "photos": 3, "gpus": 2, "price": 0.5},
}


def code_cells(path):
    """The code cells, without the one for Colab that `make badges` writes in front of them."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return [cell for cell in cells if "colab" not in cell.metadata.get("tags", [])]


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request):
    return request.param


def test_stored_outputs_are_one_run_from_top_to_bottom(path):
    cells = code_cells(path)
    first = cells[0].execution_count
    assert [cell.execution_count for cell in cells] == list(range(first, first + len(cells)))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)


@pytest.mark.slow
def test_nothing_of_the_machine_is_stored(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.:/])/(home|root|work|tmp|usr|opt|Users|var)/|[A-Z]:\\\\", text)
    assert not [o for cell in code_cells(path) for o in cell.outputs if o.get("name") == "stderr"]
    assert path.stat().st_size < 1.5e6


def test_it_reads_like_a_chapter(path):
    cells = nbformat.read(path, 4).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert "parameters" in code_cells(path)[0].metadata.tags
    assert all(len(cell.source.splitlines()) <= 15 for cell in code_cells(path))


def test_its_header_says_what_it_teaches_what_it_needs_how_long_it_takes_and_where_to_go(path):
    header = nbformat.read(path, 4).cells[0].source
    assert re.match(r"# .+\n\n(?!\|)\S", header), "a lead follows the title"
    rows = dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", header, re.MULTILINE))
    assert list(rows) == ["You will learn", "You need", "Time", "Go to"]
    reading, running = map(int, re.fullmatch(r"(\d+) minutes to read, (\d+) minutes? to run", rows["Time"]).groups())
    cells = nbformat.read(path, 4).cells
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    assert 0.5 <= reading / (words / 100 + len(code_cells(path)) / 2) <= 2
    assert 60 * running >= nbformat.read(path, 4).metadata.unioncam.seconds
    i = NOTEBOOKS.index(path)
    before, after = NOTEBOOKS[i - 1 : i], NOTEBOOKS[i + 1 : i + 2]
    links = re.findall(r"\[(.+?)\]\((\w+)\.ipynb\)", rows["Go to"])
    assert [stem for text, stem in links if text.startswith("←")] == [other.stem for other in before]
    assert [stem for text, stem in links if text.endswith("→")] == [other.stem for other in after]
    assert i == 0 or NOTEBOOKS[0].stem in [stem for _, stem in links]
    assert cells[-1].source.splitlines()[-1].removeprefix("**Go to** ") == rows["Go to"]


def test_it_ends_with_a_summary_questions_with_folded_answers_and_references(path):
    end = "\n\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    parts = re.split(r"^## (Try it|Summary|Questions|References)$", end, flags=re.MULTILINE)
    assert parts[1::2] == ["Try it", "Summary", "Questions", "References"]
    summary, questions, references = parts[4::2]
    assert 3 <= len(re.findall(r"^[-*] ", summary, re.MULTILINE)) <= 6
    asked = re.findall(r"^\*\*\d\. .+?\?\*\*", questions, re.MULTILINE | re.DOTALL)
    answer = r"^<details><summary>Answer</summary>\n\n.+?\n\n</details>"
    assert len(asked) == len(re.findall(answer, questions, re.MULTILINE | re.DOTALL)) >= 3
    assert "](" in references


def test_a_reader_can_try_something_without_running_it_all_again(path):
    tried = [cell for cell in code_cells(path) if "try-it" in cell.metadata.get("tags", [])]
    assert tried
    assert all(cell.outputs for cell in tried)


def test_each_figure_has_a_number_and_a_caption(path):
    cells = nbformat.read(path, 4).cells
    drawn = [i for i, cell in enumerate(cells) if re.search(r"^figures\.(show|explore)\(", cell.source, re.MULTILINE)]
    captions = [cells[i + 1].source for i in drawn if "try-it" not in cells[i].metadata.get("tags", [])]
    for number, caption in enumerate(captions, 1):
        assert re.match(rf"\*Figure {int(path.stem[:2])}\.{number}\.\* \S", caption), caption[:80]


def test_what_the_paper_leaves_open_is_said_at_each_equation(path):
    texts = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    for here, following in zip(texts, [*texts[1:], ""], strict=True):
        assert "\\tag{" not in here or "> **What the paper leaves open.**" in here + following


def test_every_picture_has_alternative_text(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            for kind in output.get("data", {}):
                assert not kind.startswith("image/") or len(output.metadata[kind]["alt"]) > 20


def test_some_outputs_are_compared_when_the_notebook_is_run_again(path):
    compared = [cell for cell in code_cells(path) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert compared
    assert all(output.output_type == "stream" for cell in compared for output in cell.outputs)


def test_it_says_how_long_it_takes_and_one_that_measures_seconds_runs_alone(path):
    ours = nbformat.read(path, 4).metadata.unioncam
    assert 5 < ours.seconds < 600
    assert ours.get("alone", False) == any("bench." in cell.source for cell in code_cells(path))


def test_no_helper_is_defined_in_two_notebooks():
    defined = Counter(
        node.name
        for path in NOTEBOOKS
        for node in ast.walk(ast.parse("\n".join(cell.source for cell in code_cells(path))))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    )
    assert [name for name, times in defined.items() if times > 1] == []


def test_every_notebook_is_tried_at_small_parameters():
    assert set(SMALL) == {path.stem for path in NOTEBOOKS}


@pytest.mark.notebook
@pytest.mark.usefixtures("kept_passes")
def test_it_runs_at_other_parameters(path, tmp_path):
    (run,) = headless.execute([path], tmp_path, tmp_path / "figures", SMALL[path.stem])
    assert run.error is None
    assert list((tmp_path / "figures").glob(f"{path.stem[:2]}_*.png"))
