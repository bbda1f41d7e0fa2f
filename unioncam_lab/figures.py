"""Every plot and overlay, and where pictures go."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from unioncam_core import Evidence, FusionSteps, UnionSteps, denoise, fuse, pixel_weights
from unioncam_lab import FIGURES
from unioncam_lab.methods import CONTROLS, find_title
from unioncam_lab.metrics import FAITHFULNESS, auc
from unioncam_lab.tables import LEVEL, QUANTITIES, interval

# One colour for each map and method throughout the project, told apart by colour-blind readers too (Okabe-Ito).
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


def use_style():
    """The look of all plots, and tables whole; called when this module is imported."""
    pd.set_option("display.max_colwidth", None)
    sns.set_theme(context="notebook", style="ticks", palette=list(dict.fromkeys(COLOURS.values())))
    mpl.rcParams.update(
        {
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
    )


use_style()


def show(figure: Figure, name: str, alt: str):
    """Save a figure as NAME.png and NAME.svg, and display it in the notebook with its alternative text.

    The folder is figures/, or what the environment variable UNIONCAM_FIGURES names. What is displayed, and so stored in
    the notebook, is a JPEG: with photos in it, it is a fifth of the size.
    """
    folder = Path(os.environ.get("UNIONCAM_FIGURES") or FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None, "Description": alt})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Title": alt})
    jpeg = io.BytesIO()
    figure.savefig(jpeg, format="jpeg", pil_kwargs={"quality": 80, "subsampling": 0})
    plt.close(figure)
    display(Image(jpeg.getvalue(), format="jpeg", alt=alt))


def pixels(image: Tensor) -> np.ndarray:
    """An image (3, H, W) as an array (H, W, 3) to plot."""
    return image.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()


def overlay(image: Tensor, cam: Tensor) -> np.ndarray:
    """A saliency map (H, W) in [0, 1] over its image, as an array (H, W, 3).

    Colour and opacity both grow with saliency; where there is none, the image shows through, grey.
    """
    saliency = np.asarray(cam.detach().cpu() if isinstance(cam, Tensor) else cam, dtype=float)
    grey = pixels(image).mean(2, keepdims=True).repeat(3, 2)
    heat = mpl.colormaps[SALIENCY](saliency)[..., :3]
    opacity = 0.25 + 0.5 * saliency[..., None]
    return (1 - opacity) * grey + opacity * heat


def picture(axes: Axes, array: np.ndarray | Tensor, title: str = "", colour: str = "black", **options):
    """An image (3, H, W), a map (h, w) or an array, framed in a colour, with a title and no axes."""
    if isinstance(array, Tensor):
        array = pixels(array) if array.ndim == 3 else array.detach().cpu().float().numpy()
    drawn = axes.imshow(array, **options)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=colour)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=0.5 if colour == "black" else 2.5)
    return drawn


def row(pictures: dict[str, np.ndarray | Tensor], width: float = 2.3, **options) -> Figure:
    """Pictures side by side under their titles."""
    lines = 1 + max(title.count("\n") for title in pictures)
    size = width * len(pictures), width + 0.22 * lines
    # "compressed" is for pictures of fixed proportions; "constrained" cuts off titles of several lines.
    figure, axes = plt.subplots(1, len(pictures), figsize=size, squeeze=False, layout="compressed")
    for one, (title, array) in zip(axes[0], pictures.items(), strict=True):
        picture(one, array, title, **options)
        one.set_anchor("S")  # what room is left is the title's
    return figure


def explanation(image: Tensor, cam: Tensor, title: str, maps_title: str) -> Figure:
    """A photo beside its saliency map laid over it, with the scale of the map."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 4), width_ratios=[1, 1])
    picture(axes[0], image, title)
    picture(axes[1], overlay(image, cam), maps_title)
    scale = mpl.cm.ScalarMappable(cmap=SALIENCY)
    figure.colorbar(scale, ax=axes, label="saliency", shrink=0.8, ticks=[0, 0.5, 1])
    return figure


def _arrow(figure: Figure, start: Axes, end: Axes):
    patch = mpl.patches.ConnectionPatch(
        (1.03, 0.5), (-0.03, 0.5), "axes fraction", "axes fraction", axesA=start, axesB=end, arrowstyle="-|>",
        mutation_scale=14, color=COLOURS["neutral"],
    )  # fmt: skip
    patch.set_in_layout(False)
    figure.add_artist(patch)


def _beta(name: str, beta: float) -> str:
    return f"{name}\n$\\beta$ = {beta:.3f}"


def architecture(evidence: Evidence, steps: UnionSteps, theta: float = 10, shown: int = 3) -> Figure:
    """Fig. 1 of the paper from live intermediates: denoising above, the region map below, their union on the right.

    The channels shown are those that score highest as a mask among those with a positive gradient.
    """
    positive = (evidence.gradients.amax((1, 2)) > 0) & evidence.live
    channels = (evidence.region_scores * positive).topk(shown).indices.tolist()
    weights = pixel_weights(denoise(evidence.gradients, theta))[channels]
    gradients, masks = evidence.gradients[channels], evidence.masks(channels)
    above = [["image", ".", f"A{k}", f"W{k}", f"weight{k}", ".", "denoising", ".", "union"] for k in range(shown)]
    below = [["image", ".", f"mask{k}", f"masked{k}", "scores", ".", "region", ".", "union"] for k in range(shown)]
    widths = [1.9, 0.1, 0.85, 0.85, 0.85, 0.05, 1.9, 0.25, 1.9]
    figure, axes = plt.subplot_mosaic(above + below, figsize=(13, 6.6), width_ratios=widths)

    picture(axes["image"], evidence.image, "$I_0$")
    bound, top, masked = float(gradients.abs().max()), float(weights.max()), evidence.masked(masks)
    for k, channel in enumerate(channels):
        picture(axes[f"A{k}"], evidence.activations[channel], f"$A$ of channel {channel}", cmap=SALIENCY)
        picture(axes[f"W{k}"], gradients[k], "$W$", cmap="PuOr_r", vmin=-bound, vmax=bound)
        picture(axes[f"weight{k}"], weights[k], r"$\alpha\circ$ReLU$(W)$", cmap="Purples", vmin=0, vmax=1.5 * top)
        picture(axes[f"mask{k}"], masks[k], f"mask {channel}", cmap=SALIENCY)
        picture(axes[f"masked{k}"], masked[k], r"mask $\circ\; I_0$")
    scores = evidence.region_scores[channels].tolist()
    bars = axes["scores"].barh(range(shown)[::-1], scores, color=COLOURS["region"], height=0.3)
    axes["scores"].bar_label(bars, [f"{score:.2f}" for score in scores], padding=3)
    axes["scores"].set(title="$W_R = f^c$", xlim=(0, 1.35 * max(scores)), xticks=[], yticks=[])
    for name, cam, label, beta in (
        ("denoising", steps.denoised, "$L_{Denoising}$", steps.beta_denoising),
        ("region", steps.region, "$L_{Region}$", steps.beta_region),
        ("union", steps.united, "$L_{De-Region}$", steps.beta_united),
    ):
        colour = COLOURS["united" if name == "union" else name]
        picture(axes[name], overlay(evidence.image, cam), _beta(label, beta), colour)
    middle = shown // 2
    arrows = [
        ("image", f"A{middle}"),
        ("image", f"mask{middle}"),
        (f"weight{middle}", "denoising"),
        ("scores", "region"),
    ]
    for start, end in [*arrows, ("denoising", "union"), ("region", "union")]:
        _arrow(figure, axes[start], axes[end])
    return figure


