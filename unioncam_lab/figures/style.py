"""What all figures share: the colours, the look, and how a figure is saved and displayed."""

import io
import os
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import Image, display
from matplotlib.figure import Figure

from unioncam_lab import FIGURES

# Each map and method has one colour throughout the project. Colour-blind readers can tell them apart (Okabe-Ito).
COLOURS = {
    "denoising": "#0072B2",
    "region": "#E69F00",
    "united": "#009E73",
    "grad_cam": "#56B4E9",
    "grad_cam_plus_plus": "#0072B2",
    "score_cam": "#CC79A7",
    "group_cam": "#E69F00",
    "union_cam": "#009E73",
    "fusion_cam": "#D55E00",
    "fake_cam": "#999999",
    "neutral": "#595959",
}
SALIENCY = "inferno"
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
    stores a JPEG, because a JPEG of photos has a fifth of the size of a PNG.

    Args:
        figure: the figure, as a function of this package makes it.
        name: the files' name without a suffix.
        alt: a description for readers who do not see the figure.
    """
    folder = Path(os.environ.get("UNIONCAM_FIGURES") or FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None, "Description": alt})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Title": alt})
    jpeg = io.BytesIO()
    figure.savefig(jpeg, format="jpeg", pil_kwargs={"quality": 80, "subsampling": 0})
    plt.close(figure)
    display(Image(jpeg.getvalue(), format="jpeg", alt=alt))


def method_colour(method: str) -> str:
    """Return a method's colour: "union_cam:theta=50" has that of "union_cam"; an unknown method is grey."""
    return COLOURS.get(method.partition(":")[0], COLOURS["neutral"])
