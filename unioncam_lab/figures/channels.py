"""Feature maps, the weights that methods give to them, and the saliency map that is their weighted sum."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from unioncam_core import Evidence
from unioncam_lab.figures.maps import draw, overlay, saliency_bar
from unioncam_lab.figures.style import COLOURS, SALIENCY, SIGNED, box, canvas, method_colour, styled


@styled()
def network_schematic(image: Tensor, stages: Sequence[Tensor], logits: Tensor, classes: Sequence[str]) -> Figure:
    """Draw how a network with a global average computes its answer, with real feature maps and their sizes.

    Of each stage the three feature maps with the largest standard deviation are drawn.

    Args:
        image: (3, H, W).
        stages: feature maps (K, h, w) from the first stage to the target layer.
        logits: (C,).
        classes: the name of each class.
    """
    figure = canvas(13, 3.5)
    middle, gap, last = 1.75, 0.28, len(stages)
    sides, edges, left = [1.4, *np.linspace(1.15, 0.7, last - 1), 1.0], [], 0.1
    for number, (side, maps) in enumerate(zip(sides, [image, *stages], strict=True)):
        shown = [image] if not number else maps[maps.flatten(1).std(1).topk(min(3, len(maps))).indices]
        for depth in reversed(range(len(shown))):  # the first one lies in front
            place = left + 0.09 * depth, middle - side / 2 + 0.09 * depth
            draw(box(figure, *place, side, side), shown[depth], cmap=SALIENCY)
        label = "{} channels\n{} × {}".format(*maps.shape)
        label = "target layer:\n$K$ = {}\n{} × {} positions".format(*maps.shape) if number == last else label
        label = label if number else "photo\n" + " × ".join(map(str, image.shape))
        _label(figure, left + side / 2, middle - 0.85, label, "top")
        edges.append((left, left + side + 0.09 * (len(shown) - 1)))
        left = edges[-1][1] + gap
    pillars = (edges[-1][1] + 0.85, stages[-1].mean((1, 2)), "means"), (edges[-1][1] + 1.85, logits, "logits")
    for left, values, label in pillars:
        draw(box(figure, left, middle - 1, 0.22, 2), values[:, None], cmap=SALIENCY, aspect="auto")
        _label(figure, left + 0.11, middle - 1.12, f"{len(values)}\n{label}", "top")
        edges.append((left, left + 0.22))
    left = edges[-1][1] + 0.75
    best = logits.softmax(0).topk(min(3, len(logits)))
    values, levels = best.values.tolist(), range(len(best.values))[::-1]
    bars = box(figure, left, middle - 0.8, 12.9 - left, 1.6)
    drawn = bars.barh(levels, values, 0.3, color=COLOURS["neutral"])
    bars.bar_label(drawn, [f"{value:.2f}" for value in values], padding=3)
    for level, index in zip(levels, best.indices.tolist(), strict=True):
        bars.text(0.02 * values[0], level + 0.2, classes[index], fontsize=9.5, verticalalignment="bottom")
    bars.set(xlim=(0, 1.4 * values[0]), ylim=(-0.3, levels[0] + 0.7), xticks=[], yticks=[])
    bars.spines["bottom"].set_visible(False)
    _label(figure, left + 0.6, middle - 1.12, "the largest of\nthe probabilities", "top")
    edges.append((left, 12.9))
    words = [""] * last + ["global\naverage", "linear\nlayer", "softmax"]
    for (start, end), word in zip([(one[1], other[0]) for one, other in pairwise(edges)], words, strict=True):
        _flow(figure, (start + 0.04, middle), (end - 0.04, middle))
        _label(figure, (start + end) / 2, middle + 0.08, word, "bottom")
    start, end = edges[last]
    across, up = figure.get_size_inches()
    marked = mpl.patches.Rectangle(
        ((start - 0.1) / across, (middle - 1.45) / up),
        (end - start + 0.2) / across,
        2.2 / up,
        color="#E4E4E4",
        zorder=-1,
    )
    figure.add_artist(marked)
    start = edges[1][0]
    _label(
        figure,
        (start + end) / 2,
        middle + 1.32,
        "convolutional layers: ever fewer positions, ever more channels",
        "bottom",
    )
    _flow(figure, (start, middle + 1.25), (end, middle + 1.25), arrowstyle="-")
    centre, logit = sum(edges[last]) / 2, edges[last + 2][0] + 0.11
    _flow(figure, (logit, middle + 1.05), (centre, middle + 0.76), "arc3,rad=0.18", linestyle="--")
    _label(figure, logit - 0.3, middle + 1.32, "backwards: gradient $W^k$ of one logit $y^c$", "bottom")
    return figure


@styled()
def channel_responses(evidences: Mapping[str, Evidence], channels: Mapping[int, str]) -> Figure:
    """Draw where a few channels respond in several photos: a row for each channel, and the same scale everywhere.

    Above each picture stands the largest value of the feature map.

    Args:
        evidences: photo -> its evidence.
        channels: channel -> what to write at the left of its row.
    """
    width = 0.88
    size = width * len(evidences) + 0.9, (width + 0.28) * len(channels) + 0.1
    figure, axes = plt.subplots(len(channels), len(evidences), figsize=size, squeeze=False)
    for line, (channel, label) in zip(axes, channels.items(), strict=True):
        line[0].set_ylabel(label, labelpad=6)
        top = max(float(evidence.activations[channel].max()) for evidence in evidences.values()) or 1
        for one, evidence in zip(line, evidences.values(), strict=True):
            enlarged = _enlarged(evidence.activations[[channel]], evidence)[0].clamp(0, top) / top
            largest = float(evidence.activations[channel].max())
            draw(one, overlay(evidence.image, enlarged), f"{largest:.1f}")
    saliency_bar(figure, axes, shrink=0.8 / len(channels))
    figure.axes[-1].set_ylabel("activation, share of\nthe row's largest")
    return figure


@styled()
def weighted_sum(evidence: Evidence, channels: Sequence[int]) -> Figure:
    """Draw the idea of a class activation map: feature maps times weights, added up, rectified, enlarged.

    The weights are Grad-CAM's. A few channels are drawn, but the sum is that of all.

    Args:
        evidence: of one image.
        channels: those to draw.
    """
    maps, weights = evidence.activations, evidence.gradients.mean((1, 2))
    products = weights[:, None, None] * maps
    total = products.sum(0)
    cam = evidence.scaled(_enlarged(total.relu()[None], evidence))[0]
    rows, tile, pitch = len(channels), 0.86, 0.98
    height = pitch * rows + 1.75
    figure = canvas(13, height)
    middle = 1.15 + pitch * rows / 2
    photo = box(figure, 0.1, middle - 0.95, 1.9, 1.9)
    draw(photo, evidence.image, "photo $I_0$")
    bound, largest = float(products[list(channels)].abs().max()), float(maps[list(channels)].max())
    signed = {"cmap": SIGNED, "vmin": -bound, "vmax": bound}
    wide = float(total.abs().max())
    big = {"cmap": SIGNED, "vmin": -wide, "vmax": wide}
    summed = box(figure, 6.75, middle - 0.8, 1.6, 1.6)
    whole = draw(summed, total, f"$\\Sigma_k\\, w_k A^k$\nof all {len(maps)} channels", **big)
    rectified = box(figure, 8.95, middle - 0.8, 1.6, 1.6)
    negative = int((total < 0).sum())
    title = f"ReLU: sets {negative}\nnegative to 0" if negative else "ReLU: here no sum\nis negative"
    draw(rectified, total.relu(), title, **big)
    last = box(figure, 11.1, middle - 0.9, 1.8, 1.8)
    draw(last, overlay(evidence.image, cam), "saliency map $L^c$,\nenlarged, over the photo")
    for number, channel in enumerate(channels):
        base = 1.15 + pitch * (rows - 1 - number) + (pitch - tile) / 2
        first, second = box(figure, 2.95, base, tile, tile), box(figure, 5.05, base, tile, tile)
        top = draw(first, maps[channel], cmap=SALIENCY, vmin=0, vmax=largest)
        product = draw(second, products[channel], **signed)
        _label(figure, 2.88, base + tile / 2, f"{channel}", "center", horizontalalignment="right")
        _flow(figure, (2.04, middle + (base + tile / 2 - middle) * 0.25), (2.5, base + tile / 2))
        _flow(figure, (2.95 + tile + 0.05, base + tile / 2), (5.0, base + tile / 2))
        sign = "+" if weights[channel] >= 0 else "−"
        text = f"× {sign}{1000 * abs(float(weights[channel])):.2f}"
        _label(figure, (2.95 + tile + 5.05) / 2, base + tile / 2 + 0.07, text, "bottom")
        _flow(figure, (5.05 + tile + 0.05, base + tile / 2), (6.7, middle + (base + tile / 2 - middle) * 0.25))
    heads = {2.95 + tile / 2: "feature\nmap $A^k$", 4.43: "weight $w_k$\n× 1000", 5.05 + tile / 2: "product\n$w_k A^k$"}
    for x, text in heads.items():
        _label(figure, x, 1.2 + pitch * rows, text, "bottom", fontsize=11)
    _label(figure, 2.95 + tile / 2, 1.1, "⋮", "top", fontsize=13)
    _label(figure, 5.05 + tile / 2, 1.1, "⋮", "top", fontsize=13)
    for start, end in ((summed, rectified), (rectified, last)):
        a, b = (one.get_position() for one in (start, end))
        _flow(figure, (13 * a.x1 + 0.06, middle), (13 * b.x0 - 0.06, middle))
    bars = (top, 2.95, tile, "activation"), (product, 5.05, tile, "logit"), (whole, 6.75, 1.6, "logit")
    for drawn, x, width, unit in bars:
        low, high = drawn.get_clim()
        bar = figure.colorbar(drawn, cax=box(figure, x, 0.6, width, 0.12), orientation="horizontal", ticks=[low, high])
        bar.ax.set_xticklabels([f"{low:.2g}", f"{high:.2g}"], fontsize=9)
        bar.ax.set_xlabel(unit, fontsize=9, labelpad=0)
    return figure


@styled()
def masking(evidence: Evidence, channels: Sequence[int]) -> Figure:
    """Draw a column for each channel: the feature map, the mask made of it, and the masked image with its class score.

    Args:
        evidence: of one image.
        channels: those to draw, not constant.
    """
    channels, alone = list(channels), len(channels) == 1
    masks, scores = evidence.masks(channels), evidence.region_scores[channels].tolist()
    masked, shape = evidence.masked(masks), (1, 3) if alone else (3, len(channels))
    figure, axes = plt.subplots(*shape, figsize=(8.4, 3.7) if alone else (1.15 * len(channels) + 0.7, 4.3))
    axes = axes.reshape(3, len(channels))  # one channel lies in a row, several stand in columns
    top = float(evidence.activations[channels].max())
    for number, channel in enumerate(channels):
        activations = evidence.activations[channel]
        feature = draw(axes[0, number], activations, f"channel {channel}", cmap=SALIENCY, vmin=0, vmax=top)
        mask = draw(axes[1, number], masks[number], cmap="gray", vmin=0, vmax=1)
        draw(axes[2, number], masked[number], f"$f^c$ = {scores[number]:.3f}")
    for one, label in zip(axes[:, 0], ("feature map $A^k$", "mask $M^k$", "photo $M^k \\circ I_0$"), strict=True):
        one.set_ylabel(label)
    place = (0.05, -0.11, 0.9, 0.05) if alone else (1.06, 0.05, 0.06, 0.9)
    look = {"orientation": "horizontal" if alone else "vertical"}
    figure.colorbar(feature, cax=axes[0, -1].inset_axes(place), label="activation", **look)
    figure.colorbar(mask, cax=axes[1, -1].inset_axes(place), label="visible share", ticks=[0, 0.5, 1], **look)
    return figure


@styled()
def channel_weights(gradient: Tensor, weights: Mapping[str, tuple[str, Tensor]]) -> Figure:
    """Plot each channel's weight against its mean gradient, in a panel for each method, as a share of its largest.

    Args:
        gradient: (K,), in logits per unit of activation.
        weights: title of the panel -> (method, weights (K,)).
    """
    size = 2.6 * len(weights) + 0.4, 3
    figure, axes = plt.subplots(1, len(weights), figsize=size, sharex=True, sharey=True, squeeze=False)
    for one, (title, (method, weight)) in zip(axes[0], weights.items(), strict=True):
        for zero in (one.axhline, one.axvline):
            zero(0, color=COLOURS["neutral"], linewidth=0.8)
        share = (weight / weight.max()).tolist()
        one.scatter((1000 * gradient).tolist(), share, s=9, color=method_colour(method), linewidths=0)
        one.set_title(title)
    axes[0, 0].set_ylabel("weight, share of the largest")
    figure.supxlabel("mean gradient of the channel, thousandths of a logit per unit of activation", fontsize=10)
    return figure


def _enlarged(maps: Tensor, evidence: Evidence) -> Tensor:
    """Feature maps (n, h, w) enlarged to the image's size, and not scaled."""
    size = evidence.image.shape[1:]
    return torch.nn.functional.interpolate(maps[:, None], size, mode="bilinear")[:, 0]


def _label(figure: Figure, x: float, y: float, text: str, vertical: str, **options):
    """Write text at a place in inches."""
    across, up = figure.get_size_inches()
    look = {"horizontalalignment": "center", "fontsize": 9.5, **options}
    figure.text(x / across, y / up, text, verticalalignment=vertical, **look)


def _flow(figure: Figure, start: tuple[float, float], end: tuple[float, float], style: str = "arc3", **options):
    """Draw an arrow between two places in inches."""
    size = figure.get_size_inches()
    look = {"arrowstyle": "-|>", "mutation_scale": 12, "color": COLOURS["neutral"], "shrinkA": 0, "shrinkB": 0}
    places = [tuple(np.divide(place, size)) for place in (start, end)]
    figure.add_artist(mpl.patches.FancyArrowPatch(*places, connectionstyle=style, **(look | options)))