def selection(evidence: Evidence, steps: UnionSteps) -> Figure:
    """Fig. 2 of the paper from live intermediates: two maps, what each leaves of the image, their betas, the choice."""
    mosaic = [["united", "united masked", "betas", "cam"], ["region", "region masked", "betas", "cam"]]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(12, 6), width_ratios=[1, 1, 0.9, 1.25])
    figure.get_layout_engine().set(wspace=0.06)
    for name, cam, label in (
        ("united", steps.united, "$L_{De-Region}$"),
        ("region", steps.region, "$L_{Region}$"),
    ):
        picture(axes[name], overlay(evidence.image, cam), label, COLOURS[name])
        picture(axes[f"{name} masked"], evidence.masked(cam[None])[0], f"{label} $\\circ\\; I_0$", COLOURS[name])
        _arrow(figure, axes[name], axes[f"{name} masked"])
    betas = [steps.beta_united, steps.beta_region]
    bars = axes["betas"].bar(
        ["$L_{De-Region}$", "$L_{Region}$"], betas, width=0.55, color=[COLOURS["united"], COLOURS["region"]]
    )
    axes["betas"].bar_label(bars, [f"{beta:.3f}" for beta in betas], padding=3)
    axes["betas"].axhline(0, color=COLOURS["neutral"], linewidth=0.8)
    axes["betas"].set(
        title="Eqs. 5 and 7: the larger $\\beta$ wins", ylabel="$\\beta$, difference of class probability"
    )
    axes["betas"].margins(y=0.15)
    picture(
        axes["cam"],
        overlay(evidence.image, steps.cam),
        f"$L_{{UnionCAM}}$: the {steps.selected} map",
        COLOURS[steps.selected],
    )
    return figure


def strip(explained: dict[str, tuple[Evidence, UnionSteps]], classes: list[str]) -> Figure:
    """Photos with the network's answers, and below each the map that UnionCAM selected."""
    figure, axes = plt.subplots(2, len(explained), figsize=(2.6 * len(explained), 5.5), squeeze=False)
    for (above, below), (evidence, steps) in zip(axes.T, explained.values(), strict=True):
        picture(above, evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        picture(below, overlay(evidence.image, steps.cam))
    return figure


def gallery(explained: dict[str, tuple[Evidence, UnionSteps]], classes: list[str]) -> Figure:
    """A row for each photo: itself, then the denoised, region and united map with their betas, the selected framed."""
    figure, axes = plt.subplots(len(explained), 4, figsize=(9.2, 2.45 * len(explained)), squeeze=False)
    for line, (evidence, steps) in zip(axes, explained.values(), strict=True):
        picture(line[0], evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        for one, cam, label, beta, name in (
            (line[1], steps.denoised, "$L_{Denoising}$", steps.beta_denoising, "denoising"),
            (line[2], steps.region, "$L_{Region}$", steps.beta_region, "region"),
            (line[3], steps.united, "$L_{De-Region}$", steps.beta_united, "united"),
        ):
            colour = COLOURS[name] if name == steps.selected else "black"
            picture(one, overlay(evidence.image, cam), f"{label}, $\\beta$ = {beta:.3f}", colour)
    return figure


def cost(costs: DataFrame) -> Figure:
    """Seconds that `bench.compare` measured, as bars: one colour a method, hatched where the engine does not run it."""
    costs = costs.sort_values("seconds", ascending=False)
    slowest = costs.seconds.iloc[0]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.5 * len(costs)))
    colours = [COLOURS["united" if method.startswith("UnionCAM") else "score_cam"] for method in costs.method]
    bars = axes.barh(costs.method, costs.seconds, color=colours, edgecolor="white")
    for bar, method in zip(bars, costs.method, strict=True):
        bar.set_hatch("" if method in ("UnionCAM", "Score-CAM") else "//")
    axes.bar_label(bars, [f"{seconds:.3g} s" for seconds in costs.seconds], padding=4)
    axes.set(xlabel="seconds for one explanation", xlim=(0, 1.1 * slowest))
    own = costs.loc[costs.method == "Score-CAM", "seconds"].min()
    others = costs[costs.method.str.startswith("Score-CAM of ")]
    times = [f"{row.seconds / own:.0f} times as long in {row.method.split(' of ')[1]}" for row in others.itertuples()]
    where = f"{costs.classifier.iloc[0]}, one photo"
    figure.suptitle(f"Score-CAM: {', '.join(times)} ({where})" if times else where, fontsize=11)
    return figure


