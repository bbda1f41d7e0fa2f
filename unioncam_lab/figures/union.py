"""The paper's Figures 1 and 2, drawn with the intermediate results of one explanation."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unioncam_core import Evidence, UnionSteps, denoise, pixel_weights
from unioncam_lab.figures import style
from unioncam_lab.figures.maps import draw, overlay, saliency_bar
from unioncam_lab.figures.style import COLOURS, SALIENCY, SIGNED, box, styled

LABELS = {
    "denoising": r"$L_{\mathrm{Denoising}}$",
    "region": r"$L_{\mathrm{Region}}$",
    "united": r"$L_{\mathrm{De\text{-}Region}}$",
}
BETAS = {name: label.replace("$L_", r"$\beta_") for name, label in LABELS.items()}
BOX = {"facecolor": "#F2F2F2", "edgecolor": "#B0B0B0"}  # of a module


@styled()
def architecture(evidence: Evidence, steps: UnionSteps, theta: float = 10) -> Figure:
    """Draw Fig. 1 of the UnionCAM paper for one image: its modules AMD, AMU and AMS, with three channels.

    The channels are those with the highest region scores, and each has a row in all columns.

    Args:
        evidence: of one image.
        steps: what `union_cam` computed from it.
        theta: percentile of denoising, as in `steps`.
    """
    figure, canvas = _canvas(13, 8.6)
    channels = evidence.region_scores.topk(3).indices.tolist()
    corner = (9.1, 5.25)  # where two modules meet
    for corners, place, label in (
        ([(4.3, 4.65), (4.3, 8.5), (11, 8.5), (11, 5.35), (9.1, 5.35), (9.1, 4.65)], (10.9, 8.4), "AMD: denoising"),
        ([(4.3, 0.35), (4.3, 4.05), (9.1, 4.05), corner, (12.95, 5.25), (12.95, 3), (11, 3), (11, 0.35)],
         (10.9, 0.7), "AMU: union"),
        ([(11.15, 0.35), (11.15, 2.85), (12.95, 2.85), (12.95, 0.35)], (12.85, 2.75), "AMS: selection"),
    ):  # fmt: skip
        canvas.add_patch(mpl.patches.Polygon(corners, **BOX))
        canvas.text(*place, label, weight="bold", ha="right", va="top")
    _draw_image_and_features(figure, canvas, evidence, channels)
    _draw_gradient_branch(figure, canvas, evidence, channels, theta)
    _draw_region_branch(figure, canvas, evidence, channels)
    _draw_maps(figure, canvas, evidence, steps)
    return figure


def _draw_image_and_features(figure: Figure, canvas: Axes, evidence: Evidence, channels: list[int]):
    """Draw the image, the feature maps of the channels, and the arrow to the two sums of the feature maps."""
    draw(box(figure, 0.3, 3.5, 1.7), evidence.image, "image $I_0$")
    for axes, channel in zip(_column(figure, 2.95, 4.35), channels, strict=True):
        draw(axes, evidence.activations[channel], cmap=SALIENCY)
        axes.set_ylabel(f"channel {channel}", fontsize=9, labelpad=2)
    canvas.text(3.44, 6.15, "feature\nmaps $A^k$", ha="center")
    _flow(canvas, [(2.03, 4.35), (2.72, 4.35)])
    canvas.text(2.36, 4.45, "network", ha="center", fontsize=9)
    _flow(canvas, [(3.97, 4.35), (8.75, 4.35), (8.75, 6.23)])
    _flow(canvas, [(8.75, 4.35), (8.75, 2.35)])
    _words(canvas, 6.3, 4.35, "both sums take the feature maps $A^k$")


def _draw_gradient_branch(figure: Figure, canvas: Axes, evidence: Evidence, channels: list[int], theta: float):
    """Draw the gradients, the weights of Eq. 2 at each position, each with its scale, and their sum."""
    gradients = evidence.gradients[channels]
    weights = pixel_weights(denoise(evidence.gradients, theta))[channels]
    largest, heaviest = float(gradients.abs().max()) or 1.0, float(weights.max()) or 1.0
    columns = zip(_column(figure, 5, 6.5), _column(figure, 6.9, 6.5), gradients, weights, strict=True)
    for one, other, gradient, weight in columns:
        signs = draw(one, gradient, cmap=SIGNED, vmin=-largest, vmax=largest)
        shares = draw(other, weight, cmap="Greys", vmin=0, vmax=1.5 * heaviest)
    canvas.text(5.49, 8.23, "gradients $W^k$", ha="center")
    canvas.text(7.39, 8.23, r"$\alpha^k\circ$ReLU$(\widetilde{W}^k)$", ha="center")
    for x, drawn, ticks in ((6.05, signs, [-largest, 0, largest]), (7.95, shares, [0, heaviest])):
        bar = figure.colorbar(drawn, cax=box(figure, x, 7.2, 0.08, 0.98), ticks=ticks, format="%.2g")
        bar.ax.tick_params(labelsize=9, length=2, pad=1)
    _flow(canvas, [(3.97, 5.2), (4.95, 5.2)])
    _words(canvas, 4.44, 5.45, r"$\partial y^c/\partial A^k$")
    _flow(canvas, [(6.03, 6.49), (6.85, 6.49)])
    canvas.text(6.42, 6.57, "Eqs. 1, 3", ha="center", fontsize=9)
    _flow(canvas, [(7.93, 6.49), (8.48, 6.49)])
    _sign(canvas, 8.75, 6.49, "Σ")
    _flow(canvas, [(9.0, 6.49), (9.34, 6.49)])
    canvas.text(8.75, 6.8, "Eq. 2", ha="center", fontsize=9)


def _draw_region_branch(figure: Figure, canvas: Axes, evidence: Evidence, channels: list[int]):
    """Draw the masks, the masked images, their scores, and the sum of the feature maps with these weights."""
    masks = evidence.masks(channels)
    columns = zip(_column(figure, 5, 2.1), _column(figure, 6.4, 2.1), masks, evidence.masked(masks), strict=True)
    for mask_axes, masked_axes, mask, masked in columns:
        draw(mask_axes, mask, cmap=SALIENCY)
        draw(masked_axes, masked)
    canvas.text(5.49, 3.81, "masks $M^k$", ha="center")
    canvas.text(6.89, 3.81, r"$M^k\circ I_0$", ha="center")
    canvas.text(8.02, 3.81, "$W_R^k$", ha="center")
    for y, channel in zip((3.29, 2.09, 0.89), channels, strict=True):
        canvas.text(8.02, y, f"{evidence.region_scores[channel]:.3f}", ha="center", va="center")
        _flow(canvas, [(6.03, y), (6.36, y)])
        _flow(canvas, [(7.43, y), (7.78, y)])
        canvas.text(7.6, y + 0.08, "$f^c$", ha="center")
    _flow(canvas, [(3.97, 3.29), (4.95, 3.29)])
    _words(canvas, 4.44, 3.62, "enlarged,\nscaled")
    _flow(canvas, [(1.15, 3.45), (1.15, 0.15), (6.89, 0.15), (6.89, 0.37)])
    _flow(canvas, [(8.25, 2.09), (8.48, 2.09)])
    _sign(canvas, 8.75, 2.09, "Σ")
    canvas.text(8.82, 1.65, "line 5", ha="center", fontsize=9)
    canvas.text(8.02, 2.35, "line 4", ha="center", fontsize=9)
    _flow(canvas, [(9.0, 2.09), (9.34, 2.09)])


def _draw_maps(figure: Figure, canvas: Axes, evidence: Evidence, steps: UnionSteps):
    """Draw the three maps, the weighted sum of Eq. 6, and what the selection compares."""
    maps = {"denoising": (steps.denoised, 9.38, 5.74), "region": (steps.region, 9.38, 1.34)}
    for name, (cam, x, y) in {**maps, "united": (steps.united, 11.35, 3.32)}.items():
        draw(box(figure, x, y, 1.5), overlay(evidence.image, cam), LABELS[name], COLOURS[name])
    _saliency_bar_at(figure, 11.35, 7.6, 1.5)
    _flow(canvas, [(10.2, 5.7), (10.2, 4.32)])
    _flow(canvas, [(10.2, 3.2), (10.2, 3.82)])
    betas = {"denoising": (steps.beta_denoising, 4.85), "region": (steps.beta_region, 3.5)}
    for name, (beta, y) in betas.items():
        canvas.text(10.12, y, f"{BETAS[name]}\n= {beta:.3f}", ha="right", va="center")
    _sign(canvas, 10.2, 4.07, "+")
    _flow(canvas, [(10.45, 4.07), (11.3, 4.07)])
    canvas.text(10.85, 4.15, "Eq. 6", ha="center", fontsize=9)
    _flow(canvas, [(12.1, 3.27), (12.1, 2.87)])
    _flow(canvas, [(10.91, 2.09), (11.15, 2.09)])
    lines = [f"{BETAS['united']} = {steps.beta_united:.3f}", f"{BETAS['region']} = {steps.beta_region:.3f}"]
    text = "\n".join([*lines, "", f"Eq. 8 keeps {LABELS[steps.selected]}."])
    canvas.text(12.05, 1.35, text, ha="center", va="center", linespacing=1.5)


@styled()
def selection(evidence: Evidence, steps: UnionSteps) -> Figure:
    """Draw Fig. 2 of the UnionCAM paper: two maps, the image masked by each, their contributions, the selected map.

    The axis of the contributions shows the difference between them, and does not start at 0.

    Args:
        evidence: of one image.
        steps: what `union_cam` computed from it.
    """
    figure, canvas = _canvas(13, 5.4)
    canvas.add_patch(mpl.patches.Rectangle((4.95, 0.1), 4.95, 5.2, **BOX))
    canvas.text(9.8, 5.2, "AMS: selection", weight="bold", va="top", ha="right")
    betas = {"united": steps.beta_united, "region": steps.beta_region}
    axes = box(figure, 5.3, 0.75, 4.25, 4.1)
    for (name, beta), y in zip(betas.items(), (3.9, 1.35), strict=True):
        cam, label = getattr(steps, name), LABELS[name]
        draw(box(figure, 0.3, y - 1, 2), overlay(evidence.image, cam), label, COLOURS[name])
        masked = evidence.masked(cam[None])[0]
        draw(box(figure, 2.75, y - 1, 2), masked, rf"{label} $\circ\; I_0$", COLOURS[name])
        _flow(canvas, [(2.33, y), (2.72, y)])
        _flow(canvas, [(4.78, y), (5.25, y)])
        height = (y - 0.75) / 4.1
        axes.plot(beta, height, "o", color=COLOURS[name], markersize=10, zorder=4)
        text = rf"$f^c$ = {beta + evidence.black_score:.4f}, black {evidence.black_score:.4f}" + "\n"
        text = axes.text(0.5, height + 0.06, f"{text}{BETAS[name]} = {beta:.4f}", ha="center", va="bottom")
        text.set(transform=axes.transAxes, bbox={**BOX, "edgecolor": "none", "pad": 1})
    low, high = sorted(betas.values())
    reach = 0.4 * (high - low) or 0.01
    axes.vlines([low, high], 0, 1, color=COLOURS["neutral"], linestyle=":", linewidth=1)
    axes.annotate("", (low, 0.44), (high, 0.44), arrowprops={"arrowstyle": "<->", "color": "black"})
    axes.text((low + high) / 2, 0.45, f"difference {high - low:.4f}", ha="center", va="bottom")
    axes.set(xlim=(low - reach, high + reach), ylim=(0, 1), yticks=[])
    axes.set_xlabel(r"contribution $\beta$ (the axis does not start at 0)")
    axes.patch.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=4)
    title = rf"$L_{{\mathrm{{UnionCAM}}}}$: the {steps.selected} map"
    draw(box(figure, 10.35, 1.9, 2.35), overlay(evidence.image, steps.cam), title, COLOURS[steps.selected])
    _flow(canvas, [(9.92, 3.08), (10.31, 3.08)])
    _saliency_bar_at(figure, 10.35, 0.75, 2.35)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure, and axes behind all others that cover it and are measured in inches, for boxes and arrows."""
    figure = style.canvas(width, height)
    ground = figure.add_axes((0, 0, 1, 1), zorder=-1)
    ground.set(xlim=(0, width), ylim=(0, height))
    ground.set_axis_off()
    return figure, ground


