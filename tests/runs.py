"""Small runs for the tests: of a very small network, and of notebooks with few cells."""

import nbformat
import pandas as pd
import pytest
from tiny import TinyClassifier

from unioncam_lab.engine import accelerate
from unioncam_lab.experiment import Setup, run
from unioncam_lab.store import Journal

TINY_METHODS = ["grad_cam", "score_cam", "union_cam", "union_cam:theta=60", "group_cam:groups=3"]


def eager_tiny():
    """Return a classifier whose engine measures nothing, so that most tests need not wait."""
    return accelerate(TinyClassifier(), "eager", chunk=8)


def tiny_setup(dataset, **options):
    return Setup(str(dataset), **{"classifier": eager_tiny(), "methods": TINY_METHODS} | options)


def tiny_run(dataset, out=None, elsewhere=False, **options):
    return run(tiny_setup(dataset, **options), out=out, elsewhere=elsewhere)


def stopped_run(dataset, out, after, **options):
    """Interrupt a run when its journal has `after` pictures."""
    append = Journal.append

    def stop(journal, entry):
        append(journal, entry)
        if sum(1 for _ in journal.entries()) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny_run(dataset, out, **options)


def starts(made):
    """Return the values of `start` of each picture, in the order of the pictures."""
    return made.records.groupby("image", sort=False)["start"].unique().map(list).tolist()


def same(left: pd.DataFrame, right: pd.DataFrame):
    """Assert that two runs are equal to the last bit, except for the seconds."""
    pd.testing.assert_frame_equal(left.drop(columns="seconds"), right.drop(columns="seconds"), check_exact=True)


def write_list(path, *names):
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def notebook(folder, name, *cells, text="# A title\n\nIts *lead*\nin two lines.\n\nMore. See [b](b.ipynb). $x^2$"):
    parts = [nbformat.v4.new_markdown_cell(text), *map(nbformat.v4.new_code_cell, cells)]
    if parts[1:]:
        parts[1].metadata.tags = ["parameters"]
    made = nbformat.v4.new_notebook(cells=parts)
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(made, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"
