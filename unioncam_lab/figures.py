"""Every plot and overlay, and where pictures go."""

import io
import os
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from unioncam_core import Evidence, UnionSteps, denoise, pixel_weights

FOLDER = Path(__file__).parent.parent / "figures"
# One colour for each map and method throughout the project, told apart by colour-blind readers too (Okabe-Ito).
COLOURS = {
    "denoising": "#0072B2",
    "region": "#E69F00",
    "united": "#009E73",
    "score_cam": "#CC79A7",
    "neutral": "#595959",
}
SALIENCY = "inferno"


def use_style():
    """The look of all plots; called when this module is imported."""
    sns.set_theme(context="notebook", style="ticks", palette=list(COLOURS.values()))
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
    folder = Path(os.environ.get("UNIONCAM_FIGURES") or FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None, "Description": alt})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Title": alt})
    jpeg = io.BytesIO()
    figure.savefig(jpeg, format="jpeg", pil_kwargs={"quality": 90, "subsampling": 0})
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
    size = width * len(pictures), width + 0.2 * lines
    figure, axes = plt.subplots(1, len(pictures), figsize=size, squeeze=False)
    for one, (title, array) in zip(axes[0], pictures.items(), strict=True):
        picture(one, array, title, **options)
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
    fastest, slowest = costs.seconds.iloc[-1], costs.seconds.iloc[0]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.5 * len(costs)))
    colours = [COLOURS["united" if method.startswith("UnionCAM") else "score_cam"] for method in costs.method]
    bars = axes.barh(costs.method, costs.seconds, color=colours, edgecolor="white")
    for bar, method in zip(bars, costs.method, strict=True):
        bar.set_hatch("" if method in ("UnionCAM", "Score-CAM") else "//")
    axes.bar_label(bars, [f"{seconds:.3g} s" for seconds in costs.seconds], padding=4)
    axes.set(xlabel="seconds for one explanation", xlim=(0, 1.1 * slowest))
    axes.set_title(f"The same question, {slowest / fastest:.0f} times faster", loc="left")
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