def _column(figure: Figure, x: float, middle: float) -> list[Axes]:
    """Return the axes of three pictures, one below the other, around a height in inches."""
    return [box(figure, x, middle - 0.5 + shift, 0.98) for shift in (1.2, 0, -1.2)]


def _flow(canvas: Axes, points: Sequence[tuple[float, float]]):
    """Draw an arrow along points, in inches."""
    x, y = zip(*points[:-1], strict=True)
    canvas.plot(x, y, color=COLOURS["neutral"], linewidth=1.4, solid_capstyle="butt")
    look = {
        "arrowstyle": "-|>",
        "color": COLOURS["neutral"],
        "linewidth": 1.4,
        "shrinkA": 0,
        "shrinkB": 0,
        "mutation_scale": 13,
    }
    canvas.annotate("", points[-1], points[-2], arrowprops=look)


def _sign(canvas: Axes, x: float, y: float, sign: str):
    """Draw the sign of a sum in a circle."""
    canvas.add_patch(mpl.patches.Circle((x, y), 0.24, facecolor="white", edgecolor="black", zorder=3))
    canvas.text(x, y, sign, ha="center", va="center", fontsize=14, zorder=4)


def _words(canvas: Axes, x: float, y: float, words: str):
    """Write small words on a white ground over an arrow."""
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    canvas.text(x, y, words, ha="center", va="center", fontsize=9, bbox=ground)


def _saliency_bar_at(figure: Figure, x: float, y: float, width: float):
    """Draw the scale of an overlay with its lower left corner near (x, y), in inches."""
    hidden = box(figure, x, y, width, 0.8)
    hidden.set_axis_off()
    saliency_bar(figure, hidden, location="bottom", fraction=0.2, aspect=7 * width)
