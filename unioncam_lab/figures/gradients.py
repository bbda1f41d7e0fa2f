"""Denoising, drawn: numbers by hand, a channel's gradient before and after Eq. 1, and what changes in a map."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from unioncam_core import Evidence, denoise, denoised_cam
from unioncam_lab.figures.maps import draw, draw_outline, overlay, saliency_bar
from unioncam_lab.figures.style import COLOURS, SIGNED, styled
from unioncam_lab.metrics import Map

CHANGED = 1e-6  # the smallest change of a pixel's saliency that counts as one


@styled()
def worked_example(channels: Sequence[dict[str, Tensor]], result: dict[str, Tensor], signs: Sequence[str]) -> Figure:
    """Draw small maps as tables of numbers: a row for each channel, and the result of all channels on the right.

    Positive numbers have an orange ground, and negative ones a purple ground.

    Args:
        channels: for each channel, title -> numbers (h, w), from left to right.
        result: title -> numbers (h, w), from left to right.
        signs: what stands at the left of each table but the first of a channel, and of each result.
    """
    columns = max(len(tables) for tables in channels)
    mosaic = [
        [f"{k} {j}" for j in range(columns)] + [f"result {j}" for j in range(len(result))] for k in range(len(channels))
    ]
    size = 1.72 * len(mosaic[0]), 0.4 + 1.8 * len(mosaic)
    figure, axes = plt.subplot_mosaic(mosaic, figsize=size)
    figure.get_layout_engine().set(wspace=0.16)
    for k, tables in enumerate(channels):
        for j, (title, numbers) in enumerate(tables.items()):
            _numbers(axes[f"{k} {j}"], numbers, title, ["", *signs][j])
    for j, (title, numbers) in enumerate(result.items()):
        _numbers(axes[f"result {j}"], numbers, title, signs[columns - 1 + j])
    return figure


@styled()
def denoised_channel(gradient: Tensor, thetas: Sequence[float], name: str = "W") -> Figure:
    """Draw a channel's gradient, and for each theta its histogram with the threshold of Eq. 1, and what is left of it.

    Args:
        gradient: (h, w).
        thetas: percentiles.
        name: of the channel's gradient, as TeX without dollars.
    """
    mosaic = [["before", *(f"{row} {theta}" for theta in thetas)] for row in ("histogram", "after")]
    size = 2.8 * (1 + len(thetas)), 4.8
    figure, axes = plt.subplot_mosaic(mosaic, figsize=size, height_ratios=[1, 1.25])
    _gradient(axes["before"], gradient, gradient, f"${name}$, before")
    for theta in thetas:
        _histogram(axes[f"histogram {theta}"], gradient, theta)
        axes[f"histogram {theta}"].set_ylabel("positions" if theta == thetas[0] else "")
        _gradient(axes[f"after {theta}"], denoise(gradient, theta), gradient, rf"$\widetilde{{W}}$ at θ = {theta:g}")
    return figure


@styled()
def denoising(found: dict[str, tuple[Evidence, int, float]], outline: Map | None = None) -> Figure:
    """Draw a row for each case: one channel's gradient before and after Eq. 1, the denoised map, and its change.

    Args:
        found: name of the row -> (the evidence, a channel, theta).
        outline: a mask (H, W) of the object, whose outline is drawn on the maps.
    """
    size = 7.8, 0.65 + 1.8 * len(found)
    figure, axes = plt.subplots(len(found), 5, figsize=size, squeeze=False)
    changes = []
    for line, (name, (evidence, channel, theta)) in zip(axes, found.items(), strict=True):
        W = evidence.gradients[channel]
        _gradient(line[0], W, W, f"$W$ of channel {channel}")
        line[0].set_ylabel(name)
        _histogram(line[1], W, theta)
        line[1].set_box_aspect(1)
        _gradient(line[2], denoise(W, theta), W, rf"$\widetilde{{W}}$ at θ = {theta:g}")
        changes.append(_changed_map(line[3:], evidence, theta, outline))
    bound = max(max(float(np.abs(drawn.get_array()).max()) for drawn in changes), 0.05)
    for drawn in changes:
        drawn.set_clim(-bound, bound)
    saliency_bar(figure, axes[:, 3], location="bottom", shrink=0.9)
    figure.colorbar(changes[0], ax=axes[:, 4], location="bottom", label="change of saliency", pad=0.02, shrink=0.9)
    return figure


@styled()
def map_differences(image: Tensor, maps: dict[str, Tensor], outline: Map | None = None) -> Figure:
    """Draw maps over their image, and below each map but the first one its difference from the first one.

    Args:
        image: (channels, H, W).
        maps: title -> saliency map (H, W) in [0, 1].
        outline: a mask (H, W) of the object, whose outline is drawn on each picture.
    """
    size = 1.6 * len(maps) + 0.8, 4.0
    figure, axes = plt.subplots(2, len(maps), figsize=size, squeeze=False)
    first, *others = maps.values()
    bound = max(max(float((other - first).abs().max()) for other in others), 0.05)
    for column, (title, cam) in zip(axes.T, maps.items(), strict=True):
        draw(column[0], overlay(image, cam), title, interpolation="nearest")
        if cam is first:
            draw(column[1], image, "the image", interpolation="nearest")
        else:
            look = {"interpolation": "nearest", "cmap": SIGNED, "vmin": -bound, "vmax": bound}
            drawn = draw(column[1], cam - first, _largest(cam - first), **look)
        for one in column if outline is not None else ():
            draw_outline(one, outline)
    saliency_bar(figure, axes[0], shrink=0.8)
    figure.colorbar(drawn, ax=axes[1], label="change of saliency", shrink=0.8, pad=0.02)
    return figure


def _numbers(axes: Axes, numbers: Tensor, title: str, sign: str):
    """Draw numbers (h, w) as a table, and a sign at its left."""
    draw(axes, numbers.sign(), title, cmap=SIGNED, vmin=-3, vmax=3)
    for (i, j), number in np.ndenumerate(numbers.numpy()):
        axes.text(j, i, f"{number:.2g}", ha="center", va="center", fontsize=10)
    axes.text(-0.16, 0.5, sign, transform=axes.transAxes, ha="center", va="center", fontsize=15)


def _gradient(axes: Axes, shown: Tensor, before: Tensor, title: str):
    """Draw a channel's gradient (h, w): orange is positive, purple is negative, and `before` gives the scale."""
    bound = float(before.abs().max()) or 1
    draw(axes, shown, title, cmap=SIGNED, vmin=-bound, vmax=bound)


