"""Images, saliency maps and overlays, in rows and grids."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from unioncam_core import Evidence, UnionSteps, min_max
from unioncam_lab.figures.style import COLOURS, SALIENCY, method_colour, styled
from unioncam_lab.methods import find_title
from unioncam_lab.metrics import Map, as_map, as_mask

ROUNDING = 1e-3  # pixels this far outside [0, 1] are clamped, and the image is not taken for a normalized one


def pixels(image: Map) -> np.ndarray:
    """Return an image (channels, H, W) as an array (H, W, 3) in [0, 1] for Matplotlib.

    Three channels are RGB, and one is grey. Of two, four or more channels the mean is drawn, scaled so that its
    smallest value is black and its largest white. An image with values outside [0, 1], such as a normalized one, is
    scaled in the same way, all its channels together.
    """
    drawn = torch.as_tensor(image).detach().cpu().float()
    drawn, scaled = (drawn, False) if len(drawn) in (1, 3) else (drawn.mean(0, keepdim=True), True)
    if scaled or drawn.min() < -ROUNDING or drawn.max() > 1 + ROUNDING:
        drawn = min_max(drawn.flatten(0, 1)).view_as(drawn)
    return drawn.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def overlay(image: Map, cam: Map) -> np.ndarray:
    """Lay a saliency map over its image in grey: colour and opacity grow with saliency, and 0 shows the image alone.

    Args:
        image: (channels, H, W), drawn as `pixels` says.
        cam: (H, W) in [0, 1].

    Returns:
        An array (H, W, 3) in [0, 1].
    """
    saliency = as_map(cam, image.shape[1:]).cpu().double().numpy()
    return _blend(pixels(image).mean(2), saliency)


def _blend(grey: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Return the colours (H, W, 3) of saliency over grey, both (H, W) in [0, 1]."""
    opacity = 0.85 * saliency[..., None]
    return (1 - opacity) * grey[..., None] + opacity * mpl.colormaps[SALIENCY](0.2 + 0.8 * saliency)[..., :3]


def saliency_bar(figure: Figure, axes: Axes | Sequence[Axes], **options):
    """Draw the scale of `overlay` beside axes: each saliency over dark, middle and light grey, from left to right.

    `options` go to Matplotlib's `colorbar`.
    """
    bar = figure.colorbar(mpl.cm.ScalarMappable(), ax=axes, label="saliency", ticks=[0, 0.5, 1], pad=0.02, **options).ax
    level, grey = np.mgrid[0:1:101j, 0.2:0.8:31j]
    across = options.get("location") in ("top", "bottom")
    colours = _blend(grey, level).swapaxes(0, 1) if across else _blend(grey, level)
    for drawn in (*bar.collections, *bar.images):
        drawn.remove()
    bar.imshow(colours, origin="lower", extent=(*bar.get_xlim(), *bar.get_ylim()), aspect="auto")


def draw(axes: Axes, array: np.ndarray | Tensor, title: str = "", colour: str = "black", **options) -> AxesImage:
    """Draw an image (channels, H, W), a map (h, w) or an array into axes, with a black title and a frame.

    An array with three dimensions is drawn as Matplotlib does it, (H, W, 3).
    The frame has the colour, and is thick unless that is black. The axes have no ticks. `options` go to `imshow`.
    """
    if isinstance(array, Tensor):
        array = pixels(array) if array.ndim == 3 else array.detach().cpu().float().numpy()
    drawn = axes.imshow(array, **options)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=0.5 if colour == "black" else 2.5)
    return drawn


@styled()
def row(pictures: dict[str, np.ndarray | Tensor], width: float = 2.3, **options) -> Figure:
    """Draw pictures side by side under their titles.

    Args:
        pictures: title -> an image (channels, H, W), a map (h, w) or an array, as in `draw`.
        width: of each picture, in inches.
        options: for Matplotlib's `imshow`.
    """
    lines = 1 + max(title.count("\n") for title in pictures)
    size = width * len(pictures), width + 0.22 * lines
    # "compressed" is for pictures of fixed proportions; "constrained" cuts off titles of several lines.
    figure, axes = plt.subplots(1, len(pictures), figsize=size, squeeze=False, layout="compressed")
    for one, (title, array) in zip(axes[0], pictures.items(), strict=True):
        draw(one, array, title, **options)
        one.set_anchor("S")  # the space above is for the title
    return figure


@styled()
def panels(*rows: dict[str, Tensor | tuple[Tensor, Map]], width: float = 2.4) -> Figure:
    """Draw rows of images under their titles, some of them with a saliency map laid over them, and the maps' scale.

    Args:
        rows: for each row, title -> an image (channels, H, W), or a pair of an image and its map (H, W) in [0, 1].
        width: of each picture, in inches.
    """
    columns, lines = max(map(len, rows)), 1 + max(title.count("\n") for pictures in rows for title in pictures)
    size = width * columns + 0.8, (width + 0.22 * lines) * len(rows)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, layout="compressed")
    for one in axes.flat:
        one.set_axis_off()
    for line, pictures in zip(axes, rows, strict=True):
        for one, (title, shown) in zip(line, pictures.items(), strict=False):
            one.set_axis_on()
            draw(one, overlay(*shown) if isinstance(shown, tuple) else shown, title)
    if any(isinstance(shown, tuple) for pictures in rows for shown in pictures.values()):
        saliency_bar(figure, axes, shrink=0.8 / len(rows))
    return figure


