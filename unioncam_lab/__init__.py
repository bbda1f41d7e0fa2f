"""The laboratory around unioncam_core: networks, pictures, plots and the headless run. No equation lives here."""

import ast
import os


def literal(text: str):
    """A value from a command line: a Python literal, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def progress_disabled() -> bool | None:
    """Value for tqdm's `disable`: True if TQDM_DISABLE is set, else None, which hides a bar that no terminal shows."""
    return True if os.environ.get("TQDM_DISABLE") else None
