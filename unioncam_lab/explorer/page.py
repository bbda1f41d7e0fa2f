"""The controls of the explorer's page, as HTML made from the view and the explanation.

A control names, in `data-name`, the part of the View that it changes; explorer.js sends its value.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from unioncam_lab.explorer.view import UPLOAD, View

if TYPE_CHECKING:
    from unioncam_lab.explorer.explanation import Explanation

# Without importing PyTorch, because a page is shown before that is loaded; a test compares them with methods.TITLES.
TITLES = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "score_cam": "Score-CAM",
    "group_cam": "Group-CAM",
    "union_cam": "UnionCAM",
    "fusion_cam": "Fusion-CAM",
    "random_map": "Random map",
    "center_blob": "Centred blob",
}
READINGS = {"channel": "of the channel", "positive": "of its positive gradients", "map": "of the map’s pixels"}
TABS = {"explain": "Explain", "paint": "Paint", "metrics": "Metrics"}
NETWORKS = {"efficientnet_lite0": "EfficientNet-Lite0, ImageNet", "shapes_vgg": "small VGG, drawn shapes"}
FIGURES = {"steps": "The steps", "comparison": "The methods side by side"}


def options(choices: Iterable[tuple[str, str]], chosen: str) -> str:
    """Return <option>s of (value, text)."""
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(text)}</option>'
        for value, text in choices
    )


def select(name: str, label: str, choices: Iterable[tuple[str, str]], chosen: str) -> str:
    listed = options(choices, chosen)
    return f'<label class="field"><span>{label}</span><select data-name="{name}">{listed}</select></label>'


def slider(name: str, label: str, value: float, largest: float, step: float, unit: str = "") -> str:
    return (
        f'<label class="field"><span>{label} <output data-unit="{unit}">{value:g}{unit}</output></span>'
        f'<input type="range" data-name="{name}" min="0" max="{largest:g}" step="{step:g}" value="{value:g}" '
        f'data-live="1"></label>'
    )


def source(view: View, pictures: Sequence[str], networks: Sequence[str], explanation: "Explanation | None") -> str:
    """The controls of picture, network and class."""
    shown = [(name, name) for name in pictures] + ([(UPLOAD, "your photo")] if view.picture == UPLOAD else [])
    parts = [
        '<fieldset class="group"><legend>Picture and network</legend>',
        select("picture", "Picture", shown, view.picture),
        '<div class="field"><label class="file" data-drop="1"><span>Your photo: choose a file, or drop it here</span>'
        '<input type="file" data-upload="photo" accept="image/*" aria-describedby="limit"></label>'
        '<small id="limit">JPEG, PNG, WebP, GIF, BMP or TIFF, at most 8 MB. It stays in memory on the computer '
        "that runs this page.</small></div>",
        select("classifier", "Network", [(name, NETWORKS.get(name, name)) for name in networks], view.classifier),
        "</fieldset>",
    ]
    parts.append('<fieldset class="group" role="radiogroup"><legend>Class to explain</legend>')
    if explanation is None:
        return "".join([*parts, "<p>The network has not answered yet.</p></fieldset>"])
    target, names = target_of(view, explanation), explanation.classifier.classes
    answers = explanation.answers()
    if target not in [each for each, _ in answers]:
        answers.append((target, float(explanation.probabilities[target])))
    for each, probability in answers:
        parts.append(
            f'<label class="answer"><input type="radio" name="target" data-name="target" value="{each}"'
            f"{' checked' if each == target else ''}><span>{escape(names[each])}</span>"
            f'<meter min="0" max="1" value="{probability:.3f}" aria-hidden="true"></meter>'
            f"<b>{probability:.3f}</b></label>"
        )
    listed = "".join(f"<option>{escape(name)}</option>" for name in dict.fromkeys(names))
    parts.append(
        '<label class="field"><span>Another class, by name</span><input type="search" data-name="class" '
        f'list="classes" placeholder="one of {len(names)}" autocomplete="off"></label>'
        f'<datalist id="classes">{listed}</datalist></fieldset>'
    )
    return "".join(parts)


def knobs(view: View) -> str:
    """The controls that answer at once."""
    parts = ['<fieldset class="group"><legend>What you can change at once</legend>']
    parts.append(slider("theta", "θ, the denoising percentile:", view.theta, 100, 1))
    parts.append(select("reading", "Equation 1 takes the percentile", READINGS.items(), view.reading))
    parts.append(slider("opacity", "Opacity of the maps:", round(100 * view.opacity), 100, 1, " %"))
    parts.append("</fieldset>")
    return "".join(parts)


def tablist(view: View) -> str:
    buttons = "".join(
        f'<button type="button" role="tab" id="tab-{name}" data-name="tab" value="{name}" aria-controls="panel" '
        f'aria-selected="{str(name == view.tab).lower()}" tabindex="{0 if name == view.tab else -1}">{title}</button>'
        for name, title in TABS.items()
    )
    return f'<div role="tablist" aria-label="Views">{buttons}</div>'


def working(said: str, share: float | None) -> str:
    """A moving bar, with the share in [0, 1] that is done if it is known, and the button that cancels."""
    value = "" if share is None else f' value="{share:.3f}"'
    percent = "" if share is None else f" {100 * share:.0f} %"
    cancel = "" if share is None else '<button type="button" data-name="cancel" value="1">Cancel</button>'
    bar = f'<progress max="1"{value}></progress>'
    return f'<div class="working"><label>{escape(said)}{percent} {bar}</label>{cancel}</div>'


def cancelled() -> str:
    """What stands in place of the bar after a visitor has cancelled."""
    again = '<button type="button" data-name="again" value="1">Explain it</button>'
    return f'<div class="working"><p>Cancelled.</p>{again}</div>'


def finished(explanation: "Explanation", seconds: float) -> str:
    """What stands in place of the bar when everything can be changed at once."""
    live = int(explanation.evidence(explanation.first).live.sum())
    return f'<p class="finished">{live} masked pictures were scored; ready after {seconds:.1f} s.</p>'


def target_of(view: View, explanation: "Explanation") -> int:
    """The class of a view; the network's first answer if the view has none, or one that this network lacks."""
    return view.target if 0 <= view.target < len(explanation.classifier.classes) else explanation.first
