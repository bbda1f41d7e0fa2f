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
from unioncam_lab.figures.style import COLOURS, HALO, method_colour, styled
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
def curves(insertion: dict[str, Sequence[float]], deletion: dict[str, Sequence[float]]) -> Figure:
    """Draw each method's insertion and deletion curve, with the area below it in percent, the best area first.

    The title of a panel names the method with the best area, and calls areas less than half a point apart a tie.

    Args:
        insertion: method name -> the class probability in [0, 1] at each step of the curve.
        deletion: the same for the deletion curves.
    """
    figure, panels = plt.subplots(1, 2, figsize=(12, 3.7))
    top = 1.05 * max(max(curve) for curve in (*insertion.values(), *deletion.values()))
    kinds = (
        ("insertion", insertion, "put into the blurred image", "largest", 1),
        ("deletion", deletion, "deleted from the image", "smallest", -1),
    )
    for axes, (name, lines, what, word, sign) in zip(panels, kinds, strict=True):
        areas = {method: 100 * auc(curve) for method, curve in lines.items()}
        order = sorted(areas, key=lambda method: -sign * areas[method])
        for method in order:
            share, label = np.linspace(0, 100, len(lines[method])), f"{areas[method]:.1f} %  {find_title(method)}"
            axes.plot(share, lines[method], color=method_colour(method), label=label, linewidth=1.8)
        near = [find_title(m) for m in order if abs(areas[m] - areas[order[0]]) < 0.5]
        finding = f"the {word} area is that of {near[0]}" if len(near) == 1 else f"a tie of {len(near)} methods"
        finding = f"a tie of {near[0]} and {near[1]}" if len(near) == 2 else finding
        axes.set_title(f"{name.capitalize()}: {finding}", fontsize=10)
        axes.set(xlabel=f"most salient pixels {what}, %", ylabel="probability of the class")
        axes.set(xlim=(0, 100), ylim=(0, top))
        axes.legend(
            title="area under the curve", loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, title_fontsize=9
        )
    return figure


