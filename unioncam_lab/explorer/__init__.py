"""The explorer: choose a picture and a class, move θ, and see every step of a map. `make app` serves it as a page.

view            what a visitor chose, as data that becomes JSON or an address
uploads         a visitor's photo, in memory alone
explanation     all that is computed for a picture; every map is the core's
pictures        arrays -> pictures for a page
page            the page's parts, as HTML made from the view and the explanation
app             the widget, which shows the page and answers its visitor
"""

import os

from unioncam_lab.explorer.page import NETWORKS
from unioncam_lab.explorer.view import View

__all__ = ["View", "explore"]


def explore(view: View, name: str, alt: str):
    """Show the explorer where a visitor can use it: in JupyterLab, and in Voilà, where the address changes the view.

    Where nobody can answer, such as in a run without a screen, a still figure stands for it: the selection of the view.

    Args:
        view: what is shown first.
        name: the still figure's name, as for `figures.show`.
        alt: its alternative text.
    """
    from IPython.display import display

    voila = "VOILA_PREHEAT" in os.environ
    if not voila and not _someone_is_there():
        _show_still(view, name, alt)
        return
    from unioncam_lab.explorer.app import Explorer, wait_for_visitor

    network = wait_for_visitor(view) if voila else None
    display(Explorer(_of_the_address(view) if voila else view, network=network).start())


def _of_the_address(view: View) -> View:
    """Return the view that the page's address names, or the given one if it names none or a wrong one.

    An address cannot name a network of its sender's: `load_classifier` would call any function.
    """
    query = os.environ.get("QUERY_STRING")
    try:
        asked = View.from_query(query) if query else view
    except ValueError:
        return view
    return asked if asked.classifier in (*NETWORKS, view.classifier) else view


def _someone_is_there() -> bool:
    from unioncam_lab.figures import style

    return style.someone_is_there()


def _show_still(view: View, name: str, alt: str):
    from unioncam_lab import figures
    from unioncam_lab.classifiers import load_classifier
    from unioncam_lab.explorer.explanation import Explanation, picture

    classifier = load_classifier(view.classifier)
    found = Explanation(classifier, picture(view.picture, classifier.input_size))
    found.compute()
    target = found.first if view.target < 0 else view.target
    steps = found.union(target, view.theta, view.reading)
    figures.show(figures.selection(found.evidence(target, view.reading), steps), name, alt)