def _histogram(axes: Axes, gradient: Tensor, theta: float):
    """Draw the histogram of a channel's gradient, in the colours of `_gradient`, with the threshold of Eq. 1.

    A bar is filled as far as its values are kept, and hatched as far as they are set to 0.
    """
    values = gradient.flatten().cpu().numpy()
    threshold, bound = np.percentile(values, theta), np.abs(values).max() or 1
    kept = values >= threshold
    colours, edges = mpl.colormaps[SIGNED], np.linspace(-bound, bound, 22)
    for edge, width, count, filled in zip(
        edges, np.diff(edges), np.histogram(values, edges)[0], np.histogram(values[kept], edges)[0], strict=False
    ):
        look = {"width": width, "align": "edge", "edgecolor": COLOURS["neutral"], "linewidth": 0.6}
        axes.bar(edge, count, color="white", hatch="////", **look)
        axes.bar(edge, filled, color=colours((edge + width / 2 + bound) / (2 * bound)), **look)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1.5)
    axes.set(xlim=(-1.05 * bound, 1.05 * bound), yscale="symlog", ylim=(0, None), xlabel="gradient")
    axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axes.set_title(f"threshold {threshold:.3f}")


def _changed_map(panels: Sequence[Axes], evidence: Evidence, theta: float, outline: Map | None) -> AxesImage:
    """Draw the denoised map, and this map minus the map at theta = 0, whose picture is returned."""
    before, after = denoised_cam(evidence, 0), denoised_cam(evidence, theta)
    draw(panels[0], overlay(evidence.image, after), f"map at θ = {theta:g}", interpolation="nearest")
    drawn = draw(panels[1], after - before, _largest(after - before), interpolation="nearest", cmap=SIGNED)
    for axes in panels if outline is not None else ():
        draw_outline(axes, outline)
    return drawn


def _largest(change: Tensor) -> str:
    largest = float(change.abs().max())
    return f"change ≤ {largest:.2g}" if largest > CHANGED else "no pixel changes"