@styled()
def sample_curves(found: dict[str, tuple[Tensor, dict[str, dict[str, Sequence[float]]]]]) -> Figure:
    """Draw Fig. 4 of the UnionCAM paper: insertion and deletion curves of sample pictures, a panel for each method.

    A panel shows the curve of its method in colour, those of the others in grey, and the area below its curve.

    Args:
        found: title of a picture -> (the image (channels, H, W), "insertion" or "deletion" -> method -> the class
            probability in [0, 1] at each step of the curve). All pictures have the same methods.
    """
    rows = [(title, kind) for title, (_, curves) in found.items() for kind in curves]
    methods = list(next(iter(found.values()))[1][rows[0][1]])
    mosaic = [[title, *(f"{i} {method}" for method in methods)] for i, (title, _) in enumerate(rows)]
    size = 2.1 + 1.8 * len(methods), 0.5 + 1.75 * len(rows)
    figure, axes = plt.subplot_mosaic(mosaic, figsize=size, width_ratios=[1.25, *(1 for _ in methods)])
    for title, (image, _) in found.items():
        draw(axes[title], image, title)
    for i, (title, kind) in enumerate(rows):
        lines = found[title][1][kind]
        top = 1.05 * max(max(curve) for curves in found[title][1].values() for curve in curves.values())
        share = np.linspace(0, 100, len(lines[methods[0]]))
        early = max(curve[len(curve) // 2] for curve in lines.values()) > 0.6 * top  # the curves rise in the first half
        corner = (0.95, 0.06, "right", "bottom") if early else (0.05, 0.94, "left", "top")
        corner = (0.95, 0.94, "right", "top") if kind == "deletion" else corner
        for method in methods:
            one = axes[f"{i} {method}"]
            for other in methods:
                one.plot(share, lines[other], color="#bbbbbb", linewidth=0.8)
            one.plot(share, lines[method], color=method_colour(method), linewidth=2.2)
            one.set(xlim=(0, 100), ylim=(0, top), xticks=[0, 50, 100])
            area = one.text(*corner[:2], f"area {100 * auc(lines[method]):.1f} %", transform=one.transAxes)
            area.set(ha=corner[2], va=corner[3], path_effects=[HALO])
            one.tick_params(labelleft=method == methods[0], labelbottom=i == len(rows) - 1)
            one.set_title(find_title(method) if i == 0 else "")
        axes[f"{i} {methods[0]}"].set_ylabel(f"{kind}\nprobability")
    figure.supxlabel("most salient pixels inserted or deleted, %", fontsize=10)
    return figure


@styled()
def film(pictures: dict[str, Sequence[tuple[float, Tensor]]], curves: dict[str, Sequence[float]]) -> Figure:
    """Draw images of an insertion and a deletion curve, and the curves with a cursor at each of these images.

    A curve is beneath its images, or beside the image if there is one.

    Args:
        pictures: name of the curve -> (share of changed pixels in percent, image (channels, H, W)) for each image.
        curves: name of the curve -> the class probability in [0, 1] at each step.
    """
    count = max(len(shown) for shown in pictures.values())
    if count == 1:
        size = 9, 3.1 * len(pictures)
        figure, grid = plt.subplots(len(pictures), 2, figsize=size, width_ratios=[1, 2.2], squeeze=False)
        panels = [([left], right) for left, right in grid]
    else:
        figure = plt.figure(figsize=(2.05 * count, 4.1 * len(pictures)))
        grid = figure.add_gridspec(2 * len(pictures), count, height_ratios=[1.9, 1.4] * len(pictures))
        panels = [
            ([figure.add_subplot(grid[2 * i, k]) for k in range(count)], figure.add_subplot(grid[2 * i + 1, :]))
            for i in range(len(pictures))
        ]
    for (images, axes), (name, shown) in zip(panels, pictures.items(), strict=True):
        curve = curves[name]
        axes.plot(np.linspace(0, 100, len(curve)), curve, color="black", linewidth=1.8)
        axes.fill_between(np.linspace(0, 100, len(curve)), curve, color=COLOURS["neutral"], alpha=0.15, linewidth=0)
        for one, (share, image) in zip(images, shown, strict=True):
            p = curve[round(share / 100 * (len(curve) - 1))]
            draw(one, image, f"{share:.0f} %: $f^c$ = {p:.2f}")
            axes.axvline(share, color=COLOURS["neutral"], linewidth=0.8, linestyle=":")
            axes.plot(share, p, "o", color="white", mec="black", markersize=8, clip_on=False, zorder=5)
        what = {"insertion": "put into the blurred image", "deletion": "deleted from the image"}[name]
        axes.set(xlabel=f"most salient pixels {what}, %", ylabel="$f^c$, probability", xlim=(0, 100), ylim=(0, 1.02))
        axes.set_title(f"{name}: the area under the curve is {100 * auc(curve):.1f} %")
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
    size = (min(1.0 + 2.15 * shape[1], 13), 0.9 + 2.2 * shape[0]) if len(methods) > 1 else (4.2 * shape[1], 3.6)
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
        axes.set(title=network, ylim=(0, 103), xlabel="last layers shuffled, %")
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
    size = min(3.5 * len(groups) + 0.5, 13), 4.4
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
def map_changes(thetas: Sequence[float], found: dict[str, dict[str, Sequence[float]]], least: float = 1e-6) -> Figure:
    """Plot how far denoising changes a map, against theta: a panel for each layer, a line for each reading of Eq. 1.

    The title of a panel says from which theta on Eq. 1 as printed changes the map by more than `least`.

    Args:
        thetas: percentiles, in order.
        found: name of the panel -> reading -> the largest change of a pixel's saliency, for each theta.
        least: the smallest change that counts, which is the lower end of the axis.
    """
    figure, panels = plt.subplots(1, len(found), figsize=(4.2 * len(found), 4.3), sharey=True, squeeze=False)
    for axes, (name, lines) in zip(panels[0], found.items(), strict=True):
        for reading, changes in lines.items():
            colour, dashes, _, label = READINGS[reading]
            axes.plot(thetas, np.maximum(changes, least), dashes, color=colour, label=label, linewidth=2, clip_on=False)
        acting = [theta for theta, change in zip(thetas, lines["channel"], strict=True) if change > least]
        axes.set_title(f"{name}\nas printed: {f'acts from θ = {acting[0]:g} on' if acting else 'no θ acts'}")
        axes.axvline(10, color=COLOURS["neutral"], linestyle=":", linewidth=1.2)
        axes.axhline(1 / 255, color=COLOURS["neutral"], linewidth=0.6)
        axes.set(xlabel="θ, percentile", yscale="log", xlim=(0, 100), ylim=(least, 1), xticks=[0, 10, 30, 50, 70, 90])
    panels[0, 0].set_ylabel("largest change of a pixel's saliency")
    panels[0, -1].text(99, 1 / 255, "1/255", ha="right", va="bottom", fontsize=9, color=COLOURS["neutral"])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = 3 if len(found) > 2 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title="θ is a percentile of")
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
        axes.plot(x, seconds, "o-", color=COLOURS["neutral"])
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
            line = "none"
        if reading == "map":
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        else:  # bands of all readings would hide one another, and equal values are drawn side by side
            x = x + {"channel": -1.2, "positive": 1.2}.get(reading, 0)
            axes.vlines(x, low, high, color=colour, linewidth=2, alpha=0.35)
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
    handles.append(mpl.patches.Patch(color=COLOURS["neutral"], alpha=0.25))  # a band or a bar
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
