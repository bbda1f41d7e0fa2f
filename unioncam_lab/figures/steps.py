"""Diagrams of how a method computes its map, drawn from the steps of an explanation."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fusioncam import FusionSteps, fuse
from unioncam_core import Evidence, UnionSteps, denoise, pixel_weights
from unioncam_lab.figures.maps import draw, overlay
from unioncam_lab.figures.style import COLOURS, SALIENCY, method_colour, styled


@styled()
def architecture(evidence: Evidence, steps: UnionSteps, theta: float = 10, shown: int = 3) -> Figure:
    """Draw Fig. 1 of the UnionCAM paper: denoising is above, the region map below, and their union on the right.

    The channels shown are those with the highest region scores among those with a positive gradient.

    Args:
        evidence: of one image.
        steps: what `union_cam` computed from it.
        theta: percentile of denoising, as in `steps`.
        shown: how many channels.
    """
    positive = (evidence.gradients.amax((1, 2)) > 0) & evidence.live
    channels = (evidence.region_scores * positive).topk(shown).indices.tolist()
    weights = pixel_weights(denoise(evidence.gradients, theta))[channels]
    gradients, masks = evidence.gradients[channels], evidence.masks(channels)
    above = [["image", ".", f"A{k}", f"W{k}", f"weight{k}", ".", "denoising", ".", "union"] for k in range(shown)]
    below = [["image", ".", f"mask{k}", f"masked{k}", "scores", ".", "region", ".", "union"] for k in range(shown)]
    widths = [1.9, 0.1, 0.85, 0.85, 0.85, 0.05, 1.9, 0.25, 1.9]
    figure, axes = plt.subplot_mosaic(above + below, figsize=(13, 6.6), width_ratios=widths)

    draw(axes["image"], evidence.image, "$I_0$")
    bound, top, masked = float(gradients.abs().max()), float(weights.max()), evidence.masked(masks)
    for k, channel in enumerate(channels):
        draw(axes[f"A{k}"], evidence.activations[channel], f"$A$ of channel {channel}", cmap=SALIENCY)
        draw(axes[f"W{k}"], gradients[k], "$W$", cmap="PuOr_r", vmin=-bound, vmax=bound)
        draw(axes[f"weight{k}"], weights[k], r"$\alpha\circ$ReLU$(W)$", cmap="Purples", vmin=0, vmax=1.5 * top)
        draw(axes[f"mask{k}"], masks[k], f"mask {channel}", cmap=SALIENCY)
        draw(axes[f"masked{k}"], masked[k], r"mask $\circ\; I_0$")
    scores = evidence.region_scores[channels].tolist()
    bars = axes["scores"].barh(range(shown)[::-1], scores, color=COLOURS["region"], height=0.3)
    axes["scores"].bar_label(bars, [f"{score:.2f}" for score in scores], padding=3)
    axes["scores"].set(title="$W_R = f^c$", xlim=(0, 1.35 * max(scores)), xticks=[], yticks=[])
    for name, cam, label, beta in (
        ("denoising", steps.denoised, r"$L_{\mathrm{Denoising}}$", steps.beta_denoising),
        ("region", steps.region, r"$L_{\mathrm{Region}}$", steps.beta_region),
        ("union", steps.united, r"$L_{\mathrm{De\text{-}Region}}$", steps.beta_united),
    ):
        colour = COLOURS["united" if name == "union" else name]
        draw(axes[name], overlay(evidence.image, cam), _beta(label, beta), colour)
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


@styled()
def selection(evidence: Evidence, steps: UnionSteps) -> Figure:
    """Draw Fig. 2 of the UnionCAM paper: two maps, the image masked by each, their betas, and the selected map.

    Args:
        evidence: of one image.
        steps: what `union_cam` computed from it.
    """
    mosaic = [["united", "united masked", "betas", "cam"], ["region", "region masked", "betas", "cam"]]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(12, 6), width_ratios=[1, 1, 0.9, 1.25])
    figure.get_layout_engine().set(wspace=0.06)
    for name, cam, label in (
        ("united", steps.united, r"$L_{\mathrm{De\text{-}Region}}$"),
        ("region", steps.region, r"$L_{\mathrm{Region}}$"),
    ):
        draw(axes[name], overlay(evidence.image, cam), label, COLOURS[name])
        draw(axes[f"{name} masked"], evidence.masked(cam[None])[0], f"{label} $\\circ\\; I_0$", COLOURS[name])
        _arrow(figure, axes[name], axes[f"{name} masked"])
    betas = [steps.beta_united, steps.beta_region]
    names, colours = (
        [r"$L_{\mathrm{De\text{-}Region}}$", r"$L_{\mathrm{Region}}$"],
        [COLOURS["united"], COLOURS["region"]],
    )
    bars = axes["betas"].bar(names, betas, width=0.55, color=colours)
    axes["betas"].bar_label(bars, [f"{beta:.3f}" for beta in betas], padding=3)
    axes["betas"].axhline(0, color=COLOURS["neutral"], linewidth=0.8)
    axes["betas"].set(
        title="Eqs. 5 and 7: the larger $\\beta$ wins", ylabel="$\\beta$, difference of class probability"
    )
    axes["betas"].margins(y=0.15)
    draw(
        axes["cam"],
        overlay(evidence.image, steps.cam),
        f"$L_{{\\mathrm{{UnionCAM}}}}$: the {steps.selected} map",
        COLOURS[steps.selected],
    )
    return figure


@styled()
def channel_weights(gradient: Tensor, weights: dict[str, tuple[str, Tensor]], title: str) -> Figure:
    """Plot each channel's weight by several methods, as a share of the method's largest, against its mean gradient.

    Args:
        gradient: (K,), in logits per unit of activation.
        weights: label -> (method, weights (K,)). If a method occurs a second time, its dots are rings.
        title: of the figure.
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
    axes.set_title(title)
    axes.legend(loc="lower right")
    return figure


