"""Curves of measured values against the share of pixels, theta, the shuffled layers or the number of channels."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from unioncam_lab.figures.maps import draw
from unioncam_lab.figures.style import COLOURS, method_colour, styled
from unioncam_lab.methods import find_title
from unioncam_lab.metrics import auc
from unioncam_lab.tables import QUANTITIES

# Colour, line, marker and name of each reading of Eq. 1. No method has one of these colours.
READINGS = {
    "channel": ("#000000", "--", "s", "each channel's gradients (Eq. 1 as printed)"),
    "positive": ("#A6761D", "-.", "^", "each channel's positive gradients"),
    "map": ("#7570B3", "-", "o", "the map's own pixels"),
}


@styled()
def curves(
    insertion: dict[str, Sequence[float]],
    deletion: dict[str, Sequence[float]],
    image: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Draw Fig. 4 of the UnionCAM paper: each method's insertion and deletion curve, with the area below it in percent.

    The title of a panel names the methods with the best area, rounded to a tenth of a percent.

    Args:
        insertion: method name -> the class probability in [0, 1] at each step of the curve.
        deletion: the same for the deletion curves.
        image: (channels, H, W), the explained image, drawn at the left.
        title: of the image.
    """
    panels = [] if image is None else ["image"]
    figure, axes = plt.subplot_mosaic(
        [[*panels, "insertion", "deletion"]],
        figsize=(9 + 3 * len(panels), 3.7),
        width_ratios=[0.85] * len(panels) + [1, 1],
    )
    if image is not None:
        draw(axes["image"], image, title)
    top = 1.05 * max(max(curve) for curve in (*insertion.values(), *deletion.values()))
    drawn = (  # the legend is in the first corner, above low curves, or in the second corner, below high curves
        ("insertion", insertion, "put into the blurred image", max, "largest", ("upper left", "lower right")),
        ("deletion", deletion, "deleted from the image", min, "smallest", ("upper right", "lower left")),
    )
    for name, lines, axis, best, word, corners in drawn:
        areas = {method: round(100 * auc(curve), 1) for method, curve in lines.items()}
        for method, curve in lines.items():
            label = f"{find_title(method)}: {areas[method]:.1f} %"
            share = np.linspace(0, 100, len(curve))
            axes[name].plot(share, curve, color=method_colour(method), label=label, linewidth=1.8)
        winners = [find_title(method) for method, area in areas.items() if area == best(areas.values())]
        if len(winners) == len(areas):
            finding = f"no difference ({best(areas.values()):.1f} % each)"
        elif len(winners) > 2:
            finding = f"the {word} area is {best(areas.values()):.1f} %, of {len(winners)} methods"
        else:
            finding = f"the {word} area is that of {' and '.join(winners)}"
        axes[name].set_title(f"{name.capitalize()}: {finding}", fontsize=10)
        axes[name].set(xlabel=f"most salient pixels {axis}, %", ylabel="probability of the class")
        axes[name].set(xlim=(0, 100), ylim=(0, top))
        corner = corners[max(areas.values()) > 50 * top]
        axes[name].legend(title="area under the curve", loc=corner, fontsize=8.5, title_fontsize=8.5)
    return figure


@styled()
def curve_differences(found: dict[str, dict[str, DataFrame]], other: str, title: str) -> Figure:
    """Draw mean curves minus those of another method, each with its 95 % band.

    Each kind of curve has a row of panels, and each method a column. If there is one method, all panels are in one row.

    Args:
        found: "insertion" or "deletion" -> method -> rows as `tables.curve_differences` gives them.
        other: the method whose curves are subtracted.
        title: of the figure.
    """
    methods = list(dict.fromkeys(method for lines in found.values() for method in lines))
    shape = (len(found), len(methods)) if len(methods) > 1 else (1, len(found))
    size = (1.0 + 2.15 * shape[1], 0.9 + 2.2 * shape[0]) if len(methods) > 1 else (4.2 * shape[1], 3.6)
    figure, panels = plt.subplots(*shape, figsize=size, sharex=True, sharey="row", squeeze=False)
    panels = panels.reshape(len(found), len(methods))
    better = {"insertion": "above 0 is better", "deletion": "below 0 is better"}
    for line, (kind, lines) in zip(panels, found.items(), strict=True):
        for axes, method in zip(line, methods, strict=True):
            rows, colour = lines[method], method_colour(method)
            axes.axhline(0, color=COLOURS["neutral"], linewidth=0.8)
            axes.fill_between(rows["share"], rows["low"], rows["high"], color=colour, alpha=0.25, linewidth=0)
            axes.plot(rows["share"], rows["difference"], color=colour, linewidth=2)
            axes.set(xlim=(0, 100), xticks=[0, 50, 100])
            axes.grid(axis="y", alpha=0.4)
        line[0].set_ylabel(f"{kind}, points\n({better[kind]})")
    for axes, method in zip(panels[0], methods, strict=True) if len(methods) > 1 else ():
        axes.set_title(_broken(find_title(method)), fontsize=10)
    figure.supxlabel("most salient pixels inserted or deleted, %", fontsize=10)
    what = "mean probability" if len(methods) > 1 else f"{find_title(methods[0])}'s mean probability"
    figure.suptitle(f"{title}\n{what} less that of {find_title(other)}, in points, with 95 % bands", fontsize=11)
    return figure


