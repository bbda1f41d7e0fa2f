"""How Fusion-CAM computes its map, and where it differs from UnionCAM."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusioncam import FusionSteps, fuse
from unioncam_core import Evidence, UnionSteps
from unioncam_lab.figures.maps import draw, overlay, saliency_bar
from unioncam_lab.figures.style import COLOURS, HALO, SALIENCY, SIGNED, box, canvas, styled


@styled()
def fusion_steps(evidence: Evidence, steps: FusionSteps) -> Figure:
    """Draw the data flow of Fusion-CAM: two maps, their union, both weighted maps, their similarity, and the fusion.

    The arrows carry a map's contribution and the share by which it is multiplied.

    Args:
        evidence: of one image.
        steps: what `fusion_cam` computed from it.
    """
    width, height, side = 13.0, 5.2, 1.7
    figure = canvas(width, height)
    above, below = 3.05, 0.55  # inches, as all places
    middle = (above + below + side) / 2
    axes = {
        "image": box(figure, 0.15, middle - side / 2, side),
        "denoised": box(figure, 2.3, above, side),
        "region": box(figure, 2.3, below, side),
    }
    axes |= {
        "united": box(figure, 5.1, above, side),
        "first": box(figure, 7.9, above, side),
        "second": box(figure, 7.9, below, side),
    }
    axes |= {"similarity": box(figure, 9.95, middle - 0.5, 1), "cam": box(figure, 11.25, middle - side / 2, side)}
    shares, second = steps.shares, steps.second_shares
    draw(axes["image"], evidence.image, "image $I_0$")
    for name, cam, title, colour in (
        ("denoised", steps.denoised, "$L_D$: Grad-CAM, denoised", "denoising"),
        ("region", steps.region, "$L_R$: Score-CAM", "region"),
        ("united", steps.united, "union map $L_U$", "united"),
        ("first", second[0] * steps.united, f"$L_1$ = {second[0]:.2f} $L_U$", "united"),
        ("second", second[1] * steps.region, f"$L_2$ = {second[1]:.2f} $L_R$", "region"),
        ("cam", steps.cam, r"$L_{\mathrm{Fusion}}$", "fusion_cam"),
    ):
        draw(axes[name], overlay(evidence.image, cam), title, COLOURS[colour])
    least = min(0.9, float(np.floor(10 * float(steps.similarity.min())) / 10))
    drawn = draw(axes["similarity"], steps.similarity, "similarity $s$", cmap="Blues_r", vmin=least, vmax=1)
    bar = figure.colorbar(
        drawn, cax=box(figure, 9.95, middle - 0.7, 1, 0.12), orientation="horizontal", ticks=[least, 1]
    )
    bar.ax.set_xticklabels([f"{least:.1f}", "1"], fontsize=9)
    scale = box(figure, 0.15, middle - side / 2 - 0.3, side, 0.15)
    saliency_bar(figure, axes["image"], cax=scale, location="bottom")
    for start, end, leaves, enters, text in (
        ("image", "denoised", 0.5, 0.5, ""),
        ("image", "region", 0.5, 0.5, ""),
        ("denoised", "united", 0.5, 0.5, f"$\\beta_D$ = {steps.beta_denoising:.2f}\nshare {shares[0]:.2f}"),
        ("region", "united", 0.7, 0.3, f"$\\beta_R$ = {steps.beta_region:.2f}\nshare {shares[1]:.2f}"),
        ("united", "first", 0.5, 0.5, f"$\\beta_U$ = {steps.beta_united:.2f}\nshare {second[0]:.2f}"),
        ("region", "second", 0.5, 0.5, f"share {second[1]:.2f}"),
        ("first", "similarity", 0.3, 0.75, ""),
        ("second", "similarity", 0.7, 0.25, ""),
        ("first", "cam", 0.75, 0.9, ""),
        ("second", "cam", 0.15, 0.05, ""),
        ("similarity", "cam", 0.5, 0.5, ""),
    ):
        _arrow(figure, axes[start], axes[end], leaves, enters, text)
    return figure


@styled()
def fusion_rule(points: Sequence[tuple[float, float]] = ()) -> Figure:
    """Draw Fusion-CAM's rule for a pixel: the result for all pairs of values, and how much it adds to their mean.

    The mean and the larger value are drawn beside it, because the result always lies between these two.

    Args:
        points: pairs (L_1, L_2) in [0, 1], marked in each panel with the result there.
    """
    axis = torch.linspace(0, 1, 201)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    rules = {"mean": lambda a, b: (a + b) / 2, "Fusion-CAM": lambda a, b: fuse(a, b)[1], "larger value": torch.maximum}
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), width_ratios=[1, 1, 1, 1.1])
    figure.get_layout_engine().set(wspace=0.05)
    for one, (title, rule) in zip(axes, rules.items(), strict=False):
        values = rule(first, second).numpy()
        drawn = one.imshow(values, origin="lower", extent=(0, 1, 0, 1), cmap=SALIENCY, vmin=0, vmax=1)
        one.contour(axis, axis, values, np.arange(0.1, 0.95, 0.1), colors="white", linewidths=0.8)
        one.set(title=title, xlabel="$L_1$", ylabel="$L_2$", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        for a, b in points:
            one.plot(a, b, "o", color="white", mec="black", markersize=8, clip_on=False, zorder=5)
            left = a < 0.5
            where = {"xytext": (9 if left else -9, 0), "textcoords": "offset points", "ha": "left" if left else "right"}
            text = one.annotate(f"{float(rule(torch.tensor(a), torch.tensor(b))):.3f}", (a, b), va="center", **where)
            text.set_path_effects([HALO])
    beside = axes[2].inset_axes((1.06, 0, 0.07, 1))
    bar = figure.colorbar(drawn, cax=beside, label="result; a line every 0.1", ticks=[0, 0.5, 1])
    bar.ax.hlines(np.arange(0.1, 0.95, 0.1), 0, 1, color="white", linewidth=0.8)
    apart = axis.numpy()
    for values, line, width, colour, label, place in (
        (apart / 2, "--", 1.5, "neutral", "larger value", (0.53, 0.33)),
        ((1 - apart) * apart / 2, "-", 2.5, "fusion_cam", "Fusion-CAM", (0.5, 0.145)),
        (0 * apart, ":", 2, "neutral", "mean", (0.5, 0.018)),
    ):
        axes[3].plot(apart, values, line, linewidth=width, color=COLOURS[colour], label=label)
        axes[3].text(*place, label, ha="center").set_path_effects([HALO])
    for distance in (abs(a - b) for a, b in points):
        axes[3].plot(distance, (1 - distance) * distance / 2, "o", color="white", mec="black", markersize=8, zorder=5)
    axes[3].set(title="added to the mean", xlabel="$|L_1 - L_2|$", xlim=(0, 1), ylim=(-0.01, 0.5), xticks=[0, 0.5, 1])
    axes[3].set_yticks([0, 1 / 8, 1 / 4, 1 / 2], ["0", "1/8", "1/4", "1/2"])
    axes[3].set_box_aspect(0.9)
    return figure


@styled()
def two_choices(
    found: dict[str, tuple[Evidence, UnionSteps, FusionSteps]], classes: list[str], drops: dict[str, Sequence[float]]
) -> Figure:
    """Draw a column for each photo: the photo, UnionCAM's map, Fusion-CAM's map, and the second map minus the first.

    The frame of UnionCAM's map has the colour of the selected map.

    Args:
        found: photo -> (its evidence, the steps of UnionCAM, the steps of Fusion-CAM).
        classes: the name of each class.
        drops: photo -> the drop under UnionCAM's map and under Fusion-CAM's, in percent.
    """
    size = 2.25 * len(found) + 1.6, 9.9
    figure, axes = plt.subplots(4, len(found), figsize=size, squeeze=False)
    bound = max(float((fusion.cam - union.cam).abs().max()) for _, union, fusion in found.values())
    for column, (photo, (evidence, union, fusion)) in zip(axes.T, found.items(), strict=True):
        draw(column[0], evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        title = f"selected: {union.selected}\ndrop {drops[photo][0]:.1f} %"
        draw(column[1], overlay(evidence.image, union.cam), title, COLOURS[union.selected])
        title = f"weight of $L_U$: {fusion.second_shares[0]:.2f}\ndrop {drops[photo][1]:.1f} %"
        draw(column[2], overlay(evidence.image, fusion.cam), title, COLOURS["fusion_cam"])
        drawn = draw(column[3], fusion.cam - union.cam, cmap=SIGNED, vmin=-bound, vmax=bound)
    for one, label in zip(axes[:, 0], ("photo", "UnionCAM", "Fusion-CAM", "Fusion-CAM\n− UnionCAM"), strict=True):
        one.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=12)
    saliency_bar(figure, axes[1:3], shrink=0.5, aspect=25)
    figure.colorbar(drawn, ax=axes[3], label="difference", pad=0.02, shrink=0.9, aspect=12)
    return figure


def _arrow(figure: Figure, start: Axes, end: Axes, leaves: float = 0.5, enters: float = 0.5, text: str = ""):
    """Draw an arrow from the right edge of one picture to the left edge of another, with a text on its middle.

    `leaves` and `enters` are heights on these edges, from 0 to 1.
    """
    patch = mpl.patches.ConnectionPatch(
        (1.03, leaves), (-0.03, enters), "axes fraction", "axes fraction", axesA=start, axesB=end, arrowstyle="-|>",
        mutation_scale=14, color=COLOURS["neutral"],
    )  # fmt: skip
    patch.set_in_layout(False)
    figure.add_artist(patch)
    if text:
        (left, low, wide, high), (x, y, _, tall) = start.get_position().bounds, end.get_position().bounds
        middle = (left + wide + x) / 2, (low + leaves * high + y + enters * tall) / 2
        figure.text(*middle, text, ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})