@styled()
def strip(explained: dict[str, tuple[Evidence, UnionSteps]], classes: list[str]) -> Figure:
    """Draw photos with the network's answers, and below each one the map that UnionCAM selected.

    A ring marks the brightest pixel of the map.

    Args:
        explained: photo -> (its evidence, UnionCAM's steps).
        classes: the name of each class.
    """
    size = 2.6 * len(explained) + 0.6, 5.5
    figure, axes = plt.subplots(2, len(explained), figsize=size, squeeze=False, layout="compressed")
    for (above, below), (evidence, steps) in zip(axes.T, explained.values(), strict=True):
        draw(above, evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        draw(below, overlay(evidence.image, steps.cam))
        y, x = divmod(int(steps.cam.argmax()), steps.cam.shape[1])
        for colour, width in (("black", 3.5), ("white", 1.8)):
            below.plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=width)
    saliency_bar(figure, axes, shrink=0.5)
    return figure


@styled()
def gallery(
    explained: dict[str, tuple[Evidence, UnionSteps]], classes: list[str], outlines: dict[str, Map] | None = None
) -> Figure:
    """Draw a row for each picture: the picture, then the denoised, region and united map with their betas.

    A coloured frame marks the map that UnionCAM selected.

    Args:
        explained: picture -> (its evidence, UnionCAM's steps).
        classes: the name of each class.
        outlines: picture -> the mask (H, W) of an object, whose outline is drawn on all pictures of the row.
    """
    figure, axes = plt.subplots(len(explained), 4, figsize=(8.8, 0.2 + 2.2 * len(explained)), squeeze=False)
    for line, (picture, (evidence, steps)) in zip(axes, explained.items(), strict=True):
        draw(line[0], evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        for one, cam, label, beta, name in (
            (line[1], steps.denoised, r"$L_{\mathrm{Denoising}}$", steps.beta_denoising, "denoising"),
            (line[2], steps.region, r"$L_{\mathrm{Region}}$", steps.beta_region, "region"),
            (line[3], steps.united, r"$L_{\mathrm{De\text{-}Region}}$", steps.beta_united, "united"),
        ):
            colour = COLOURS[name] if name == steps.selected else "black"
            draw(one, overlay(evidence.image, cam), f"{label}, $\\beta$ = {beta:.3f}", colour)
        for one in line if outlines else ():
            draw_outline(one, outlines[picture])
    saliency_bar(figure, axes, shrink=0.8 / len(axes))
    return figure


@styled()
def comparison(
    explained: dict[str, tuple[Evidence, dict[str, Map]]],
    classes: list[str],
    captions: dict[str, dict[str, str]] | None = None,
    outlines: dict[str, Sequence[Map]] | None = None,
) -> Figure:
    """Draw a row for each photo: the photo with the network's answer, then the map of each method in a coloured frame.

    Args:
        explained: photo -> (its evidence, method -> map (H, W) in [0, 1]).
        classes: the name of each class.
        captions: photo -> method -> caption below its map.
        outlines: photo -> masks (H, W) of objects; their outlines are drawn on each picture of the row.
    """
    columns = 1 + max(len(maps) for _, maps in explained.values())
    width = min(13, 1.9 * columns)
    size = width, 0.3 + (width / columns + (0.1 if captions is None else 0.3)) * len(explained)
    figure, axes = plt.subplots(len(explained), columns, figsize=size, squeeze=False)
    for line, (photo, (evidence, maps)) in zip(axes, explained.items(), strict=True):
        draw(line[0], evidence.image, f"{classes[evidence.target]}: {evidence.probability:.2f}")
        for one, (method, cam) in zip(line[1:], maps.items(), strict=True):
            title = find_title(method) if line[0] is axes[0, 0] else ""
            draw(one, overlay(evidence.image, cam), title, method_colour(method))
            if captions is not None:
                one.set_xlabel(captions[photo][method], fontsize=9, labelpad=4)
        for one in line:
            for mask in outlines[photo] if outlines else ():
                draw_outline(one, mask)
    saliency_bar(figure, axes, shrink=0.8 / len(axes))
    return figure


def draw_outline(axes: Axes, mask: Map):
    """Draw the outline of a mask, white on black, so that it is visible on any background."""
    for colour, width in (("black", 2.4), ("white", 1.0)):
        axes.contour(as_mask(mask).cpu().float().numpy(), [0.5], colors=colour, linewidths=width)


@styled()
def filmstrip(strips: dict[str, Sequence[tuple[str, Tensor]]], width: float = 1.9) -> Figure:
    """Draw rows of titled pictures, with the name of each row at its left.

    Args:
        strips: name of the row -> (title, image (channels, H, W)) for each picture. All rows have the same number of
            pictures.
        width: of each picture, in inches.
    """
    columns = max(len(pictures) for pictures in strips.values())
    size = width * columns + 0.3, (width + 0.3) * len(strips)
    figure, axes = plt.subplots(len(strips), columns, figsize=size, squeeze=False, layout="compressed")
    for line, (name, pictures) in zip(axes, strips.items(), strict=True):
        line[0].set_ylabel(name, labelpad=6)
        for one, (title, image) in zip(line, pictures, strict=True):
            draw(one, image, title)
    return figure
