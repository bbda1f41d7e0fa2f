"""The laboratory around unioncam_core: networks, pictures, plots and the headless run. No equation lives here."""

import ast
import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "figures"
DATA: Path

# An idle thread of PyTorch sleeps, where this comes before the first import of torch. By default it waits actively, and
# on a busy machine the thread that has work then waits for the core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def __getattr__(name: str) -> Path:
    """DATA, the folder of pictures, weights and records, for the modules that read it.

    The other modules, `engine` among them, need no checkout, so the check comes when DATA is asked for.

    Raises:
        FileNotFoundError: the package was installed without a checkout, which alone holds the folder.
    """
    if name != "DATA":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    data = ROOT / "data"
    if not (data / "published.json").exists():
        raise FileNotFoundError(
            f"The laboratory runs from a checkout, whose pictures, weights and records are not in {data}: "
            "run `pip install -e '.[lab]'` in a clone of the repository."
        )
    return data


def literal(text: str):
    """A value from a command line: a Python literal, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def progress_disabled() -> bool | None:
    """Value for tqdm's `disable`: True if TQDM_DISABLE is set, else None, which hides a bar that no terminal shows."""
    return True if os.environ.get("TQDM_DISABLE") else None
