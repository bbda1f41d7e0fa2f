"""The laboratory around unioncam_core: networks, pictures, plots and the headless run. No equation lives here."""

import ast


def literal(text: str):
    """A value from a command line: a Python literal, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
