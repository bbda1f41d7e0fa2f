"""What the three tabs of the explorer's page show, as HTML: pictures, what is said about them, and curves.

Each picture has an alternative text that says what the map says.
"""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from unioncam_lab.colours import COLOURS
from unioncam_lab.explorer import pictures
from unioncam_lab.explorer.page import FIGURES, TITLES, select, slider, target_of
from unioncam_lab.explorer.view import View

if TYPE_CHECKING:
    from torch import Tensor

    from unioncam_core import UnionSteps
    from unioncam_lab.explorer.explanation import Curves, Explanation

CONSTANT = "the network ends in a global average, so the gradient is constant in each channel"
NOT_POSITIVE = "in each channel that counts the percentile is 0 or less, and Equation 2 removes those values anyway"
INSIDE_OUT = (
    "The two β are negative in sum, so Equation 6 turns the united map inside out: it marks what hides the class."
)
BRUSH = "Brush on the picture. Arrow keys move it, the space bar paints, E erases, plus and minus change its size."
HOW_TO_PAINT = (
    "If the map tells the truth, covering what it marks most lowers the probability most. Pointer: drag to paint, with "
    "Shift to erase. Keyboard: the arrow keys move the brush, the space bar paints, E erases, + and − change its size."
)
WHAT_CURVES_SAY = (
    "Deletion takes the most salient pixels away first; a low area is good. Insertion starts with the blurred picture "
    "and shows them first; a high area is good. Both use the network alone: a good curve does not show that a map is "
    "on the object."
)
# Of the curves: the colour, and how the line is dashed.
LINES = {"deletion": ("#882255", "7 4"), "insertion": ("#0B6E4F", "none")}