def growth(measured: dict[str, tuple[str, list[tuple[float, float]]]]) -> Figure:
    """Seconds against what grows, a panel each: title -> (label of the axis, points (x, seconds))."""
    figure, panels = plt.subplots(1, len(measured), figsize=(3.8 * len(measured), 3.2), sharey=True)
    for axes, (title, (label, points)) in zip(panels, measured.items(), strict=True):
        x, seconds = zip(*points, strict=True)
        axes.plot(x, seconds, "o-", color=COLOURS["united"])
        axes.set(title=title, xlabel=label, xticks=x)
        axes.set_xlim(0, 1.05 * max(x))
    panels[0].set(ylabel="seconds", ylim=(0, 1.1 * max(s for _, points in measured.values() for _, s in points)))
    return figure


def channel_weights(gradient: Tensor, weights: dict[str, tuple[str, Tensor]]) -> Figure:
    """The weight of each channel by several methods, the largest drawn as 1, against the channel's mean gradient (K,).

    Args:
        gradient: (K,), logit per unit of activation.
        weights: label -> (method, weights (K,)). Where a method comes again, its dots are rings.
    """
    figure, axes = plt.subplots(figsize=(8, 4.4))
    for i, (label, (method, weight)) in enumerate(weights.items()):
        again = method in [earlier for earlier, _ in list(weights.values())[:i]]
        look = {"s": 45 if again else 14, "facecolors": "none" if again else method_colour(method)}
        place = (1000 * gradient).tolist(), (weight / weight.max()).tolist()
        axes.scatter(*place, label=label, edgecolors=method_colour(method), linewidths=0.8, **look)
    axes.axhline(0, color=COLOURS["neutral"], linewidth=0.8)
    axes.axvline(0, color=COLOURS["neutral"], linewidth=0.8)
    axes.set(xlabel="mean gradient of the channel, thousandths of a logit per unit", ylabel="weight (largest = 1)")
    axes.legend(loc="lower right")
    return figure


def weight_shares(weights: dict[str, tuple[str, Tensor]]) -> Figure:
    """How much of all weight the heaviest channels carry, in percent.

    Args:
        weights: label -> (name of a colour, weights (K,), none negative). Where a colour comes again, it is dashed.
    """
    figure, axes = plt.subplots(figsize=(8, 4.4))
    for i, (label, (name, weight)) in enumerate(weights.items()):
        again = name in [earlier for earlier, _ in list(weights.values())[:i]]
        carried = np.append(0, weight.sort(descending=True).values.cumsum(0).tolist())
        channels, share = np.linspace(0, 100, len(carried)), 100 * carried / carried[-1]
        axes.plot(channels, share, "--" if again else "-", color=COLOURS[name], label=label, linewidth=2)
    axes.plot([0, 100], [0, 100], ":", color=COLOURS["neutral"], label="all channels alike")
    axes.set(xlabel="heaviest channels, % of those not constant", ylabel="share of all weight, %")
    axes.set(xlim=(0, 100), ylim=(0, 101))
    axes.legend(loc="lower right")
    return figure