@styled()
def randomization(
    left: dict[str, tuple[Sequence[float], DataFrame]], title: str, chance: Sequence[float] = ()
) -> Figure:
    """Plot how similar a map stays while the network's layers are shuffled from the last one: a panel for each network.

    Args:
        left: network -> (shares of its layers in percent, rows as `tables.forgotten` gives them).
        title: of the figure.
        chance: for each network, the similarity of unrelated maps in percent, drawn as a dashed line.
    """
    figure, panels = plt.subplots(1, len(left), figsize=(4.9 * len(left), 4.2), sharey=True, squeeze=False)
    for i, (axes, (network, (shares, found))) in enumerate(zip(panels[0], left.items(), strict=True)):
        methods = list(dict.fromkeys(found["method"]))
        for k, method in enumerate(methods):
            rows = found[found["method"] == method].sort_values("stage")
            x = rows["stage"].to_numpy() + 0.09 * (k - (len(methods) - 1) / 2)  # side by side, not over each other
            look = {"color": method_colour(method), "linestyle": "--" if ":" in method else "-"}
            axes.plot([0, *x], [100, *rows["mean"]], marker="o", markersize=5, linewidth=1.2, alpha=0.85, **look)
            axes.vlines(x, rows["low"], rows["high"], color=look["color"], linewidth=3, alpha=0.4)
        if i < len(chance):
            axes.axhline(chance[i], color=COLOURS["neutral"], linewidth=1, linestyle="--")
        axes.set_xticks(range(len(shares) + 1), ["0", *(f"{share:.0f}" for share in shares)])
        axes.set(title=network, ylim=(0, 103), xlabel="layers shuffled, from the last one, %")
        axes.grid(axis="y", alpha=0.4)
    panels[0, 0].set_ylabel("|rank correlation| with the map of the\ntrained network, % (← lower is better)")
    shown = list(dict.fromkeys(method for _, found in left.values() for method in found["method"]))
    handles = [
        mpl.lines.Line2D(
            *([], []), color=method_colour(m), marker="o", ls="--" if ":" in m else "-", label=_broken(find_title(m))
        )
        for m in shown
    ]
    if chance:
        handles.append(mpl.lines.Line2D([], [], color=COLOURS["neutral"], linestyle="--", label="unrelated maps"))
    figure.legend(handles=handles, loc="outside right center")
    figure.suptitle(title, fontsize=11)
    return figure


@styled()
def sweep(found: DataFrame, title: str = "", published: dict[str, dict[float, float]] | None = None) -> Figure:
    """Draw Fig. 8 of the UnionCAM paper: each quantity against theta, a line for each reading of Eq. 1 with its band.

    A reading with fewer thetas than another one has markers without a line, because nothing was measured between them.

    Args:
        found: rows with `reading`, `theta`, `quantity`, and `mean`, `low` and `high` in percent; also with `network`
            if there are several networks.
        title: of the figure.
        published: quantity -> theta -> percent, drawn as diamonds.
    """
    panel_of = [name for name in ("network", "quantity") if name in found]
    groups = found.groupby(panel_of, sort=False)
    figure, panels = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 4.2), squeeze=False)
    for axes, (names, group) in zip(panels[0], groups, strict=True):
        quantity = QUANTITIES[names[-1]]
        _readings(axes, group, "mean")
        for theta, number in (published or {}).get(names[-1], {}).items():
            axes.plot(theta, number, "D", color="white", mec="black", mew=1.2, markersize=7, zorder=4)
        axes.set(title="\n".join([*names[:-1], quantity.title]), ylabel=f"% ({quantity.better} is better)")
    _reading_legend(figure, found, published)
    figure.suptitle(title)
    return figure