def place(cam: np.ndarray) -> str:
    """Say in words where a map (H, W) is brightest, for readers who do not see it."""
    if cam.max() <= 0:
        return "empty"
    y, x = np.unravel_index(cam.argmax(), cam.shape)
    rows, columns = ("top", "middle", "bottom"), ("left", "centre", "right")
    row, column = rows[3 * y // cam.shape[0]], columns[3 * x // cam.shape[1]]
    where = "in the centre" if (row, column) == ("middle", "centre") else f"at the {row} {column}"
    return f"brightest {where}, and {100 * (cam >= 0.5).mean():.0f} % of the pixels are above one half"


def figure(src: str, alt: str, caption: str, colour: str = "", badge: str = "") -> str:
    """A picture with its caption, and a frame in its map's colour; a badge marks it in words."""
    style = f' style="--frame:{colour}"' if colour else ""
    mark = f'<strong class="badge">{badge}</strong>' if badge else ""
    return (
        f'<figure class="picture{" winner" if badge else ""}"{style}><img src="{src}" alt="{escape(alt)}" width="224" '
        f'height="224" decoding="sync"><figcaption>{mark}{caption}</figcaption></figure>'
    )


def arrow(label: str) -> str:
    """An arrow to the right, or downwards on a narrow screen, with words on it."""
    return (
        f'<div class="arrow"><span>{label}</span><svg viewBox="0 0 60 16" aria-hidden="true">'
        '<path d="M0 8H52" /><path class="head" d="M50 2L60 8L50 14Z" /></svg></div>'
    )


def flow(name: str, **parts: str) -> str:
    """Lay the parts of a flow out; the style sheet knows their names."""
    placed = "".join(f'<div class="at-{part}">{content}</div>' for part, content in parts.items())
    return f'<section class="flow" aria-label="{name}">{placed}</section>'


class Drawing:
    """The pictures of one view of an explanation, and what is said about them."""

    def __init__(self, view: View, explanation: "Explanation"):
        self.view, self.explanation = view, explanation
        self.target = target_of(view, explanation)
        self.image = explanation.image.cpu().numpy()
        self.name = explanation.classifier.classes[self.target]

    def map(self, cam: "Tensor", what: str, caption: str, colour: str = "", badge: str = "") -> str:
        """A map over the photo."""
        values, opacity = cam.cpu().numpy(), self.view.opacity
        src = self.explanation.drawn(
            ("overlay", hash(values.tobytes()), opacity),
            lambda: pictures.data_uri(pictures.overlay(self.image, values, opacity)),
        )
        alt = f"{what} for the class {self.name}: {place(values)}."
        return figure(src, alt, caption, COLOURS.get(colour, COLOURS["neutral"]), badge)

    def photo(self, caption: str) -> str:
        probability = float(self.explanation.probabilities[self.target])
        alt = f"The picture, {self.view.picture}. The network gives {self.name} the probability {probability:.3f}."
        src = self.explanation.drawn(("photo",), lambda: pictures.data_uri(pictures.photo(self.image)))
        return figure(src, alt, caption)

    def explain(self) -> str:
        """The tab with every step."""
        steps = self.union() if self.view.steps == "union_cam" else self.fusion()
        buttons = "".join(
            f'<button type="button" data-name="steps" value="{name}" '
            f'aria-pressed="{str(name == self.view.steps).lower()}">{TITLES[name]}</button>'
            for name in ("union_cam", "fusion_cam")
        )
        choice = f'<div class="choice" role="group" aria-label="Whose steps"><span>Every step of</span>{buttons}</div>'
        return choice + steps

    def below(self) -> str:
        """What stands below the flow."""
        return f"{self.channel()}{self.side_by_side()}{self.download()}"

    def features(self) -> str:
        """The feature maps with the largest region scores, each a button."""
        chosen, found, buttons = self.chosen_channel(), self.explanation, []
        for number in self.numbers():
            one = found.channel(self.target, number)
            src = pictures.data_uri(pictures.feature_map(one.activation.cpu().numpy()), "png")
            buttons.append(
                f'<button type="button" class="feature" data-name="channel" value="{number}" '
                f'aria-pressed="{str(number == chosen).lower()}"><img src="{src}" width="56" height="56" '
                f'alt="Feature map {number}, score"><span>{one.score:.2f}</span></button>'
            )
        count = len(found.evidence(self.target).activations)
        return (
            f'<div class="features" role="group" aria-label="Feature maps">{"".join(buttons)}'
            f"<p>feature maps A<sup>k</sup>: the {len(buttons)} of {count} whose masks keep most of the class score</p>"
            "</div>"
        )

    def numbers(self) -> list[int]:
        """The channels to show: those with the largest scores, and the chosen one."""
        numbers, chosen = self.explanation.channels(self.target, 8), self.view.channel
        known = 0 <= chosen < len(self.explanation.evidence(self.target).activations)
        return numbers if chosen in numbers or not known else [*numbers[:-1], chosen]

    def chosen_channel(self) -> int:
        numbers = self.numbers()
        return self.view.channel if self.view.channel in numbers else numbers[0]

    def union(self) -> str:
        """Algorithm 1 as a flow."""
        steps = self.explanation.union(self.target, self.view.theta, self.view.reading)
        won = steps.selected
        badges = {name: "selected" * (won == name) for name in ("united", "region")}
        compared = f"{steps.beta_united:.3f} {'&gt;' if won == 'united' else '≤'} {steps.beta_region:.3f}"
        drawn = flow(
            "The steps of UnionCAM",
            photo=self.photo("photo I<sub>0</sub>"),
            a1=arrow("network"),
            features=self.features(),
            a2=arrow("Eqs. 1–3"),
            a3=arrow("lines 4–5"),
            first=self.map(steps.denoised, "The denoised map", "L<sub>Denoising</sub>", "denoising"),
            second=self.map(steps.region, "The region map", "L<sub>Region</sub>", "region", badges["region"]),
            a4=arrow(f"β<sub>D</sub> = {steps.beta_denoising:.3f}"),
            a5=arrow(f"β<sub>R</sub> = {steps.beta_region:.3f}"),
            united=self.map(steps.united, "The united map", "L<sub>De-Region</sub>", "united", badges["united"]),
            a6=arrow(f"Eq. 8: β<br>{compared}"),
            last=self.map(steps.cam, "UnionCAM’s map", f"L<sub>UnionCAM</sub>: the {won} map", won),
        )
        return drawn + self.remarks(steps)

    def remarks(self, steps: "UnionSteps") -> str:
        """What a visitor should know about these maps."""
        view, found, said = self.view, self.explanation, []
        if view.theta and not found.theta_acts(self.target, view.theta, view.reading):
            why = CONSTANT if found.constant_gradients(self.target) else NOT_POSITIVE
            said.append(f"θ = {view.theta:g} changes no pixel of the denoised map here: {why}. Try another reading.")
        if steps.selected == "united" and steps.beta_denoising + steps.beta_region < 0:
            said.append(INSIDE_OUT)
        return "".join(f'<p class="remark" role="note">{each}</p>' for each in said)

    def fusion(self) -> str:
        """Fusion-CAM as a flow."""
        steps = self.explanation.fusion(self.target, self.view.theta)
        (first, second), (third, fourth) = steps.shares, steps.second_shares
        similarity = pictures.data_uri(pictures.agreement(steps.similarity.cpu().numpy()))
        alt = f"Where the two weighted maps agree: their similarity is {float(steps.similarity.min()):.2f} at least."
        return flow(
            "The steps of Fusion-CAM",
            photo=self.photo("photo I<sub>0</sub>"),
            a1=arrow("network"),
            features=self.features(),
            a2=arrow("Grad-CAM, θ"),
            a3=arrow("softmax"),
            first=self.map(steps.denoised, "The denoised Grad-CAM", "L<sub>D</sub>", "denoising"),
            second=self.map(steps.region, "The region map", "L<sub>R</sub>", "region"),
            a4=arrow(f"β<sub>D</sub> = {steps.beta_denoising:.3f},<br>share {first:.2f}"),
            a5=arrow(f"β<sub>R</sub> = {steps.beta_region:.3f},<br>share {second:.2f}"),
            united=self.map(steps.united, "The union map", "L<sub>U</sub>", "united")
            + figure(similarity, alt, "similarity s: blue where they disagree"),
            a6=arrow(f"β<sub>U</sub> = {steps.beta_united:.3f},<br>shares {third:.2f}, {fourth:.2f}"),
            last=self.map(steps.cam, "Fusion-CAM’s map", "L<sub>Fusion</sub>", "fusion_cam", "fused"),
        )

    def channel(self) -> str:
        """The chosen feature map: its mask, its masked photo, its score."""
        one = self.explanation.channel(self.target, self.chosen_channel())
        sign = "raises" if one.gradient > 0 else "lowers" if one.gradient < 0 else "does not change"
        mask, masked = pictures.mask(one.mask.cpu().numpy()), pictures.photo(one.masked.cpu().numpy())
        alt = f"The mask of channel {one.number}: {place(one.mask.cpu().numpy())}."
        seen = f"The photo behind the mask of channel {one.number}."
        gradient = f"{one.gradient:+.2g}".replace("-", "−")
        score = (
            f'<p class="score"><b>{one.score:.3f}</b> is the probability of {escape(self.name)} that this mask leaves: '
            f"the region weight W<sub>R</sub><sup>{one.number}</sup>. The channel’s mean gradient is "
            f"{gradient}, so more of this feature {sign} the class score.</p>"
        )
        parts = [
            figure(pictures.data_uri(mask), alt, f"mask of channel {one.number}"),
            arrow("∘ I<sub>0</sub>"),
            figure(pictures.data_uri(masked), seen, "what the network sees"),
            arrow("network"),
            score,
        ]
        return f'<section class="chain" aria-label="One feature map"><h2>One feature map</h2>{"".join(parts)}</section>'

    def side_by_side(self) -> str:
        """The maps of the chosen methods, each with the class probability that it keeps."""
        view, shown = self.view, []
        before = float(self.explanation.probabilities[self.target])
        for method in view.methods:
            cam = self.explanation.cam(method, self.target, view.theta, view.reading)
            kept = self.explanation.probability(self.target, cam)
            caption = f"{TITLES[method]}<br>keeps {kept:.3f} of {before:.3f}"
            shown.append(self.map(cam, f"The map of {TITLES[method]}", caption, method))
        boxes = "".join(
            f'<label class="check"><input type="checkbox" data-name="methods" value="{name}"'
            f"{' checked' if name in view.methods else ''}>{title}</label>"
            for name, title in TITLES.items()
        )
        return (
            '<section class="beside" aria-label="Methods side by side"><h2>Methods side by side</h2>'
            f'<div class="checks" role="group" aria-label="Methods to compare">{boxes}</div>'
            f'<div class="maps">{"".join(shown)}</div></section>'
        )

    def download(self) -> str:
        """The buttons that save what is shown."""
        buttons = "".join(
            f'<button type="button" data-name="download" value="{what}.{kind}">{title} as {kind.upper()}</button>'
            for what, title in FIGURES.items()
            for kind in ("png", "svg")
        )
        return (
            f'<section class="saving" aria-label="Save"><h2>Save</h2>{buttons}'
            '<button type="button" data-name="download" value="view.json">This view as JSON</button>'
            '<label class="file small"><span>Open a saved view</span>'
            '<input type="file" data-upload="view" accept=".json"></label>'
            f'<a class="address" href="?{escape(self.view.to_query())}">Address of this view</a></section>'
        )

    def paint(self, mask: "Tensor", after: "Tensor") -> str:
        """The tab that covers parts of the photo and says what the class probability becomes."""
        view, before = self.view, float(self.explanation.probabilities[self.target])
        now, share = float(after[self.target]), 100 * float(mask.float().mean())
        names, judged = self.explanation.classifier.classes, TITLES[view.judged]
        answers = ", ".join(f"{escape(names[i])} {float(after[i]):.2f}" for i in after.topk(3).indices.tolist())
        src = pictures.data_uri(pictures.photo(self.explanation.painted(mask, view.cover).cpu().numpy()))
        cam = self.explanation.cam(view.judged, self.target, view.theta, view.reading)
        marks = {
            "most": f"Cover the 10 % that {judged} marks most",
            "least": "Cover the 10 % that it marks least",
            "random": "Cover 10 % at random",
            "nothing": "Uncover all",
        }
        acts = "".join(
            f'<button type="button" data-name="mark" value="{act}">{text}</button>' for act, text in marks.items()
        )
        bars = "".join(
            f'<i class="{kind}" style="width:{100 * value:.1f}%"></i>' for kind, value in (("", before), ("now", now))
        )
        return (
            '<div class="painting"><div class="canvas">'
            f'<img class="base" src="{src}" alt="The picture with {share:.0f} % of it covered." width="448" '
            f'height="448" decoding="sync"><canvas data-keep="1" data-painter="{self.image.shape[1]}" tabindex="0" '
            f'role="application" aria-label="{BRUSH}"></canvas></div>'
            '<div class="told"><p class="answer-now" aria-live="polite"><span>Probability of '
            f"{escape(self.name)}</span><b>{before:.3f} → {now:.3f}</b><span>{change(before, now)}, with "
            f'{share:.1f} % of the pixels covered</span></p><div class="bars" aria-hidden="true">{bars}</div>'
            f"<p>The network now answers: {answers}.</p>"
            + select("judged", "Test the map of", TITLES.items(), view.judged)
            + f'<div class="acts">{acts}</div>'
            + select("cover", "Cover with", [(each, each) for each in ("black", "blurred", "mean colour")], view.cover)
            + '<label class="field"><span>Brush: <output data-unit=" px">40 px</output></span>'
            '<input type="range" data-brush="1" min="8" max="120" step="4" value="40"></label>'
            f"<p>{HOW_TO_PAINT}</p></div>"
            + self.map(cam, f"The map of {judged}", f"the map of {judged}", view.judged)
            + "</div>"
        )

    def metrics(self, curves: "Curves") -> str:
        """The tab with the deletion and the insertion curve, and the photo at one point of both."""
        view, at, shown = self.view, round(self.view.share / 100 * (len(curves.deletion) - 1)), []
        for name, verb in (("deletion", "deleted"), ("insertion", "inserted")):
            pixels, value = curves.images[name][at].cpu().numpy(), getattr(curves, name)[at]
            alt = f"The picture with the {view.share} % most salient pixels {verb}; the probability is {value:.3f}."
            caption = f"{view.share} % {verb}: probability {value:.3f}"
            shown.append(figure(pictures.data_uri(pictures.photo(pixels)), alt, caption))
        return (
            '<div class="measured"><div class="controls">'
            + select("judged", "The map of", TITLES.items(), view.judged)
            + slider("share", "Pixels changed, the most salient first:", view.share, 100, 1, " %")
            + f"</div>{chart(curves, at, self.name)}"
            + f'<div class="maps two">{"".join(shown)}</div><p>{WHAT_CURVES_SAY}</p></div>'
        )


def change(before: float, now: float) -> str:
    """Say how a probability changed."""
    if abs(now - before) < 0.0005:
        return "unchanged"
    return f"{'down' if now < before else 'up'} by {abs(now - before):.3f}"


def chart(curves: "Curves", at: int, name: str) -> str:
    """The two curves as a drawing, with a line at one of their points."""
    width, height, left, right, top = 640, 312, 60, 44, 16
    steps, across, up = len(curves.deletion) - 1, width - left - right, height - top - 58

    def point(i: float, value: float) -> tuple[float, float]:
        return left + across * i / steps, top + up * (1 - value)

    drawn = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x, y = point(value * steps, value)
        drawn.append(
            f'<path d="M{left} {y:.1f}H{width - right}" class="grid" />'
            f'<text x="{left - 8}" y="{y + 5:.1f}" text-anchor="end">{value:g}</text>'
            f'<text x="{x:.1f}" y="{top + up + 24}" text-anchor="middle">{100 * value:.0f} %</text>'
        )
    drawn.append(f'<path d="M{point(at, 0)[0]:.1f} {top}V{top + up}" class="at" />')
    for curve, (colour, dash) in LINES.items():
        values = getattr(curves, curve)
        path = " ".join("{:.1f},{:.1f}".format(*point(i, value)) for i, value in enumerate(values))
        x, y = point(at, values[at])
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}" />'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}" />'
        )
    areas = {curve: f"area {curves.area(curve):.1f} %" for curve in LINES}
    said = "; ".join(f"{curve}: {area}" for curve, area in areas.items())
    return (
        f'<figure class="chart"><svg viewBox="0 0 {width} {height}" role="img" aria-label="Probability of '
        f'{escape(name)} against the share of pixels changed. {said}.">{"".join(drawn)}'
        f'<text x="{left + across / 2}" y="{height - 6}" text-anchor="middle">share of the pixels changed</text></svg>'
        f'<figcaption><span class="key deletion">deletion: {areas["deletion"]}, low is good</span>'
        f'<span class="key insertion">insertion: {areas["insertion"]}, high is good</span>'
        f"<span>vertical: probability of {escape(name)}</span></figcaption></figure>"
    )