def comparison(
    explained: dict[str, tuple[Evidence, dict[str, Tensor]]],
    classes: list[str],
    captions: dict[str, dict[str, str]] | None = None,
    outlines: dict[str, Sequence[Tensor]] | None = None,
) -> Figure:
    """A row for each photo: itself with the network's answer, then the maps (H, W) of its methods, in their colours.

    Args:
        explained: row -> (evidence, method -> map).
        classes: the name of each class.
        captions: row -> method -> what stands in small print below its map.
        outlines: row -> masks (H, W) of objects, drawn round in each of its pictures.
    """
    columns = 1 + max(len(maps) for _, maps in explained.values())
    width = min(13, 1.9 * columns)
    size = width, 0.3 + (width / columns + (0.1 if captions is None else 0.3)) * len(explained)
    figure, axes = plt.subplots(len(explained), columns, figsize=size, squeeze=False)
    for line, (row, (evidence, maps)) in zip(axes, explained.items(), strict=True):
        picture(line[0], evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        for one, (method, cam) in zip(line[1:], maps.items(), strict=True):
            title = find_title(method) if line[0] is axes[0, 0] else ""
            picture(one, overlay(evidence.image, cam), title, method_colour(method))
            if captions is not None:
                one.set_xlabel(captions[row][method], fontsize=9, labelpad=4)
        for one in line:
            for mask in outlines[row] if outlines else ():
                _outline(one, mask)
    return figure


def _outline(axes: Axes, mask: Tensor):
    """White on black, so that it is seen on every ground."""
    for colour, width in (("black", 2.4), ("white", 1.0)):
        axes.contour(mask.cpu().float().numpy(), [0.5], colors=colour, linewidths=width)


def method_colour(method: str) -> str:
    """A method's colour throughout the project: "union_cam:theta=50" has that of "union_cam"; others are grey."""
    return COLOURS.get(method.partition(":")[0], COLOURS["neutral"])


def filmstrip(strips: dict[str, Sequence[tuple[str, Tensor]]], width: float = 1.9) -> Figure:
    """Rows of titled pictures (3, H, W), the name of each row at its left."""
    columns = max(len(pictures) for pictures in strips.values())
    size = width * columns + 0.3, (width + 0.3) * len(strips)
    figure, axes = plt.subplots(len(strips), columns, figsize=size, squeeze=False, layout="compressed")
    for line, (name, pictures) in zip(axes, strips.items(), strict=True):
        line[0].set_ylabel(name, labelpad=6)
        for one, (title, image) in zip(line, pictures, strict=True):
            picture(one, image, title)
    return figure


def curves(
    insertion: dict[str, Sequence[float]],
    deletion: dict[str, Sequence[float]],
    image: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Fig. 4 of the paper: an insertion and a deletion curve for each method, with the area below it in percent.

    A panel's title names the best areas: all that are the best when rounded to a tenth of a percent.

    Args:
        insertion: method, as in methods.METHODS -> the class probability at each of the curve's steps.
        deletion: likewise.
        image: (3, H, W), what is explained; drawn at the left if given, under its title.
    """
    panels = [] if image is None else ["image"]
    figure, axes = plt.subplot_mosaic(
        [[*panels, "insertion", "deletion"]],
        figsize=(9 + 3 * len(panels), 3.7),
        width_ratios=[0.85] * len(panels) + [1, 1],
    )
    if image is not None:
        picture(axes["image"], image, title)
    top = 1.05 * max(max(curve) for curve in (*insertion.values(), *deletion.values()))
    drawn = (  # and the corner above low curves, and that below high ones, where the legend has room
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


def curve_differences(found: dict[str, dict[str, DataFrame]], other: str, title: str) -> Figure:
    """Mean curves less another method's, each with its 95 % band.

    A row of panels for each entry, a panel for each method; of one method, all panels stand in one row.

    Args:
        found: kind, "insertion" or "deletion" -> method -> rows as `tables.curve_differences` gives them.
        other: the method that was subtracted.
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
        axes.set_title(_broken(find_title(method)), fontsize=10, color=method_colour(method))
    figure.supxlabel("most salient pixels inserted or deleted, %", fontsize=10)
    what = "mean probability" if len(methods) > 1 else f"{find_title(methods[0])}'s mean probability"
    figure.suptitle(f"{title}\n{what} less that of {find_title(other)}, in points, with 95 % bands", fontsize=11)
    return figure


def _broken(title: str) -> str:
    """A method's title with its options on a line of their own."""
    return title.replace(" (", "\n(")


def scoreboard(records: DataFrame) -> Figure:
    """The mean of each metric for each method, a panel each; a dot is one photo.

    Args:
        records: a row for each photo and method: `method`, and columns of metrics.FAITHFULNESS.
    """
    measured = [metric for metric in FAITHFULNESS if metric in records]
    methods = list(dict.fromkeys(records.method))
    size = 3.1 * len(measured), 1.1 + 0.36 * len(methods)
    figure, panels = plt.subplots(1, len(measured), figsize=size, sharey=True)
    titles, colours = [find_title(m) for m in methods], [method_colour(m) for m in methods]
    for axes, metric in zip(np.atleast_1d(panels), measured, strict=True):
        quantity = QUANTITIES[metric]
        values = quantity.of(records)
        means = values.groupby(records.method).mean()[methods]
        axes.barh(titles, means, color=colours, height=0.65, alpha=0.75)
        if metric != "increase":  # one photo has it or has it not
            places = [methods.index(method) for method in records.method]
            axes.plot(values, places, ".", color="black", markersize=4)
        axes.set_title(quantity.title)
        axes.set(xlabel=_percent(metric), xlim=(0, None))
    np.atleast_1d(panels)[0].invert_yaxis()
    n = int(records.groupby("method").size().max())
    figure.suptitle(f"Means of {n} photo{'s' * (n > 1)}; a dot is one photo", fontsize=11)
    return figure


def _percent(quantity: str) -> str:
    """The label of an axis: its unit, and where the better methods are."""
    return "%, ← better" if QUANTITIES[quantity].better == "lower" else "%, better →"


def _dots(axes: Axes, rows: DataFrame):
    """A mean with its interval for each method, from the top, in the methods' colours."""
    for place, (method, row) in enumerate(rows.iterrows()):
        axes.plot([row["low"], row["high"]], [place, place], color=method_colour(method), linewidth=3, alpha=0.5)
        axes.plot(row["mean"], place, "o", color=method_colour(method), markersize=8)


def beside_paper(
    found: DataFrame,
    published: dict[str, dict[str, float]],
    title: str = "",
    methods: Sequence[str] | None = None,
    others: dict[str, dict[str, dict[str, float]]] | None = None,
) -> Figure:
    """Our means with their intervals, and the published numbers as diamonds: a panel for each quantity.

    Args:
        found: `tables.summary` of our records.
        published: quantity -> method -> percent, as `tables.published` gives it.
        title: of the figure.
        methods: which are shown, the published by default. A method of which no number is published stands without; one
            with other options has the number of the method without them.
        others: name -> more such numbers, drawn as crosses.
    """
    methods = list(methods or dict.fromkeys(method for numbers in published.values() for method in numbers))
    size = 4.2 * len(published), 1.9 + 0.36 * len(methods)
    figure, panels = plt.subplots(1, len(published), figsize=size, sharey=True, squeeze=False)
    marks = {"published, of another network and other pictures": (published, "D", "white")}
    marks |= {name: (numbers, "X", "#cccccc") for name, numbers in (others or {}).items()}
    for axes, quantity in zip(panels[0], published, strict=True):
        rows = found[found["quantity"] == quantity].set_index("method").loc[methods]
        for numbers, marker, colour in marks.values():
            theirs = numbers.get(quantity, {})
            points = [theirs.get(m, theirs.get(m.partition(":")[0], np.nan)) for m in methods]
            axes.plot(points, range(len(methods)), marker, color=colour, mec="black", mew=1.1, markersize=7)
        _dots(axes, rows)
        axes.set_title(QUANTITIES[quantity].title)
        axes.set(xlabel=_percent(quantity))
        axes.set_xlim(left=min(0, rows["low"].min(), rows["mean"].min()))
        axes.grid(axis="x", alpha=0.4)
        axes.margins(y=0.1)
    panels[0, 0].set_yticks(range(len(methods)), [find_title(method) for method in methods])
    panels[0, 0].invert_yaxis()
    line = {"marker": "o", "color": COLOURS["neutral"], "linewidth": 3}
    handles = [mpl.lines.Line2D([], [], label="ours, mean and 95 % interval", **line)]
    for name, (_, marker, colour) in marks.items():
        look = {"marker": marker, "color": colour, "mec": "black", "linestyle": ""}
        handles.append(mpl.lines.Line2D([], [], label=name, **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def differences(found: dict[str, DataFrame], title: str) -> Figure:
    """Differences of means with their intervals, a panel for each entry; filled where clear, else hollow.

    Clear is what `tables.paired` calls so, in its column `clear`; without one, an interval that leaves 0 out.

    Args:
        found: label of the axis -> rows with `other`, `difference`, `low` and `high`, as `tables.paired` gives them;
            and `label`, if something else than the other method's title shall stand beside the row.
        title: of the figure.
    """
    rows = max(len(each) for each in found.values())
    size = 4.2 * len(found), 1.75 + 0.34 * rows
    figure, panels = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    tested = all("clear" in each for each in found.values())
    for axes, (label, each) in zip(panels[0], found.items(), strict=True):
        for place, row in enumerate(each.itertuples()):
            colour = method_colour(row.other)
            clear = row.clear if tested else row.low > 0 or row.high < 0
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=3, alpha=0.5)
            axes.plot(row.difference, place, "o", color=colour, mfc=colour if clear else "white", markersize=8)
        axes.axvline(0, color=COLOURS["neutral"], linewidth=0.8)
        axes.set(xlabel=label)
        axes.set_yticks(range(len(each)), each["label"] if "label" in each else each["other"].map(find_title))
        axes.grid(axis="x", alpha=0.4)
        axes.set_ylim(rows - 0.4, -0.6)
    rule = f"clear: Holm-corrected p < {LEVEL:g}" if tested else "95 % interval without 0"
    handles = [
        mpl.lines.Line2D([], [], marker="o", color=COLOURS["neutral"], mfc=colour, linewidth=3, label=label)
        for colour, label in ((COLOURS["neutral"], rule), ("white", "not so"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def ranks(
    found: dict[str, dict[str, dict[str, float]]], title: str, alike: dict[str, dict[str, set[str]]] | None = None
) -> Figure:
    """The order of methods in several tables, best on top: a panel for each quantity, a column a table, lines between.

    Args:
        found: quantity -> name of the table -> method -> percent.
        title: of the figure.
        alike: quantity -> name of a table of ours -> the methods that are not clearly different from UnionCAM there,
            whose marks are hollow. Tables that it lacks are published ones, of squares: they cannot be tested.
    """
    alike = alike or {}
    columns = max(len(each) for each in found.values())
    figure, panels = plt.subplots(len(found), 1, figsize=(1.75 * columns + 1.9, 2.75 * len(found) + 1), squeeze=False)
    for axes, (quantity, named) in zip(panels[:, 0], found.items(), strict=True):
        ascending, tested = QUANTITIES[quantity].better == "lower", alike.get(quantity, {})
        methods = list(next(iter(named.values())))
        tables = [pd.Series(each)[methods].rank(ascending=ascending, method="first") for each in named.values()]
        for method in methods:
            colour, y = method_colour(method), [places[method] for places in tables]
            axes.plot(range(len(y)), y, color=colour, linewidth=3 if method == "union_cam" else 1.5, alpha=0.6)
            for x, (name, each) in enumerate(named.items()):
                look = {"mfc": "white" if method in tested.get(name, ()) else colour, "mew": 2}
                axes.plot(x, y[x], "o" if name in tested else "s", color=colour, markersize=11, **look)
                text = f"{each[method]:.1f}" if name in tested else f"{each[method]:g}"
                axes.text(x + 0.1, y[x] - 0.28, text, fontsize=9, va="center", path_effects=[HALO])
            for x, side, edge in ((0, "right", -0.13), (len(y) - 1, "left", len(y) - 0.62)):
                axes.text(edge, y[x], find_title(method), ha=side, va="center", color=colour, weight="bold", fontsize=9)
        axes.set(xlim=(-0.1, columns - 0.75), ylim=(len(methods) + 0.5, 0.4), yticks=[])
        axes.set_xticks(range(len(named)), list(named), fontsize=9)
        axes.set_title(f"{QUANTITIES[quantity].heading}, the best on top", loc="left", fontsize=10)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11)
    note = f"squares: published; hollow: not clearly different from UnionCAM (Holm-corrected p ≥ {LEVEL:g});"
    note += " the order of equal numbers means nothing"
    figure.supxlabel(note, fontsize=9)
    return figure


def against_diagonal(found: dict[str, tuple[DataFrame, str, str]], title: str) -> Figure:
    """What two methods leave of the class on each picture, the one against the other: a panel for each pair.

    Args:
        found: title of the panel -> (records, method on the y axis, method on the x axis).
        title: of the figure.
    """
    figure, panels = plt.subplots(
        1, len(found), figsize=(3.9 * len(found), 4.7), sharey=True, squeeze=False, layout="compressed"
    )
    for axes, (label, (records, method, other)) in zip(panels[0], found.items(), strict=True):
        left = 100 * records.pivot(index="image", columns="method", values="masked_probability")[[method, other]]
        below = left[method] < left[other] - 1e-3
        for rows, colour, mark in ((left[~below], COLOURS["neutral"], "o"), (left[below], COLOURS["fusion_cam"], "v")):
            axes.plot(rows[other], rows[method], mark, color=colour, markersize=4, alpha=0.55, mew=0)
        axes.plot([0, 100], [0, 100], color="black", linewidth=0.8)
        axes.text(97, 4, f"below: {below.sum()}", ha="right", color=COLOURS["fusion_cam"], weight="bold")
        axes.text(3, 94, f"on or above: {(~below).sum()}", color=COLOURS["neutral"], weight="bold")
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xticks=[0, 50, 100], yticks=[0, 50, 100])
        axes.set(
            xlabel=f"{find_title(other)}: probability left, %", ylabel=f"{find_title(method)}: probability left, %"
        )
        axes.set_title(label, fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


def means(found: DataFrame, title: str, firsts: DataFrame | None = None) -> Figure:
    """Means with their 95 % intervals, a panel for each quantity; controls stand below a line.

    Args:
        found: as `tables.summary` gives it.
        title: of the figure.
        firsts: as `tables.firsts` gives it for the quantities: which method is first is said where it is clear.
    """
    quantities, methods = (list(dict.fromkeys(found[name])) for name in ("quantity", "method"))
    methods = sorted(methods, key=lambda method: method in CONTROLS)
    size = 2.8 * len(quantities), 1.5 + 0.27 * len(methods)
    figure, panels = plt.subplots(1, len(quantities), figsize=size, sharey=True, squeeze=False)
    for axes, quantity in zip(panels[0], quantities, strict=True):
        rows = found[found["quantity"] == quantity].set_index("method").loc[methods]
        _dots(axes, rows)
        heading = QUANTITIES[quantity].title
        if firsts is not None:
            first = firsts.loc[QUANTITIES[quantity].heading]
            alone = first["not clearly worse"] == "none"
            heading += f"\n{first['best mean']} is clearly first" if alone else "\nno method is clearly first"
        axes.set_title(heading, fontsize=10)
        axes.set(xlabel=f"{_percent(quantity)}, N = {rows['n'].max():,}")
        axes.set_xlim(left=min(0, rows["low"].min()))
        axes.grid(axis="x", alpha=0.4)
        axes.margins(y=0.06)
        controls = sum(method in CONTROLS for method in methods)
        if 0 < controls < len(methods):
            axes.axhline(len(methods) - controls - 0.5, color=COLOURS["neutral"], linewidth=0.8, linestyle=":")
    panels[0, 0].set_yticks(range(len(methods)), [find_title(method) for method in methods])
    panels[0, 0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    return figure


def randomization(
    left: dict[str, tuple[Sequence[float], DataFrame]], title: str, chance: Sequence[float] = ()
) -> Figure:
    """How much of a map is left when the network's layers are shuffled from the top, a panel for each network.

    Args:
        left: network -> (share of its layers in percent, rows as `tables.forgotten` gives them).
        title: of the figure.
        chance: for each network what unrelated maps have in common, in percent; a dashed line.
    """
    figure, panels = plt.subplots(1, len(left), figsize=(4.9 * len(left), 4.2), sharey=True, squeeze=False)
    for i, (axes, (network, (shares, found))) in enumerate(zip(panels[0], left.items(), strict=True)):
        methods = list(dict.fromkeys(found["method"]))
        for k, method in enumerate(methods):
            rows = found[found["method"] == method].sort_values("stage")
            place = rows["stage"].to_numpy() + 0.09 * (k - (len(methods) - 1) / 2)  # side by side, not over each other
            look = {"color": method_colour(method), "linestyle": "--" if ":" in method else "-"}
            axes.plot([0, *place], [100, *rows["mean"]], marker="o", markersize=5, linewidth=1.2, alpha=0.85, **look)
            axes.vlines(place, rows["low"], rows["high"], color=look["color"], linewidth=3, alpha=0.4)
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


def scorecard(card: DataFrame, title: str) -> Figure:
    """Methods x what is asked of a map, in groups: means, dark where good; bold where no other is clearly better.

    Above each column stands its direction and N; what costs time is blue, all else green. Controls stand apart. A dot
    stands where nothing was measured; a method of which nothing at all was measured is left out.

    Args:
        card: as `tables.scorecard` gives it.
        title: of the figure.
    """
    columns = list(dict.fromkeys(zip(card["group"], card["label"], strict=True)))
    methods = list(dict.fromkeys(card.loc[card["mean"].notna(), "method"]))
    controls = set(card.loc[card["control"], "method"])
    top = {method: y + 0.25 * (method in controls) for y, method in enumerate(methods)}
    figure, axes = plt.subplots(figsize=(1.04 * len(columns) + 2.1, 0.34 * len(methods) + 2.1))
    for x, (group, label) in enumerate(columns):
        rows = card[(card["group"] == group) & (card["label"] == label)].set_index("method").loc[methods]
        lower, unit = rows["better"].iloc[0] == "lower", rows["unit"].iloc[0]
        value = np.log(rows["mean"]) if unit == "s" else rows["mean"]
        value = -value if lower else value
        grade = (value - value.min()) / ((value.max() - value.min()) or 1)
        shades = mpl.colormaps["Greens" if unit == "%" else "Blues"]
        for method, row in rows.iterrows():
            y, missing = top[method], np.isnan(row["mean"])
            colour = "#f4f4f4" if missing else shades(0.08 + 0.6 * grade[method])
            axes.add_patch(mpl.patches.Rectangle((x, y), 0.96, 0.92, color=colour))
            number = f"{row['mean']:.1f}" if unit == "%" else f"{row['mean']:.2g} {unit}"
            text = "·" if missing else number.replace("-", "\N{MINUS SIGN}")
            weight = "bold" if row["among the best"] else "normal"
            axes.text(x + 0.48, y + 0.46, text, ha="center", va="center", weight=weight, fontsize=9)
        heading = f"{label}, {unit}\n{'↓' if lower else '↑'} is better\nN = {rows['n'].max():,}"
        axes.text(x + 0.48, -0.12, heading, ha="center", va="bottom", fontsize=8, linespacing=1.25)
    for group in dict.fromkeys(card["group"]):
        places = [x for x, column in enumerate(columns) if column[0] == group]
        middle = (places[0] + places[-1] + 0.96) / 2
        axes.plot([places[0] + 0.03, places[-1] + 0.93], [-1.92, -1.92], color=COLOURS["neutral"], clip_on=False)
        axes.text(middle, -2.0, group, ha="center", va="bottom", weight="bold", fontsize=10)
    axes.set(xlim=(0, len(columns)), ylim=(max(top.values()) + 1, -2.6), xticks=[])
    axes.set_yticks([y + 0.46 for y in top.values()], [find_title(method) for method in methods], fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=12)
    return figure


# How a reading of Eq. 1 is drawn and named: colour, line, marker; none of a method's.
READINGS = {
    "channel": ("#000000", "--", "s", "each channel's gradients (Eq. 1 as printed)"),
    "positive": ("#A6761D", "-.", "^", "each channel's positive gradients"),
    "map": ("#7570B3", "-", "o", "the map's own pixels"),
}


def sweep(found: DataFrame, title: str = "", published: dict[str, dict[float, float]] | None = None) -> Figure:
    """Fig. 8 of the paper: each quantity against theta, a line for each reading of Eq. 1, with 95 % intervals.

    A reading with fewer thetas than another has markers only, because nothing is known between them.

    Args:
        found: rows with `reading`, `theta`, `quantity`, `mean`, `low` and `high`; and `network`, if there are several.
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


def paired_sweep(
    found: DataFrame, title: str, theta: float = 10, published: dict[float, float] | None = None
) -> Figure:
    """Each theta of a sweep minus one of them, image by image, a panel for each network, all on one scale.

    Args:
        found: `tables.theta_effects` of "drop minus increase", with `network`; a marker is filled where `clear`.
        title: of the figure.
        theta: what the others are compared with.
        published: theta -> the paper's difference in percentage points, drawn as a diamond in each panel.
    """
    groups = found.groupby("network", sort=False)
    size = 3.5 * len(groups) + 0.5, 4.4
    figure, panels = plt.subplots(1, len(groups), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes, (network, group) in zip(panels[0], groups, strict=True):
        _readings(axes, group, "difference")
        for place, number in (published or {}).items():
            axes.plot(place, number, "D", color="white", mec="black", mew=1.2, markersize=7, zorder=4)
        axes.axhline(0, color=COLOURS["neutral"], linewidth=0.8, zorder=0)
        axes.set_title(f"{network}\nN = {group['n'].max():,}")
    panels[0, 0].set_ylabel(f"drop − increase: θ minus θ = {theta:g},\npercentage points\n← better        worse →")
    _reading_legend(figure, found, published, ("filled: clearly other than 0",) if "clear" in found else ())
    figure.suptitle(title)
    return figure


def _readings(axes: Axes, rows: DataFrame, value: str):
    """A line with its band for each reading of Eq. 1; markers alone where it has fewer thetas than another."""
    counts = rows.groupby("reading")["theta"].nunique()
    for reading, own in rows.sort_values("theta").groupby("reading", sort=False):
        colour, line, marker, _ = READINGS[reading]
        x, y, low, high = (own[name].to_numpy() for name in ("theta", value, "low", "high"))
        if counts[reading] < counts.max():
            line, x = "none", x + {"channel": -1.5, "positive": 1.5}.get(reading, 0)  # beside each other, if equal
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
    """Below the panels: what θ is a percentile of, and what else is drawn."""
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


def options(found: dict[str, DataFrame], published: dict[str, dict[str, float]], title: str) -> Figure:
    """The mean of each method under each option of the protocol, a panel for each quantity; the published ones on top.

    Args:
        found: quantity -> what `tables.option_orders` gives.
        published: quantity -> method -> percent, as `tables.published` gives it.
        title: of the figure.
    """
    names = list(next(iter(found.values())).index)
    size = 1.5 + 4.6 * len(found), 1.9 + 0.36 * len(names)
    figure, panels = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for axes, (quantity, rows) in zip(panels[0], found.items(), strict=True):
        for method, number in published[quantity].items():
            axes.plot(number, 0, "D", color=method_colour(method), markersize=7)
            axes.plot(
                rows[method], range(1, len(names) + 1), "o", color=method_colour(method), markersize=7, alpha=0.85
            )
        for place, name in enumerate(names, 1):
            ends = rows.loc[name, list(published[quantity])]
            axes.plot([ends.min(), ends.max()], [place, place], color=COLOURS["neutral"], linewidth=0.8, zorder=0)
        axes.axhline(0.5, color=COLOURS["neutral"], linewidth=0.8)
        axes.set(xlabel=f"{QUANTITIES[quantity].title}, %\n({QUANTITIES[quantity].better} is better)")
        axes.grid(axis="x", alpha=0.4)
    panels[0, 0].set_yticks(range(len(names) + 1), ["published (VGG16)", *names])
    panels[0, 0].invert_yaxis()
    methods = next(iter(published.values()))
    handles = [
        mpl.lines.Line2D([], [], marker="o", linestyle="", color=method_colour(m), label=find_title(m)) for m in methods
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return figure


def masses(shares: DataFrame, title: str) -> Figure:
    """Where a map's mass lies: for each method a bar of the shares on the right object, the other one, the background.

    Args:
        shares: a row for each label, with the columns `colour` (a name in COLOURS, or any colour of matplotlib), and
            `right` and `other`, both in percent.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(8.5, 1.3 + 0.42 * len(shares)))
    colours, pale = [COLOURS.get(name, name) for name in shares["colour"]], "#e6e6e6"
    parts = (
        ("right object", shares["right"], colours, COLOURS["neutral"], {}),
        ("other object", shares["other"], colours, COLOURS["neutral"], {"alpha": 0.5, "hatch": "////"}),
        ("background", 100 - shares["right"] - shares["other"], pale, pale, {}),
    )
    left, keys = np.zeros(len(shares)), []
    for name, widths, colour, key, look in parts:
        bars = axes.barh(shares.index, widths, left=left, height=0.7, color=colour, edgecolor="white", **look)
        texts = axes.bar_label(bars, [f"{width:.0f} %" for width in widths], label_type="center", fontsize=9)
        for text, bar in zip(texts, bars, strict=True):
            dark = np.dot(mpl.colors.to_rgb(bar.get_facecolor()), (0.3, 0.59, 0.11)) < 0.4 and not look
            text.set_color("white" if dark else "black")
        keys.append(mpl.patches.Patch(facecolor=key, edgecolor="white", label=name, **look))
        left = left + widths.to_numpy()
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    axes.invert_yaxis()
    axes.set(xlabel="share of the map's mass, %", xlim=(0, 100))
    figure.suptitle(title, fontsize=11)
    return figure


def spread(values: dict[str, tuple[str, Sequence[float]]], axis: str, title: str) -> Figure:
    """A value of each picture as a dot, and their mean with its bootstrap 95 % interval: a line for each method.

    Thin grey lines join the dots of one picture, so that it is seen in which pictures the methods differ.

    Args:
        values: label -> (name of a colour, a value for each picture).
        axis: label of the axis.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(8.5, 1.2 + 0.55 * len(values)))
    axes.plot([found for _, found in values.values()], range(len(values)), color="#cccccc", linewidth=0.7, zorder=0)
    for place, (colour, found) in enumerate(values.values()):
        found = np.asarray(found, dtype=float)
        axes.plot(found, np.full(len(found), place), ".", color=COLOURS[colour], alpha=0.45, markersize=9)
        axes.plot(interval(found), [place, place], color=COLOURS[colour], linewidth=3)
        axes.plot(found.mean(), place, "D", color=COLOURS[colour], mec="black", markersize=7)
    axes.set_yticks(range(len(values)), list(values))
    axes.margins(y=0.15)
    axes.invert_yaxis()
    axes.set(xlabel=f"{axis}\n(dots joined by a line: one picture; diamond: mean, with its 95 % interval)")
    figure.suptitle(title, fontsize=11)
    axes.grid(axis="x", alpha=0.4)
    return figure


def fusion_rule() -> Figure:
    """Fusion-CAM's rule for a pixel, over all pairs of values, between the mean and the larger one; what it adds."""
    axis = torch.linspace(0, 1, 201)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    panels = {
        "the larger value": torch.maximum(first, second),
        "Fusion-CAM": fuse(first, second)[1],
        "the mean": (first + second) / 2,
    }
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), width_ratios=[1, 1, 1, 1.25])
    for one, (title, values) in zip(axes, panels.items(), strict=False):
        drawn = one.imshow(values, origin="lower", extent=(0, 1, 0, 1), cmap=SALIENCY, vmin=0, vmax=1)
        lines = one.contour(axis, axis, values, np.arange(0.1, 1, 0.1), colors="white", linewidths=0.8)
        one.clabel(lines, lines.levels[1::2], fontsize=8, fmt="%.1f")
        one.set(title=title, xlabel="$L_1$", ylabel="$L_2$", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    figure.get_layout_engine().set(wspace=0.05)
    figure.colorbar(drawn, ax=axes[2], label="result", shrink=0.8, ticks=[0, 0.5, 1])
    added = {
        "the larger value": (axis / 2, "neutral", "--"),
        "Fusion-CAM": ((1 - axis) * axis / 2, "fusion_cam", "-"),
        "the mean": (0 * axis, "neutral", ":"),
    }
    for label, (values, colour, line) in added.items():
        axes[3].plot(axis, values, line, color=COLOURS[colour], label=label, linewidth=2)
    axes[3].set(title="at most 1/8 is added, at 1/2", xlabel="$|L_1 - L_2|$", ylabel="added to the mean")
    axes[3].set(xlim=(0, 1), ylim=(-0.01, 0.5), xticks=[0, 0.5, 1], yticks=[0, 1 / 8, 1 / 4, 1 / 2])
    axes[3].set_yticklabels(["0", "1/8", "1/4", "1/2"])
    axes[3].set_box_aspect(0.85)
    axes[3].legend(loc="upper left")
    return figure


def fusion_steps(evidence: Evidence, steps: FusionSteps) -> Figure:
    """Fusion-CAM from live intermediates: two maps, their union, union and region by their shares, and the fusion."""
    mosaic = [["image", "denoised", "united", "first", "similarity", "cam"]]
    mosaic += [["image", "region", ".", "second", "similarity", "cam"]]
    widths = [1.3, 1, 1, 1, 1.3, 1.3]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(13.5, 5.2), width_ratios=widths)
    figure.get_layout_engine().set(wspace=0.11, hspace=0.05)
    picture(axes["image"], evidence.image, "$I_0$")
    for name, cam, label, beta, share, colour in (
        ("denoised", steps.denoised, "$L_D$", steps.beta_denoising, steps.shares[0], "denoising"),
        ("region", steps.region, "$L_R$", steps.beta_region, steps.shares[1], "region"),
        ("united", steps.united, "$L_U$", steps.beta_united, steps.second_shares[0], "united"),
    ):
        title = f"{label}, $\\beta$ = {beta:.2f},\nshare {share:.2f}"
        picture(axes[name], overlay(evidence.image, cam), title, COLOURS[colour])
    for name, cam, share, label, colour in (
        ("first", steps.united, steps.second_shares[0], "$L_1$ = {:.2f} $L_U$", "united"),
        ("second", steps.region, steps.second_shares[1], "$L_2$ = {:.2f} $L_R$", "region"),
    ):
        picture(axes[name], share * cam, label.format(share), COLOURS[colour], cmap=SALIENCY, vmin=0, vmax=1)
    drawn = picture(axes["similarity"], steps.similarity, "similarity $s$", cmap="cividis", vmax=1)
    figure.colorbar(drawn, cax=axes["similarity"].inset_axes((0, -0.12, 1, 0.06)), orientation="horizontal")
    picture(axes["cam"], overlay(evidence.image, steps.cam), "$L_{Fusion}$", COLOURS["fusion_cam"])
    pairs = [("image", "denoised"), ("image", "region"), ("denoised", "united"), ("region", "united")]
    pairs += [("united", "first"), ("region", "second"), ("first", "similarity"), ("second", "similarity")]
    for start, end in [*pairs, ("similarity", "cam")]:
        _arrow(figure, axes[start], axes[end])
    return figure


def two_choices(
    found: dict[str, tuple[Evidence, UnionSteps, FusionSteps]], classes: list[str], drops: dict[str, Sequence[float]]
) -> Figure:
    """A column for each photo: itself, UnionCAM's map, framed as selected, Fusion-CAM's, and the second less the first.

    Args:
        found: photo -> its evidence and the steps of both methods.
        classes: the name of each class.
        drops: photo -> the drop, in percent, under either map.
    """
    figure, axes = plt.subplots(4, len(found), figsize=(2.2 * len(found), 9.8), squeeze=False)
    bound = max(float((fusion.cam - union.cam).abs().max()) for _, union, fusion in found.values())
    for column, (photo, (evidence, union, fusion)) in zip(axes.T, found.items(), strict=True):
        picture(column[0], evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        title = f"the {union.selected} map\ndrop {drops[photo][0]:.1f} %"
        picture(column[1], overlay(evidence.image, union.cam), title, COLOURS[union.selected])
        title = f"{fusion.second_shares[0]:.2f} of the union\ndrop {drops[photo][1]:.1f} %"
        picture(column[2], overlay(evidence.image, fusion.cam), title, COLOURS["fusion_cam"])
        drawn = picture(column[3], fusion.cam - union.cam, cmap="PuOr", vmin=-bound, vmax=bound)
    for one, label in zip(axes[:, 0], ("", "UnionCAM", "Fusion-CAM", "Fusion-CAM − UnionCAM"), strict=True):
        one.set_ylabel(label)
    figure.colorbar(drawn, ax=axes[3], location="bottom", label="difference of saliency", shrink=0.5, aspect=30)
    return figure