@styled()
def paired_sweep(
    found: DataFrame, title: str, theta: float = 10, published: dict[float, float] | None = None
) -> Figure:
    """Draw the difference between each theta of a sweep and one of them: a panel for each network, all on one scale.

    Args:
        found: `tables.theta_effects` of "drop minus increase", with `network`. Where `clear`, a marker is filled.
        title: of the figure.
        theta: the theta whose values are subtracted.
        published: theta -> the paper's difference in percentage points, drawn as a diamond in each panel.
    """
    groups = found.groupby("network", sort=False)
    size = 3.5 * len(groups) + 0.5, 4.4
    figure, panels = plt.subplots(1, len(groups), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes, (network, group) in zip(panels[0], groups, strict=True):
        _readings(axes, group, "difference")
        for x, number in (published or {}).items():
            axes.plot(x, number, "D", color="white", mec="black", mew=1.2, markersize=7, zorder=4)
        axes.axhline(0, color=COLOURS["neutral"], linewidth=0.8, zorder=0)
        axes.set_title(f"{network}\nN = {group['n'].max():,}")
    panels[0, 0].set_ylabel(f"drop − increase: θ minus θ = {theta:g},\npercentage points\n← better        worse →")
    _reading_legend(figure, found, published, ("filled: clearly other than 0",) if "clear" in found else ())
    figure.suptitle(title)
    return figure


@styled()
def growth(measured: dict[str, tuple[str, list[tuple[float, float]]]]) -> Figure:
    """Plot seconds against a number that grows, in a panel for each entry.

    Args:
        measured: title of the panel -> (label of the axis, points (x, seconds)).
    """
    figure, panels = plt.subplots(1, len(measured), figsize=(3.8 * len(measured), 3.2), sharey=True, squeeze=False)
    for axes, (title, (label, points)) in zip(panels[0], measured.items(), strict=True):
        x, seconds = zip(*points, strict=True)
        axes.plot(x, seconds, "o-", color=COLOURS["united"])
        axes.set(title=title, xlabel=label, xticks=x)
        axes.set_xlim(0, 1.05 * max(x))
    panels[0, 0].set(ylabel="seconds", ylim=(0, 1.1 * max(s for _, points in measured.values() for _, s in points)))
    return figure


def _readings(axes: Axes, rows: DataFrame, value: str):
    """Draw a line with its band for each reading of Eq. 1, or markers alone if it has fewer thetas than another."""
    counts = rows.groupby("reading")["theta"].nunique()
    for reading, own in rows.sort_values("theta").groupby("reading", sort=False):
        colour, line, marker, _ = READINGS[reading]
        x, y, low, high = (own[name].to_numpy() for name in ("theta", value, "low", "high"))
        if counts[reading] < counts.max():
            line, x = "none", x + {"channel": -1.5, "positive": 1.5}.get(reading, 0)  # equal values are side by side
            axes.vlines(x, low, high, color=colour, linewidth=2, alpha=0.35)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(x, y, linestyle=line, color=colour, linewidth=1.6, label=reading)
        clear = own["clear"].to_numpy(dtype=bool) if "clear" in own else np.full(len(own), True)
        for places, face in ((clear, colour), (~clear, "white")):
            axes.plot(x[places], y[places], marker, color=colour, mfc=face, markersize=5.5)
    axes.set(xlabel="θ, percentile", xticks=[0, 10, 30, 50, 70, 90])
    axes.grid(axis="y", alpha=0.4)


def _reading_legend(figure: Figure, rows: DataFrame, published: dict | None, notes: Sequence[str] = ()):
    """Draw the legend of the readings of θ and of the other marks, below the panels."""
    colours, lines, markers, labels = map(list, zip(*(READINGS[r] for r in rows["reading"].unique()), strict=True))
    handles = [
        mpl.lines.Line2D([], [], color=colour, linestyle=line, marker=marker)
        for colour, line, marker in zip(colours, lines, markers, strict=True)
    ]
    handles.append(mpl.patches.Patch(color=COLOURS["neutral"], alpha=0.25))
    labels.append("; ".join(["95 % interval", *notes]))
    if published:
        handles.append(mpl.lines.Line2D([], [], marker="D", color="white", mec="black", mew=1.2, linestyle=""))
        labels.append("published (VGG16, ILSVRC2012)")
    columns = 3 if len(figure.axes) > 2 else 2 if len(figure.axes) > 1 else 1
    look = {"ncols": columns, "fontsize": 9, "title": "θ is a percentile of", "title_fontsize": 9}
    figure.legend(handles, labels, loc="outside lower center", **look)


def _broken(title: str) -> str:
    """Return a method's title with its options on a second line."""
    return title.replace(" (", "\n(")