@styled()
def weight_shares(weights: dict[str, tuple[str, Tensor]], title: str) -> Figure:
    """Plot how much of all weight the heaviest channels carry, in percent.

    Args:
        weights: label -> (name of a colour, weights (K,), not negative). If a colour occurs a second time, its line is
            dashed.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(8, 4.4))
    for i, (label, (name, weight)) in enumerate(weights.items()):
        again = name in [earlier for earlier, _ in list(weights.values())[:i]]
        carried = np.append(0, weight.sort(descending=True).values.cumsum(0).tolist())
        channels, share = np.linspace(0, 100, len(carried)), 100 * carried / carried[-1]
        axes.plot(channels, share, "--" if again else "-", color=COLOURS[name], label=label, linewidth=2)
    axes.plot([0, 100], [0, 100], ":", color=COLOURS["neutral"], label="all channels alike")
    axes.set(xlabel="heaviest channels, % of those not constant", ylabel="share of all weight, %")
    axes.set(xlim=(0, 100), ylim=(0, 101), title=title)
    axes.legend(loc="lower right")
    return figure


@styled()
def fusion_rule() -> Figure:
    """Draw Fusion-CAM's rule for a pixel: the result for all pairs of values, and how much it adds to their mean.

    The larger value and the mean are also drawn, because the result always lies between these two.
    """
    axis = torch.linspace(0, 1, 201)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    axis = axis.numpy()
    panels = {
        "the larger value": torch.maximum(first, second).numpy(),
        "Fusion-CAM": fuse(first, second)[1].numpy(),
        "the mean": ((first + second) / 2).numpy(),
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


@styled()
def fusion_steps(evidence: Evidence, steps: FusionSteps) -> Figure:
    """Draw the steps of Fusion-CAM: two maps, their union, the union and the region map weighted, and the fusion.

    Args:
        evidence: of one image.
        steps: what `fusion_cam` computed from it.
    """
    mosaic = [["image", "denoised", "united", "first", "similarity", "cam"]]
    mosaic += [["image", "region", ".", "second", "similarity", "cam"]]
    widths = [1.3, 1, 1, 1, 1.3, 1.3]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(13.5, 5.2), width_ratios=widths)
    figure.get_layout_engine().set(wspace=0.11, hspace=0.05)
    draw(axes["image"], evidence.image, "$I_0$")
    for name, cam, label, beta, share, colour in (
        ("denoised", steps.denoised, "$L_D$", steps.beta_denoising, steps.shares[0], "denoising"),
        ("region", steps.region, "$L_R$", steps.beta_region, steps.shares[1], "region"),
        ("united", steps.united, "$L_U$", steps.beta_united, steps.second_shares[0], "united"),
    ):
        title = f"{label}, $\\beta$ = {beta:.2f},\nshare {share:.2f}"
        draw(axes[name], overlay(evidence.image, cam), title, COLOURS[colour])
    for name, cam, share, label, colour in (
        ("first", steps.united, steps.second_shares[0], "$L_1$ = {:.2f} $L_U$", "united"),
        ("second", steps.region, steps.second_shares[1], "$L_2$ = {:.2f} $L_R$", "region"),
    ):
        draw(axes[name], share * cam, label.format(share), COLOURS[colour], cmap=SALIENCY, vmin=0, vmax=1)
    drawn = draw(axes["similarity"], steps.similarity, "similarity $s$", cmap="cividis", vmax=1)
    figure.colorbar(drawn, cax=axes["similarity"].inset_axes((0, -0.12, 1, 0.06)), orientation="horizontal")
    draw(axes["cam"], overlay(evidence.image, steps.cam), r"$L_{\mathrm{Fusion}}$", COLOURS["fusion_cam"])
    pairs = [("image", "denoised"), ("image", "region"), ("denoised", "united"), ("region", "united")]
    pairs += [("united", "first"), ("region", "second"), ("first", "similarity"), ("second", "similarity")]
    for start, end in [*pairs, ("similarity", "cam")]:
        _arrow(figure, axes[start], axes[end])
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
    figure, axes = plt.subplots(4, len(found), figsize=(2.2 * len(found), 9.8), squeeze=False)
    bound = max(float((fusion.cam - union.cam).abs().max()) for _, union, fusion in found.values())
    for column, (photo, (evidence, union, fusion)) in zip(axes.T, found.items(), strict=True):
        draw(column[0], evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        title = f"the {union.selected} map\ndrop {drops[photo][0]:.1f} %"
        draw(column[1], overlay(evidence.image, union.cam), title, COLOURS[union.selected])
        title = f"{fusion.second_shares[0]:.2f} of the union\ndrop {drops[photo][1]:.1f} %"
        draw(column[2], overlay(evidence.image, fusion.cam), title, COLOURS["fusion_cam"])
        drawn = draw(column[3], fusion.cam - union.cam, cmap="PuOr", vmin=-bound, vmax=bound)
    for one, label in zip(axes[:, 0], ("", "UnionCAM", "Fusion-CAM", "Fusion-CAM − UnionCAM"), strict=True):
        one.set_ylabel(label)
    figure.colorbar(drawn, ax=axes[3], location="bottom", label="difference of saliency", shrink=0.5, aspect=30)
    return figure


def _arrow(figure: Figure, start: Axes, end: Axes):
    """Draw an arrow from the right edge of one picture to the left edge of another."""
    patch = mpl.patches.ConnectionPatch(
        (1.03, 0.5), (-0.03, 0.5), "axes fraction", "axes fraction", axesA=start, axesB=end, arrowstyle="-|>",
        mutation_scale=14, color=COLOURS["neutral"],
    )  # fmt: skip
    patch.set_in_layout(False)
    figure.add_artist(patch)


def _beta(name: str, beta: float) -> str:
    return f"{name}\n$\\beta$ = {beta:.3f}"
