"""What all figures share: the colours, the look, how a figure is saved and displayed, and how a reader changes it."""

import io
import os
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unioncam_lab import FIGURES
from unioncam_lab.colours import COLOURS

SALIENCY = "inferno"
SIGNED = "PuOr_r"  # colours of values of both signs: orange is positive, purple is negative
DPI = 200  # of a saved figure
WIDEST = 1800  # pixels of a saved figure
HALO = mpl.patheffects.withStroke(linewidth=3, foreground="white")  # behind text that crosses lines
# Both of seaborn's functions return parameters; `seaborn.set_theme` would set them for the whole process.
PARAMETERS = {
    **sns.plotting_context("notebook"),
    **sns.axes_style("ticks", {"font.family": "sans-serif"}),
    "axes.prop_cycle": mpl.cycler(color=dict.fromkeys(COLOURS.values())),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "unioncam",
}


@contextmanager
def styled():
    """Give figures the project's look inside a `with` block, or inside a function that it decorates.

    Matplotlib reads its parameters both when it makes a figure and when it draws it. A figure that `show` does not save
    must therefore be saved inside the block too. `matplotlib.rcParams` is afterwards as it was before.
    """
    with mpl.rc_context(PARAMETERS):
        yield


@styled()
def show(figure: Figure, name: str, alt: str):
    """Save a figure as NAME.png and NAME.svg, close it, and display it in the notebook with its alternative text.

    The folder is figures/, or the one that the environment variable UNIONCAM_FIGURES names. The notebook displays and
    stores a PNG, which keeps lines and text sharp, or a JPEG where that has less than half the size: of photos.

    Args:
        figure: the figure, as a function of this package makes it.
        name: the files' name without a suffix.
        alt: a description for readers who do not see the figure.
    """
    folder = Path(os.environ.get("UNIONCAM_FIGURES") or FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    width = figure.get_figwidth()
    dpi = min(DPI, WIDEST / width)
    figure.savefig(folder / f"{name}.png", dpi=dpi, metadata={"Software": None, "Description": alt})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Title": alt})
    png, jpeg = _saved(figure, "png", dpi), _saved(figure, "jpeg", dpi, pil_kwargs={"quality": 80, "subsampling": 2})
    plt.close(figure)
    kind, stored = ("image/png", png) if len(png) < 2 * len(jpeg) else ("image/jpeg", jpeg)
    # The text is for viewers that do not draw pictures, and the width for screens of any resolution.
    data = {kind: b64encode(stored).decode(), "text/plain": alt}
    display(data, metadata={kind: {"alt": alt, "width": round(100 * width)}}, raw=True)


@styled()
def explore(draw: Callable[..., Figure], choices: Mapping[str, Sequence], still: Figure, name: str, alt: str):
    """Let the reader change what a figure shows, with a slider or a list for each argument of `draw`.

    Where no reader can answer, such as in a run without a screen, `show` displays `still` instead. The controls need a
    kernel, so a page or a stored notebook has the still figure alone.

    Args:
        draw: returns the figure for one value of each argument.
        choices: argument of `draw` -> the values to choose from, the first one of which is drawn at the start. A list
            of numbers makes a slider, any other list a drop-down list.
        still: a figure that shows the same without being changed.
        name: the still figure's name, as for `show`.
        alt: the still figure's alternative text.
    """
    if not someone_is_there():
        show(still, name, alt)
        return
    import ipywidgets  # not needed elsewhere, and takes a while to import

    plt.close(still)
    controls = {}
    for argument, values in choices.items():
        numbers = all(isinstance(value, int | float) for value in values)
        look = {"value": values[0], "description": argument, "style": {"description_width": "initial"}}
        controls[argument] = (
            ipywidgets.SelectionSlider(options=sorted(set(values)), continuous_update=False, **look)
            if numbers
            else ipywidgets.Dropdown(options=list(values), **look)
        )
    picture = ipywidgets.Image(format="png")

    def redraw(_=None):
        with styled():
            figure = draw(**{argument: control.value for argument, control in controls.items()})
            picture.value = _saved(figure, "png", 100)
            plt.close(figure)

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    display(ipywidgets.VBox([*controls.values(), picture]))


def someone_is_there() -> bool:
    """Whether the front end of the notebook can ask its reader: JupyterLab can, and a run without a screen cannot."""
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def _saved(figure: Figure, kind: str, dpi: float, **options) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, **options)
    return file.getvalue()


def canvas(width: float, height: float) -> Figure:
    """Return a figure of a size in inches, whose parts `box` places."""
    figure = plt.figure(figsize=(width, height))
    figure.set_layout_engine("none")  # a figure without any engine would get one when it is saved
    return figure


def box(figure: Figure, left: float, bottom: float, width: float, height: float | None = None) -> Axes:
    """Return new axes at a place in inches; a square if no height is given."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, (height or width) / up))


def method_colour(method: str) -> str:
    """Return a method's colour: "union_cam:theta=50" has that of "union_cam"; an unknown method is grey."""
    return COLOURS.get(method.partition(":")[0], COLOURS["neutral"])
