"""Tests of figures: what they draw and save, their alternative text, and that they do not change settings."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from matplotlib.patches import ConnectionPatch, FancyArrowPatch
from PIL import Image
from tiny import TinyCNN, explain

from fusioncam import fusion_cam
from unioncam_core import denoise, denoised_cam, min_max, union_cam
from unioncam_lab import figures, report, tables
from unioncam_lab.figures import maps, style
from unioncam_lab.methods import grad_cam

ROOT = Path(__file__).parent.parent


@pytest.fixture
def explained(images):
    (evidence,) = explain(TinyCNN(2), images[:1])
    return evidence, union_cam(evidence)


@pytest.fixture(autouse=True)
def _settings():
    """Each test draws under foreign settings, which must remain and must not appear in a figure."""
    with mpl.rc_context({"figure.dpi": 50}):
        before = dict(mpl.rcParams), str(pd.options.d)
        yield
        assert {plt.figure(number).dpi for number in plt.get_fignums()} <= {100}
        plt.close("all")
        assert (dict(mpl.rcParams), str(pd.options.d)) == before


def assert_readable(figure):
    """No text is cut off at the edge of the figure, and no two texts overlap."""
    with figures.styled():
        figure.draw_without_rendering()
    texts = [*figure.texts, figure._suptitle, figure._supxlabel]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    boxes = {text.get_text(): text.get_window_extent() for text in set(texts) - {None} if text.get_text()}
    for text, box in boxes.items():
        inside = figure.bbox.padded(1)
        assert inside.contains(box.x0, box.y0), f"{text} is cut off"
        assert inside.contains(box.x1, box.y1), f"{text} is cut off"
    for (one, first), (other, second) in combinations(boxes.items(), 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), f"{one} lies on {other}"


def arrays(figure):
    """Return the array of the first image in each of a figure's axes that has an image."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def frame(axes):
    """Return the colour of the frame that `draw` gave to axes, and whether it is thick."""
    spine = axes.spines["left"]
    return mpl.colors.to_hex(spine.get_edgecolor()).upper(), spine.get_linewidth() > 1


# The package


@pytest.mark.slow
def test_importing_and_drawing_change_no_setting(tmp_path):
    code = """
import matplotlib as mpl, pandas as pd
def state():
    return dict(mpl.rcParams), str(pd.options.d), mpl.colors.to_rgb("b")
before = state()
from unioncam_lab import figures
assert state() == before, "imported"
import numpy, seaborn
theme = seaborn.axes_style(), seaborn.plotting_context(), seaborn.color_palette()
figures.show(figures.row({"noise": numpy.zeros((4, 4, 3))}), "noise", alt="nothing")
assert state() == before, "drawn"
assert (seaborn.axes_style(), seaborn.plotting_context(), seaborn.color_palette()) == theme
"""
    environment = os.environ | {"UNIONCAM_FIGURES": str(tmp_path), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_face_has_what_notebooks_and_the_report_use_and_no_more():
    text = Path(report.__file__).read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text += "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert set(re.findall(r"\bfigures\.(\w+)", text)) == set(figures.__all__)


def test_everything_on_the_face_is_tested_here():
    tested = set(re.findall(r"\bfigures\.(\w+)", Path(__file__).read_text(encoding="utf-8")))
    assert set(figures.__all__) - tested == set()


# style


def test_show_saves_displays_and_closes(tmp_path, monkeypatch, images):
    monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path / "new"))
    shown = []
    monkeypatch.setattr(style, "display", lambda data, **options: shown.append((data, options["metadata"])))
    figures.show(figures.row({"one": torch.rand(3, 240, 240)}), "name", alt="What is to be seen")
    figures.show(figures.growth({"one": ("x", [(1, 2), (2, 4)])}), "lines", alt="Lines")
    names = {"name.png", "name.svg", "lines.png", "lines.svg"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    assert Image.open(tmp_path / "new" / "name.png").text["Description"] == "What is to be seen"
    assert "What is to be seen" in (tmp_path / "new" / "name.svg").read_text()
    for (data, metadata), kind, alt in zip(shown, ("jpeg", "png"), ("What is to be seen", "Lines"), strict=True):
        stored = Image.open(io.BytesIO(base64.b64decode(data[f"image/{kind}"])))
        assert stored.format == kind.upper(), "noise is smaller as JPEG, lines are smaller as PNG"
        assert set(data) == {f"image/{kind}", "text/plain"}
        assert data["text/plain"] == metadata[f"image/{kind}"]["alt"] == alt
        assert stored.width == 2 * metadata[f"image/{kind}"]["width"], "200 dots an inch"
    assert plt.get_fignums() == []


def test_a_wide_figure_is_stored_with_a_limited_width(tmp_path, monkeypatch, images):
    monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path))
    shown = []
    monkeypatch.setattr(style, "display", lambda data, **options: shown.append(data))
    figures.show(figures.row(dict.fromkeys("abcdef", images[0])), "wide", alt="Six pictures")
    (kind,) = set(shown[0]) - {"text/plain"}
    assert abs(Image.open(io.BytesIO(base64.b64decode(shown[0][kind]))).width - 1800) <= 1


def test_explore_shows_controls_to_a_reader_and_a_still_figure_to_nobody(tmp_path, monkeypatch, images):
    monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path))
    shown, drawn = [], []
    monkeypatch.setattr(style, "display", lambda data, **options: shown.append(data))

    def draw(image, theta):
        drawn.append((image, theta))
        return figures.row({f"{theta}": images[int(image == "second")]})

    choices = {"image": ["first", "second"], "theta": [10, 0, 10, 50]}
    figures.explore(draw, choices, figures.row({"still": images[2]}), "still", alt="A still picture")
    assert (drawn, shown[0]["text/plain"]) == ([], "A still picture")
    assert (tmp_path / "still.png").exists()

    monkeypatch.setattr(style, "someone_is_there", lambda: True)
    figures.explore(draw, choices, figures.row({"still": images[2]}), "other", alt="A still picture")
    image, theta, picture = shown[1].children
    assert drawn == [("first", 10)], "the first values are those at the start"
    assert list(theta.options) == [0, 10, 50], "a slider has its numbers in order"
    before = picture.value
    image.value, theta.value = "second", 50
    assert drawn[1:] == [("second", 10), ("second", 50)]
    assert picture.value != before
    assert plt.get_fignums() == []
    assert not (tmp_path / "other.png").exists()


def test_the_same_figure_is_the_same_file(tmp_path, monkeypatch, images):
    for folder in ("first", "second"):
        monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path / folder))
        figures.show(figures.row({"one": images[0]}), "name", alt="")
    for suffix in ("png", "svg"):
        assert (tmp_path / f"first/name.{suffix}").read_bytes() == (tmp_path / f"second/name.{suffix}").read_bytes()


def test_the_style_is_that_of_a_block_or_of_a_function():
    outside = mpl.rcParams["axes.titlesize"]
    with figures.styled():
        assert mpl.rcParams["axes.titlesize"] == 11
        cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
        assert cycle == list(dict.fromkeys(figures.COLOURS.values())), "each colour once"
    assert mpl.rcParams["axes.titlesize"] == outside != 11
    with pytest.raises(KeyError), figures.styled():
        raise KeyError
    assert mpl.rcParams["axes.titlesize"] == outside, "an error leaves nothing behind either"


def test_a_figure_is_saved_in_the_style_in_which_it_was_made(tmp_path, monkeypatch, images):
    """Ticks are made when a figure is drawn: those of seaborn's style are 6 points long, Matplotlib's own 3.5."""
    monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path))
    figure = figures.growth({"one": ("x", [(1, 2), (2, 4)])})
    figures.show(figure, "name", alt="")
    assert {tick.tick1line.get_markersize() for tick in figure.axes[0].xaxis.get_major_ticks()} == {6}


def test_a_methods_options_do_not_change_its_colour():
    assert style.method_colour("union_cam:theta=50") == figures.COLOURS["union_cam"]
    assert style.method_colour("LayerCAM") == figures.COLOURS["neutral"]
    methods = ("grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam", "union_cam", "fusion_cam", "fake_cam")
    assert len({figures.COLOURS[method] for method in methods}) == len(methods)


@pytest.mark.slow
def test_a_reader_is_there_where_the_front_end_can_ask(tmp_path):
    """JupyterLab allows a cell to ask its reader for input, and a run without a screen does not."""
    manager, kernel = start_new_kernel(cwd=tmp_path)
    try:
        kernel.execute_interactive("from unioncam_lab.figures import style", timeout=120)
        for asked in (True, False):
            printed = []
            code = "print(style.someone_is_there())"
            kernel.execute_interactive(code, allow_stdin=asked, timeout=60, output_hook=printed.append)
            assert [m["content"]["text"] for m in printed if m["msg_type"] == "stream"] == [f"{asked}\n"]
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


# maps


def test_overlay_is_the_grey_image_where_nothing_is_salient_and_coloured_where_something_is(images):
    cam = torch.zeros(12, 12)
    cam[6:] = 1
    blend = figures.overlay(images[0], cam)
    grey = images[0].mean(0).numpy()
    np.testing.assert_allclose(blend[:6], grey[:6, :, None].repeat(3, 2), atol=1e-6)
    assert (blend[6:, :, 0] - blend[6:, :, 2]).min() > 0.1, "inferno ends in yellow"
    assert 0 <= blend.min() <= blend.max() <= 1


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_a_picture_is_drawn_with_a_frame_a_title_and_no_ticks(images):
    with figures.styled():
        _, (image, cam) = plt.subplots(1, 2)
    figures.draw(image, images[0])
    drawn = figures.draw(cam, torch.eye(2), "a map", figures.COLOURS["united"], cmap=style.SALIENCY, vmax=2)
    np.testing.assert_array_equal(image.images[0].get_array(), images[0].float().permute(1, 2, 0))
    assert drawn.get_array().tolist() == [[1, 0], [0, 1]]
    assert (drawn.get_cmap().name, drawn.get_clim()) == ("inferno", (0, 2))
    assert [frame(axes) for axes in (image, cam)] == [("#000000", False), (figures.COLOURS["united"], True)]
    assert (cam.get_title(), cam.title.get_color()) == ("a map", style.PARAMETERS["text.color"]), "as all text"
    assert len(image.get_xticks()) == len(image.get_yticks()) == 0


def test_rounding_outside_0_to_1_is_clamped(images):
    image = (images[0] - 0.5) * 1.0005 / (images[0] - 0.5).abs().max() / 2 + 0.5
    assert image.min() < 0 or image.max() > 1
    np.testing.assert_allclose(maps.pixels(image), image.clamp(0, 1).permute(1, 2, 0), atol=1e-6)


def test_an_image_outside_0_to_1_is_scaled_as_a_whole(images):
    normalized = (images[0] - 0.45) / 0.225
    expected = (images[0] - images[0].min()) / (images[0].max() - images[0].min())
    np.testing.assert_allclose(maps.pixels(normalized), expected.permute(1, 2, 0), atol=1e-6)
    assert maps.pixels(torch.full((3, 2, 2), -4.0)).max() == 0, "a constant image is black"


def test_one_channel_is_grey_and_of_others_the_mean_is_scaled(images):
    grey = images[0, :1]
    np.testing.assert_allclose(maps.pixels(grey), grey[0, :, :, None].repeat(1, 1, 3), atol=1e-6)
    np.testing.assert_allclose(maps.pixels(4 * grey - 2), maps.pixels(min_max(grey)), atol=1e-6)
    for channels in (2, 5):
        many = torch.rand(channels, 4, 6, generator=torch.Generator().manual_seed(0))
        mean = many.numpy().mean(0)
        expected = (mean - mean.min()) / np.ptp(mean)
        np.testing.assert_allclose(maps.pixels(many), expected[..., None].repeat(3, 2), atol=1e-6)
    with figures.styled():
        _, axes = plt.subplots()
    np.testing.assert_array_equal(figures.draw(axes, many).get_array(), maps.pixels(many))


def test_an_overlay_takes_arrays_and_any_channels(images):
    cam, grey = images[1, 0], images[0, :1]
    expected = figures.overlay(images[0], cam)
    np.testing.assert_array_equal(figures.overlay(images[0].numpy(), cam.numpy()[::-1].copy()[::-1]), expected)
    np.testing.assert_allclose(figures.overlay(grey, cam), figures.overlay(grey.expand(3, -1, -1), cam))
    with pytest.raises(ValueError, match=r"A map is \[4, 12\]; it must have the image's size \[12, 12\]"):
        figures.overlay(images[0], cam[:4])
    with pytest.raises(ValueError, match="A map is NaN or infinite at 144 pixels"):
        figures.overlay(images[0], np.full((12, 12), np.nan))


def test_maps_and_outlines_can_be_arrays(explained):
    evidence, steps = explained
    mask = np.zeros((12, 12), dtype=np.uint8)
    mask[2:6, 3:9] = 255
    figure = figures.comparison({"a": (evidence, {"union_cam": steps.cam.numpy()})}, list("vwxyz"), None, {"a": [mask]})
    np.testing.assert_array_equal(arrays(figure)[1], figures.overlay(evidence.image, steps.cam))
    outline = figure.axes[0].collections[1].get_paths()[0].get_extents().extents
    np.testing.assert_allclose(outline, [2.5, 1.5, 8.5, 5.5])
    drawn = arrays(figures.panels({"photo": evidence.image, "map": (evidence.image, steps.cam.numpy())}))
    np.testing.assert_array_equal(drawn[1], figures.overlay(evidence.image, steps.cam))


def test_a_row_is_as_wide_as_its_pictures(images):
    figure = figures.row({"one": images[0], "two\nlines": torch.ones(4, 4), "three": images[1]}, width=2, vmin=0)
    assert titles(figure) == ["one", "two\nlines", "three"]
    assert figure.get_size_inches().tolist() == [6, 2 + 2 * 0.22]
    np.testing.assert_array_equal(arrays(figure)[2], images[1].float().permute(1, 2, 0))
    assert_readable(figure)


def test_the_scale_has_the_colours_that_an_overlay_has(images):
    with figures.styled():
        figure, axes = plt.subplots(1, 2)
    for options, turned in (({}, False), ({"location": "bottom"}, True)):
        figures.saliency_bar(figure, axes, **options)
        colours = np.asarray(figure.axes[-1].images[0].get_array())
        colours = colours.swapaxes(0, 1) if turned else colours
        for grey, column in ((0.2, 0), (0.5, 15), (0.8, 30)):
            for level, line in ((0, 0), (0.5, 50), (1, 100)):
                flat = torch.full((3, 2, 2), grey)
                expected = figures.overlay(flat, torch.full((2, 2), level))[0, 0]
                np.testing.assert_allclose(colours[line, column], expected, atol=1e-6)


def test_a_comparison_has_its_methods_colours_captions_and_outlines(explained):
    evidence, steps = explained
    cams = {"grad_cam": steps.denoised, "union_cam:theta=50": steps.cam}
    mask = torch.zeros(12, 12)
    mask[2:6, 3:9] = 1
    captions = {name: {method: f"{name} {k}" for k, method in enumerate(cams)} for name in "ab"}
    figure = figures.comparison(dict.fromkeys("ab", (evidence, cams)), list("vwxyz"), captions, {"a": [mask], "b": []})
    answer = f"{'vwxyz'[evidence.target]}: {evidence.probability:.2f}"
    assert titles(figure)[:6] == [answer, "Grad-CAM", "UnionCAM (θ = 50)", answer, "", ""], "methods are named once"
    assert [axes.get_xlabel() for axes in figure.axes[:6]] == ["", "a 0", "a 1", "", "b 0", "b 1"]
    colours = [("#000000", False), (figures.COLOURS["grad_cam"], True), (figures.COLOURS["union_cam"], True)]
    assert [frame(axes) for axes in figure.axes[:6]] == 2 * colours
    assert figure.axes[6].get_ylabel() == "saliency"
    np.testing.assert_array_equal(arrays(figure)[5], figures.overlay(evidence.image, steps.cam))
    for axes in figure.axes[:3]:
        black, white = axes.collections
        (outline,) = white.get_paths()
        assert outline.get_extents().extents.tolist() == [2.5, 1.5, 8.5, 5.5], "half a pixel outside of the mask"
        assert black.get_linewidth()[0] > white.get_linewidth()[0]
    assert all(len(axes.collections) == 0 for axes in figure.axes[3:6])


def test_a_filmstrip_names_its_rows_at_the_left(images):
    strips = {"first": [("a", images[0]), ("b", images[1])], "second": [("c", images[2]), ("d", images[0])]}
    figure = figures.filmstrip(strips, width=2)
    assert titles(figure) == ["a", "b", "c", "d"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["first", "", "second", ""]
    np.testing.assert_array_equal(arrays(figure)[2], images[2].float().permute(1, 2, 0))
    assert figure.get_size_inches().tolist() == [4.3, 4.6]
    assert_readable(figure)


def test_gallery_frames_the_selected_map(explained):
    steps = explained[1]
    figure = figures.gallery({"photo": explained}, list("abcde"))
    frames = {axes.get_title().split(",")[0]: axes.spines["left"].get_linewidth() for axes in figure.axes[1:]}
    label = {"united": r"$L_{\mathrm{De\text{-}Region}}$", "region": r"$L_{\mathrm{Region}}$"}[steps.selected]
    assert max(frames, key=frames.get) == label
    assert sorted(frames.values())[1] < frames[label]
    assert all(len(axes.collections) == 0 for axes in figure.axes[:4])
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[2:6, 3:9] = True
    outlined = figures.gallery({"photo": explained}, list("abcde"), {"photo": mask})
    assert all(len(axes.collections) == 2 for axes in outlined.axes[:4])


def test_panels_are_images_and_maps_over_images_with_one_scale(explained):
    evidence, steps = explained
    plain = figures.panels({"a": evidence.image, "b": evidence.image})
    assert_readable(plain)
    assert len(plain.axes) == 2, "no map, no scale"
    rows = {"photo\n0.50": evidence.image, "cat\n0.25": (evidence.image, steps.cam)}, {"dog\n0.10": evidence.image}
    figure = figures.panels(*rows)
    assert_readable(figure)
    assert [axes.get_title() for axes in figure.axes] == ["photo\n0.50", "cat\n0.25", "dog\n0.10", "", ""]
    assert [axes.axison for axes in figure.axes] == [True, True, True, False, True]
    drawn = arrays(figure)
    assert np.array_equal(drawn[0], maps.pixels(evidence.image))
    assert np.array_equal(drawn[1], figures.overlay(evidence.image, steps.cam))
    assert figure.axes[-1].get_ylabel() == "saliency"


def test_a_strip_has_the_selected_map_below_each_photo(explained):
    evidence, steps = explained
    figure = figures.strip({"one": explained, "two": explained}, list("abcde"))
    answer = f"{'abcde'[evidence.target]}: {evidence.probability:.2f}"
    assert titles(figure)[:4] == [answer, answer, "", ""]
    for image in arrays(figure)[2:4]:
        np.testing.assert_array_equal(image, figures.overlay(evidence.image, steps.cam))
    y, x = divmod(int(steps.cam.argmax()), 12)
    for axes in figure.axes[2:4]:
        assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines} == {(x, y)}, "its brightest pixel"


# steps


@pytest.mark.slow
def test_architecture_shows_the_intermediate_numbers_of_the_best_channels(explained):
    evidence, steps = explained
    figure = figures.architecture(evidence, steps)
    texts = " ".join(text.get_text() for text in figure.axes[0].texts)
    for beta in (steps.beta_denoising, steps.beta_region, steps.beta_united):
        assert f"{beta:.3f}" in texts
    scores, channels = evidence.region_scores.topk(3)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == [
        f"channel {k}" for k in channels.tolist()
    ]
    assert all(f"{score:.3f}" in texts for score in scores.tolist())
    assert all(f"{module}: " in texts for module in ("AMD", "AMU", "AMS"))
    drawn = arrays(figure)
    for channel, mask in zip(channels.tolist(), evidence.masks(channels), strict=True):
        for expected in (evidence.activations[channel], evidence.gradients[channel], mask):
            assert any(image.shape == expected.shape and np.allclose(image, expected, atol=1e-6) for image in drawn)
    assert_readable(figure)


def test_the_papers_figures_are_saved_without_a_warning(explained, tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path))
    monkeypatch.setattr(style, "display", lambda data, **options: None)
    figures.show(figures.selection(*explained), "selection", "Two maps and their contributions")
    assert [str(warning.message) for warning in recwarn] == []


def test_selection_marks_the_selected_map_and_the_difference(explained):
    evidence, steps = explained
    figure = figures.selection(evidence, steps)
    assert f"the {steps.selected} map" in " ".join(titles(figure))
    (axis,) = (axes for axes in figure.axes if "contribution" in axes.get_xlabel())
    betas = [steps.beta_united, steps.beta_region]
    assert [line.get_xdata()[0] for line in axis.lines] == betas
    assert f"difference {abs(betas[0] - betas[1]):.4f}" in [text.get_text() for text in axis.texts]
    low, high = axis.get_xlim()
    assert low < min(betas) < max(betas) < high < low + 2 * abs(betas[0] - betas[1]), "it shows the difference"
    masked = arrays(figure)[1]
    np.testing.assert_allclose(masked, maps.pixels(evidence.image * steps.united), atol=1e-6)
    assert_readable(figure)


def test_a_schematic_has_the_sizes_of_its_stages_and_ends_with_the_most_probable_classes(images):
    generator = torch.Generator().manual_seed(0)
    stages = [torch.rand(4 * 2**i, 8 // 2**i, 8 // 2**i, generator=generator) for i in range(3)]
    logits = torch.tensor([0.0, 3.0, -1.0, 2.0, 1.0])
    figure = figures.network_schematic(images[0], stages, logits, list("abcde"))
    assert_readable(figure)
    drawn = arrays(figure)
    varied = stages[-1][stages[-1].flatten(1).std(1).argmax()]
    assert any(np.array_equal(array, varied) for array in drawn), "the real feature maps"
    assert any(np.array_equal(array, stages[-1].mean((1, 2))[:, None]) for array in drawn)
    written = "\n".join(text.get_text() for text in figure.texts)
    for size in (
        "photo\n3 × 12 × 12",
        "4 channels\n8 × 8",
        "8 channels\n4 × 4",
        "$K$ = 16\n2 × 2 positions",
        "5\nlogits",
    ):
        assert size in written
    (bars,) = [axes for axes in figure.axes if axes.containers]
    np.testing.assert_allclose([bar.get_width() for bar in bars.containers[0]], logits.softmax(0)[[1, 3, 4]])
    assert [text.get_text() for text in bars.texts if len(text.get_text()) == 1] == ["b", "d", "e"]


def test_the_responses_of_a_channel_have_one_scale_in_a_row(explained):
    evidence, _ = explained
    louder = replace(evidence, activations=2 * evidence.activations)
    figure = figures.channel_responses({"one": evidence, "two": louder}, {2: "second", 4: "fourth"})
    assert_readable(figure)
    tops = evidence.activations[[2, 4]].amax((1, 2))
    assert titles(figure)[:4] == [f"{factor * top:.1f}" for top in tops.tolist() for factor in (1, 2)]
    assert figure.axes[2].get_ylabel() == "fourth"
    quiet, loud = arrays(figure)[:2]
    enlarged = (
        torch.nn.functional.interpolate(evidence.activations[None, [2]], (12, 12), mode="bilinear")[0, 0] / tops[0]
    )
    np.testing.assert_allclose(loud, figures.overlay(evidence.image, enlarged), atol=1e-5)
    np.testing.assert_allclose(quiet, figures.overlay(evidence.image, enlarged / 2), atol=1e-5)


def test_the_weighted_sum_is_drawn_from_the_feature_maps_to_the_map_over_the_photo(explained):
    evidence, _ = explained
    weights = evidence.gradients.mean((1, 2))
    figure = figures.weighted_sum(evidence, [5, 0])
    assert_readable(figure)
    total = (weights[:, None, None] * evidence.activations).sum(0)
    photo, summed, rectified, last, *parts = arrays(figure)[:8]
    np.testing.assert_allclose(photo, maps.pixels(evidence.image))
    np.testing.assert_allclose(summed, total, atol=1e-6)
    np.testing.assert_allclose(rectified, total.relu(), atol=1e-6)
    np.testing.assert_allclose(last, figures.overlay(evidence.image, grad_cam(evidence)), atol=1e-5)
    for channel, (feature, product) in zip((5, 0), (parts[:2], parts[2:]), strict=True):
        np.testing.assert_allclose(feature, evidence.activations[channel], atol=1e-6)
        np.testing.assert_allclose(product, weights[channel] * evidence.activations[channel], atol=1e-6)
    assert "of all 6 channels" in " ".join(titles(figure))
    negative = int((total < 0).sum())
    assert (f"sets {negative}\nnegative" if negative else "no sum\nis negative") in " ".join(titles(figure))
    arrows = [patch for patch in figure.artists if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 2 * 3 + 2
    assert all(patch._posA_posB[0][0] < patch._posA_posB[1][0] for patch in arrows), "from left to right"


def test_masking_has_each_channels_map_mask_and_masked_image_with_its_score(explained):
    evidence, _ = explained
    channels = evidence.live.nonzero().flatten()[:2].tolist()
    masks, scores = evidence.masks(channels), evidence.region_scores[channels].tolist()
    for shown in (channels, channels[:1]):
        figure = figures.masking(evidence, shown)
        assert_readable(figure)
        drawn, count = arrays(figure), len(shown)
        for i, channel in enumerate(shown):
            np.testing.assert_allclose(drawn[i], evidence.activations[channel], atol=1e-6)
            np.testing.assert_allclose(drawn[count + i], masks[i], atol=1e-6)
            np.testing.assert_allclose(drawn[2 * count + i], maps.pixels(evidence.image * masks[i]), atol=1e-6)
            assert titles(figure)[2 * count + i] == f"$f^c$ = {scores[i]:.3f}"


def test_channel_weights_are_shares_of_the_largest_in_a_panel_for_each_method():
    gradient = torch.tensor([-0.002, 0.001, 0.004])
    weights = {"Grad-CAM": ("grad_cam", gradient), "++": ("grad_cam_plus_plus", torch.tensor([0.0, 1.0, 2.0]))}
    figure = figures.channel_weights(gradient, weights)
    assert_readable(figure)
    assert titles(figure) == ["Grad-CAM", "++"]
    first, second = (axes.collections[0] for axes in figure.axes)
    np.testing.assert_allclose(first.get_offsets(), [[-2, -0.5], [1, 0.25], [4, 1]], rtol=1e-6)
    np.testing.assert_allclose(second.get_offsets(), [[-2, 0], [1, 0.5], [4, 1]], rtol=1e-6)
    colours = [mpl.colors.to_hex(dots.get_facecolor()[0]).upper() for dots in (first, second)]
    assert colours == [figures.COLOURS[name] for name in ("grad_cam", "grad_cam_plus_plus")]


def test_the_rule_of_fusion_lies_between_the_mean_and_the_larger_value():
    figure = figures.fusion_rule([(0.75, 0.25), (0.0, 0.9)])
    mean, fused, larger = arrays(figure)[:3]
    at = 200, 100  # L2 = 1, L1 = 1/2
    assert [float(values[at]) for values in (larger, fused, mean)] == [1, 0.75 + 0.125, 0.75]
    assert float(fused[100, 50]) == 0.375 + 0.75 * 0.25 / 2, "L2 = 1/2, L1 = 1/4: (1 - d) d / 2 is added"
    assert ((mean - 1e-6 <= fused) & (fused <= larger + 1e-6)).all()
    assert titles(figure)[:4] == ["mean", "Fusion-CAM", "larger value", "added to the mean"]
    shown = [[text.get_text() for text in axes.texts if "." in text.get_text()] for axes in figure.axes[:3]]
    assert shown == [["0.500", "0.450"], ["0.625", "0.495"], ["0.750", "0.900"]]
    added = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[3].lines if len(line.get_xdata()) > 1}
    assert added["larger value"][100] == 0.25
    assert added["mean"] == [0] * 201
    assert max(added["Fusion-CAM"]) == added["Fusion-CAM"][100] == 0.125
    np.testing.assert_allclose(added["Fusion-CAM"], (fused - mean)[200, ::-1], atol=1e-6)
    marked = [line.get_xydata()[0].tolist() for line in figure.axes[3].lines if len(line.get_xdata()) == 1]
    np.testing.assert_allclose(marked, [(0.5, 0.125), (0.9, 0.045)])
    assert_readable(figure)


def test_the_steps_of_fusion_follow_the_flow_of_data(explained):
    evidence = explained[0]
    steps = fusion_cam(evidence)
    figure = figures.fusion_steps(evidence, steps)
    shown = dict(zip(titles(figure), figure.axes, strict=True))
    first, second = (f"$L_{i + 1}$ = {steps.second_shares[i]:.2f} $L_{'UR'[i]}$" for i in range(2))
    for title, cam in (
        ("$L_D$: Grad-CAM, denoised", steps.denoised),
        ("$L_R$: Score-CAM", steps.region),
        ("union map $L_U$", steps.united),
        (first, steps.second_shares[0] * steps.united),
        (second, steps.second_shares[1] * steps.region),
        (r"$L_{\mathrm{Fusion}}$", steps.cam),
    ):
        np.testing.assert_array_equal(shown[title].images[0].get_array(), figures.overlay(evidence.image, cam))
    similar = shown["similarity $s$"].images[0]
    np.testing.assert_allclose(similar.get_array(), steps.similarity, atol=1e-6)
    assert similar.get_clim()[0] <= float(steps.similarity.min())
    names = {axes: title.strip("$: ")[:3] for title, axes in shown.items()}
    arrows = [patch for patch in figure.artists if isinstance(patch, ConnectionPatch)]
    into = {title: {names[patch.axesA] for patch in arrows if patch.axesB is shown[title]} for title in shown}
    assert into["union map $L_U$"] == {"L_D", "L_R"}
    assert into["similarity $s$"] == {"L_1", "L_2"}
    assert into[r"$L_{\mathrm{Fusion}}$"] == {"L_1", "L_2", "sim"}
    texts = [text.get_text() for text in figure.texts]
    assert f"$\\beta_D$ = {steps.beta_denoising:.2f}\nshare {steps.shares[0]:.2f}" in texts
    assert f"$\\beta_U$ = {steps.beta_united:.2f}\nshare {steps.second_shares[0]:.2f}" in texts
    assert f"share {steps.second_shares[1]:.2f}" in texts
    assert_readable(figure)


def test_two_choices_are_subtracted_on_one_scale(images):
    explained = {}
    for name, evidence in zip("ab", explain(TinyCNN(2), images[:2]), strict=True):
        explained[name] = evidence, union_cam(evidence), fusion_cam(evidence)
    figure = figures.two_choices(explained, list("vwxyz"), {"a": (10.04, 12.0), "b": (0.0, 99.96)})
    found, grid = titles(figure), np.array(figure.axes[:8]).reshape(4, 2)
    for column, (evidence, union, fusion) in enumerate(explained.values()):
        assert found[column] == f"{'vwxyz'[evidence.target]}: {evidence.probability:.2f}"
        drops = [("10.0", "12.0"), ("0.0", "100.0")][column]
        assert found[2 + column] == f"selected: {union.selected}\ndrop {drops[0]} %"
        assert found[4 + column] == f"weight of $L_U$: {fusion.second_shares[0]:.2f}\ndrop {drops[1]} %"
        difference = grid[3, column].images[0]
        np.testing.assert_allclose(difference.get_array(), fusion.cam - union.cam, atol=1e-6)
        bound = max(float((f.cam - u.cam).abs().max()) for _, u, f in explained.values())
        assert difference.get_clim() == (-bound, bound)
        assert frame(grid[1, column]) == (figures.COLOURS[union.selected], True)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["photo", "UnionCAM", "Fusion-CAM", "Fusion-CAM\n− UnionCAM"]
    assert_readable(figure)


# gradients


def table(axes):
    return [text.get_text() for text in axes.texts[:-1]]


def test_a_worked_example_has_its_numbers_and_signs():
    W, A = torch.tensor([[[-1.0, 2]], [[0.25, 0]]]), torch.tensor([[[3.0, 4]], [[8, 0]]])
    rows = [{"gradient": W[k], "map": A[k], "product": W[k] * A[k]} for k in (0, 1)]
    figure = figures.worked_example(rows, {"sum": (W * A).sum(0)}, ["∘", "=", "Σ"])
    found = [(axes.get_title(), table(axes)) for axes in figure.axes]
    assert ("gradient", ["-1", "2"]) in found
    assert ("product", ["2", "0"]) in found
    assert [numbers for title, numbers in found if title == "sum"] == [["-1", "8"]]
    signs = {axes.get_title(): axes.texts[-1].get_text() for axes in figure.axes}
    assert signs == {"gradient": "", "map": "∘", "product": "=", "sum": "Σ"}
    assert_readable(figure)


def test_a_denoised_channel_is_hatched_where_it_becomes_0():
    gradient = torch.tensor([[-3.0, -2, 6], [0, 4, 8], [-1, 1, 2]])
    figure = figures.denoised_channel(gradient, (0, 50), "W^7")
    named = {axes.get_title(): axes for axes in figure.axes}
    np.testing.assert_array_equal(named["$W^7$, before"].images[0].get_array(), gradient)
    left = named[r"$\widetilde{W}$ at θ = 50"].images[0]
    assert left.get_array().tolist() == [[0, 0, 6], [0, 4, 8], [0, 1, 2]]
    assert left.get_clim() == (-8, 8), "of the whole gradient"
    heights = {}
    for title in ("threshold -3.000", "threshold 1.000"):
        bars = named[title].patches
        heights[title] = [
            int(sum(bar.get_height() for bar in bars if bool(bar.get_hatch()) == h)) for h in (True, False)
        ]
    assert heights == {"threshold -3.000": [9, 9], "threshold 1.000": [9, 5]}, "all values, and those that are kept"
    assert_readable(figure)


def test_denoising_shows_a_channel_before_and_after_the_map_and_its_change(explained):
    evidence, _ = explained
    mask = torch.zeros(12, 12)
    mask[2:6, 3:9] = 1
    figure = figures.denoising({"none": (evidence, 0, 0), "strong": (evidence, 1, 90)}, mask)
    rows = np.array(figure.axes[:10]).reshape(2, 5)
    before, after = denoised_cam(evidence, 0), denoised_cam(evidence, 90)
    np.testing.assert_array_equal(rows[1, 2].images[0].get_array(), denoise(evidence.gradients[1], 90).float())
    np.testing.assert_array_equal(rows[1, 3].images[0].get_array(), figures.overlay(evidence.image, after))
    np.testing.assert_allclose(rows[1, 4].images[0].get_array(), after - before, atol=1e-6)
    largest = f"change ≤ {(after - before).abs().max():.2g}"
    assert [line[4].get_title() for line in rows] == ["no pixel changes", largest]
    assert rows[0, 4].images[0].get_clim() == rows[1, 4].images[0].get_clim(), "one scale"
    assert [line[0].get_ylabel() for line in rows] == ["none", "strong"]
    assert all(len(axes.collections) == 2 for axes in rows[:, 3:].flat), "the outline"


def test_map_differences_are_those_from_the_first_map(images):
    first, second = images[0, 0], images[1, 0]
    maps = {"one": first, "same": first.clone(), "other": second}
    figure = figures.map_differences(images[0], maps)
    below = figure.axes[3:6]
    largest = float((second - first).abs().max())
    assert [axes.get_title() for axes in below] == ["the image", "no pixel changes", f"change ≤ {largest:.2g}"]
    np.testing.assert_allclose(below[2].images[0].get_array(), second - first, atol=1e-6)
    assert below[2].images[0].get_clim() == (-largest, largest)
    assert_readable(figure)


# results


def rows(differences):
    frame = pd.DataFrame(differences, columns=["other", "difference", "low", "high"])
    return frame.assign(method=frame["other"], quantity="drop", mean=frame["difference"])


def run_of(methods, classifier="efficientnet_lite0"):
    records = pd.DataFrame(
        [(image, method, drop, increase) for image in "abc" for method, (drop, increase) in methods.items()],
        columns=["image", "method", "drop", "increase"],
    )
    return SimpleNamespace(records=records, info={"options": {"classifier": classifier}})


def test_published_numbers_are_diamonds_beside_our_means():
    figure = figures.beside_paper(run_of({"union_cam": (20.0, True), "grad_cam": (30.0, False)}), "table 1")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Grad-CAM", "UnionCAM"]
    diamonds = next(line for line in axes.lines if line.get_marker() == "D")
    assert list(diamonds.get_xdata()) == [72.3, 43.15]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"] == [30, 20]
    assert titles(figure) == ["Average drop", "Average increase"]
    assert axes.get_xlabel() == "%, ← better"
    assert axes.get_xlim()[0] == 0, "an axis that begins elsewhere makes differences look larger"
    title = "The quantities of Table 1 on N = 3 pictures, EfficientNet-Lite0; too few for an order"
    assert figure.get_suptitle() == title


def test_a_variant_has_the_published_number_of_the_method_and_a_control_has_none():
    run = run_of({"fake_cam": (0.0, True), "score_cam:weights=score": (30.0, True)}, "another")
    axes = figures.beside_paper(run, "table 1").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Score-CAM (probability)", "Fake-CAM"]
    (marks,) = [line for line in axes.lines if line.get_marker() == "D"]
    np.testing.assert_equal(list(marks.get_xdata()), [56.11, np.nan])


def test_a_difference_is_hollow_where_its_interval_holds_0():
    figure = figures.differences({"drop": rows([("grad_cam", 3.0, 1.0, 5.0), ("score_cam", 1.0, -1.0, 3.0)])}, "title")
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots] == [figures.COLOURS["grad_cam"], "white"]


def test_a_difference_is_filled_where_its_test_is_clear_whatever_its_interval():
    found = rows([("grad_cam", 3.0, 1.0, 5.0), ("score_cam", 1.0, 0.1, 3.0)]).assign(
        clear=[True, False], label=["first", "second"]
    )
    (axes,) = figures.differences({"drop": found}, "title").axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots] == [figures.COLOURS["grad_cam"], "white"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]


def test_means_say_which_method_is_first_only_where_it_is_clear():
    found = rows([("fake_cam", 50.0, 49.0, 51.0), ("grad_cam", 30.0, 25.0, 35.0), ("union_cam", 20.0, 15.0, 25.0)])
    both = pd.concat([found, found.assign(quantity="energy")]).assign(n=40)
    firsts = pd.DataFrame(
        {"best mean": ["UnionCAM", "Grad-CAM"], "not clearly worse": ["none", "UnionCAM"]},
        index=[tables.QUANTITIES[quantity].heading for quantity in ("drop", "energy")],
    )
    figure = figures.means(both, "title", firsts)
    assert titles(figure) == [
        "Average drop\nUnionCAM is clearly first",
        "Mass on the object\nno method is clearly first",
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == ["%, ← better, N = 40", "%, better →, N = 40"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Grad-CAM", "UnionCAM", "Fake-CAM"]
    intervals = [list(line.get_xdata()) for line in figure.axes[1].lines if line.get_linewidth() == 3]
    assert intervals == [[25, 35], [15, 25], [49, 51]], "controls are last"


def test_a_scorecard_is_dark_where_good_and_bold_where_best():
    columns = ["group", "label", "method", "mean", "better", "unit", "among the best", "n", "control"]
    card = pd.DataFrame(
        [
            ("faithful", "gain", "grad_cam", -3.0, "higher", "%", False, 1500, False),
            ("faithful", "gain", "union_cam", 20.0, "higher", "%", True, 1500, False),
            ("faithful", "gain", "fake_cam", np.nan, "higher", "%", False, 0, True),
            ("cheap", "seconds", "grad_cam", 0.1, "lower", "s", True, 30, False),
            ("cheap", "seconds", "union_cam", 2.5, "lower", "s", False, 30, False),
            ("cheap", "seconds", "fake_cam", 0.1, "lower", "s", False, 30, True),
        ],
        columns=columns,
    )
    (axes,) = figures.scorecard(card, "title").axes
    texts = {text.get_text(): text.get_weight() for text in axes.texts}
    assert {"\N{MINUS SIGN}3.0": "normal", "20.0": "bold", "2.5 s": "normal", "·": "normal"}.items() <= texts.items()
    headings = {"gain, %\n↑ is better\nN = 1,500", "seconds, s\n↓ is better\nN = 30"}
    assert headings | {"faithful", "cheap"} <= set(texts)
    colours = [patch.get_facecolor()[:3] for patch in axes.patches]
    assert sum(colours[0]) > sum(colours[1]), "the larger gain is darker"
    assert sum(colours[3]) < sum(colours[4]), "the shorter time is darker"
    assert colours[1][1] > colours[1][2], "green"
    assert colours[3][2] > colours[3][1], "time is blue"
    assert axes.patches[2].get_y() > axes.patches[1].get_y() + 1, "the control stands apart"
    assert_readable(axes.figure)


@pytest.fixture
def five():
    """Records of Table 1's methods on 12 pictures: UnionCAM's drop is the smallest but for Score-CAM's softmax."""
    drops = {"score_cam": 20.0, "union_cam": 21.0, "score_cam:weights=score": 22.0, "group_cam": 30.0}
    drops |= {"grad_cam": 40.0, "grad_cam_plus_plus": 21.0}
    rows = [(str(i), method, drop + 0.01 * i, i < 3) for i in range(12) for method, drop in drops.items()]
    return pd.DataFrame(rows, columns=["image", "method", "drop", "increase"])


@pytest.mark.slow
def test_ranks_have_the_best_on_top_and_hollow_marks_where_nothing_is_clear(five):
    figure = figures.ranks("table 1", [five, five[five["image"] < "5"]], "drop", "where")
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    sizes = ["ours,\nunlike region maps\n(N = 12)", "ours,\nprobability in both\n(N = 12)"]
    assert names[2:] == sizes, "each choice once, of the first records"
    marks = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in axes.lines if line.get_marker() in "os"}
    assert [marks[x, 1].get_marker() for x in range(4)] == ["s", "s", "o", "o"]
    first = [marks[x, 1].get_color() for x in (2, 3)]
    assert first == [figures.COLOURS[name] for name in ("score_cam", "grad_cam_plus_plus")]
    hollow = {place for place, line in marks.items() if line.get_markerfacecolor() == "white"}
    assert hollow == {(2, 2), (3, 1)}, "Grad-CAM++, which has UnionCAM's numbers"
    assert {"72.3", "43.15", "20.1", "21.1"} <= {text.get_text() for text in axes.texts}
    assert "clearly beaten with unlike region maps" in figure.get_suptitle()
    assert "not distinguishable from the best with probability in both" in figure.get_suptitle()
    alike = five.assign(drop=20.0)  # nothing differs
    title = figures.ranks("table 1", [alike], "drop", "where").get_suptitle()
    assert "is not distinguishable from the best\nunder each choice of region maps\n(where)" in title


def test_a_difference_of_each_picture_is_sorted_and_counted():
    figure = figures.by_picture({"pair": [2.0, -1.0, 0.0, 0.001]}, "points", "title")
    (axes,) = figure.axes
    assert axes.get_title().splitlines()[0] == "pair, N = 4"
    assert axes.get_title().splitlines()[2] == "below 0: 1, none: 2, above 0: 1"
    assert "+0.25" in axes.get_title()
    (dots,) = [line for line in axes.lines if line.get_marker() == "."]
    assert list(dots.get_ydata()) == [-1, 0, 0.001, 2]
    assert_readable(figure)


def test_the_notes_name_the_level_that_is_set(monkeypatch, five):
    monkeypatch.setattr(tables, "LEVEL", 0.05)
    found = rows([("grad_cam", 3.0, 1.0, 5.0)]).assign(clear=True)
    legend = figures.differences({"drop": found}, "title").legends[0].get_texts()
    assert [text.get_text() for text in legend] == ["clear: Holm-corrected p < 0.05", "not so"]
    figure = figures.ranks("table 1", [five[five["method"] != "score_cam:weights=score"]], "drop", "where")
    assert "p ≥ 0.05" in figure.get_supxlabel()
    note = figure._supxlabel
    with figures.styled():
        figure.draw_without_rendering()
    assert note.get_window_extent().width < figure.bbox.width, "the note of a narrow figure has two lines"


def test_pictures_below_the_diagonal_are_counted():
    records = pd.DataFrame(
        {
            "image": [*"abc", *"abc"],
            "method": ["union_cam"] * 3 + ["score_cam"] * 3,
            "masked_probability": [0.5, 0.6, 0.7, 0.5, 0.7, 0.6],
        }
    )
    (axes,) = figures.against_diagonal({"pair": (records, "union_cam", "score_cam")}, "title").axes
    assert [text.get_text() for text in axes.texts] == ["below: 1", "on or above: 2"]


def test_a_scoreboard_has_means_dots_n_and_no_winner():
    records = pd.DataFrame(
        {"method": ["grad_cam", "union_cam"] * 2, "drop": [1.0, 2.0, 3.0, 4.0], "increase": [False, True, False, False]}
    )
    figure = figures.scoreboard(records)
    assert titles(figure) == ["Average drop", "Average increase"]
    drop, increase = figure.axes
    assert [bar.get_width() for bar in drop.patches] == [2, 3]
    assert [bar.get_width() for bar in increase.patches] == [0, 50]
    (dots,) = drop.lines
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([1, 2, 3, 4], [0, 1, 0, 1])
    assert len(increase.lines) == 0, "one photo's increase is 0 or 100"
    faces = [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in drop.patches]
    assert faces == [figures.COLOURS["grad_cam"], figures.COLOURS["union_cam"]]
    assert figure.get_suptitle() == "Means of 2 photos; a dot is one photo"
    assert figures.scoreboard(records[:2]).get_suptitle() == "Means of 1 photo; a dot is one photo"
    assert_readable(figure)


def test_masses_take_named_and_other_colours():
    shares = pd.DataFrame({"colour": ["union_cam", "#80c8ad"], "right": [40, 26], "other": [5, 17]}, index=["a", "b"])
    figure = figures.masses(shares, "title")
    right, other, background = figure.axes[0].containers
    faces = [mpl.colors.to_hex(bar.get_facecolor()).lower() for bar in right]
    assert faces == [figures.COLOURS["union_cam"].lower(), "#80c8ad"]
    assert [(bar.get_x(), bar.get_width()) for bar in other] == [(40, 5), (26, 17)]
    assert [(bar.get_x(), bar.get_width()) for bar in background] == [(45, 55), (43, 57)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["40 %", "26 %", "5 %", "17 %", "55 %", "57 %"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["right object", "other object", "background"]
    assert [bool(text.get_path_effects()) for text in figure.axes[0].texts] == [False] * 2 + [True] * 2 + [False] * 2


def test_a_spread_joins_the_dots_of_a_picture():
    figure = figures.spread({"one": ("union_cam", [0.1, 0.9]), "two": ("grad_cam", [0.2, 0.8])}, "balance", "title")
    joined = [list(line.get_xdata()) for line in figure.axes[0].lines[:2]]
    assert joined == [[0.1, 0.2], [0.9, 0.8]]
    lines = figure.axes[0].lines[2:]
    assert [line.get_xdata().item() for line in lines if line.get_marker() == "D"] == [0.5, 0.5]
    intervals = [list(line.get_xdata()) for line in lines if line.get_linewidth() == 3]
    assert intervals == [list(tables.interval(np.array(values))) for values in ([0.1, 0.9], [0.2, 0.8])]
    assert intervals[0][0] < 0.5 < intervals[0][1]


def test_options_are_dots_below_the_published_diamonds():
    rows = pd.DataFrame({"grad_cam": [30.0, 40.0], "union_cam": [20.0, 10.0]}, index=["default", "relu=False"])
    figure = figures.options({"drop": rows}, {"drop": {"grad_cam": 72.3, "union_cam": 43.15}}, "title")
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["published (VGG16)", "default", "relu=False"]
    dots = {line.get_color(): list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"}
    assert dots == {figures.COLOURS["grad_cam"]: [30, 40], figures.COLOURS["union_cam"]: [20, 10]}
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"] == [72.3, 43.15]


def test_costs_are_bars_compared_with_each_library_by_name():
    seconds = {"UnionCAM": 2.0, "Score-CAM": 2.0, "Score-CAM of pytorch-grad-cam": 30.0, "Score-CAM of torchcam": 46.0}
    costs = pd.DataFrame({"method": seconds.keys(), "seconds": seconds.values(), "classifier": "a_network"})
    figure = figures.cost(costs)
    (axes,) = figure.axes
    for part in ("15 times as long in pytorch-grad-cam", "23 times as long in torchcam", "a_network, one photo"):
        assert part in figure.get_suptitle()
    assert [bar.get_width() for bar in axes.patches] == [46, 30, 2, 2], "the slowest is at the bottom"
    assert [bar.get_hatch() for bar in axes.patches] == ["//", "//", "", ""], "the libraries' are hatched"
    assert {text.get_text() for text in axes.texts} == {"46 s", "30 s", "2 s"}
    faces = {label.get_text(): mpl.colors.to_hex(bar.get_facecolor()).upper()
             for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}  # fmt: skip
    assert faces["UnionCAM"] == figures.COLOURS["union_cam"]
    assert faces["Score-CAM"] == faces["Score-CAM of torchcam"] == figures.COLOURS["score_cam"]
    assert figures.cost(costs[:1]).get_suptitle() == "a_network, one photo", "there is nothing to compare"


# trends


def test_a_sweep_has_a_line_for_each_reading():
    found = rows([("", 3.0, 1.0, 5.0)] * 4).assign(reading=["channel", "channel", "map", "map"], theta=[0, 50, 0, 50])
    figure = figures.sweep(found, "title", {"drop": {0: 9.0}})
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines["map"] == [0, 50]
    assert lines["channel"] == [-1.2, 48.8], "side by side where they are equal"
    (diamond,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert (list(diamond.get_xdata()), list(diamond.get_ydata())) == ([0], [9.0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == [
        figures.READINGS[name][3] for name in ("channel", "map")
    ]
    both = pd.concat([found.assign(network="one"), found.assign(network="two")])
    assert titles(figures.sweep(both)) == ["one\nAverage drop", "two\nAverage drop"]


def test_map_changes_say_from_which_theta_on_the_printed_equation_acts():
    never, late = [0.0, 0.0, 1e-7], [0.0, 1e-3, 0.5]
    found = {"one": {"channel": late, "map": late}, "two": {"channel": never, "map": late}}
    figure = figures.map_changes([0, 50, 90], found)
    assert titles(figure) == ["one\nas printed: acts from θ = 50 on", "two\nas printed: no θ acts"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [1e-6] * 3, "what does not count lies on the axis"
    assert figure.axes[1].get_ylim()[0] == 1e-6
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [figures.READINGS[name][3] for name in ("channel", "map")]
    assert_readable(figure)


def test_curves_show_their_areas_the_best_first():
    figure = figures.curves(
        {"fake_cam": [0.0, 0.0, 1.0], "union_cam": [0.0, 0.5, 1.0]},
        {"fake_cam": [1.0, 1.0, 0.0], "union_cam": [1.0, 0.0, 0.0]},
    )
    assert [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()] == [
        "50.0 %  UnionCAM",
        "25.0 %  Fake-CAM",
        "25.0 %  UnionCAM",
        "75.0 %  Fake-CAM",
    ]
    assert_readable(figure)


@pytest.mark.parametrize(
    ("areas", "finding"),
    [
        ((0.5, 0.504), "Insertion: a tie of Grad-CAM and UnionCAM"),
        ((0.5, 0.6), "Insertion: the largest area is that of Grad-CAM"),
        ((0.6, 0.598, 0.602), "Insertion: a tie of 3 methods"),
    ],
)
def test_the_title_of_curves_crowns_nobody_at_a_tie(areas, finding):
    lines = {method: [area] * 3 for method, area in zip(("union_cam", "grad_cam", "score_cam"), areas, strict=False)}
    assert titles(figures.curves(lines, lines))[0] == finding


def test_sample_curves_have_a_panel_for_each_method(images):
    curves = {"insertion": {"union_cam": [0.0, 0.5, 1.0], "grad_cam": [0.0, 0.0, 1.0]}}
    curves["deletion"] = {"union_cam": [1.0, 0.0, 0.0], "grad_cam": [1.0, 1.0, 0.0]}
    figure = figures.sample_curves({"one": (images[0], curves), "two": (images[1], curves)})
    assert [title for title in titles(figure) if title] == ["one", "UnionCAM", "Grad-CAM", "two"]
    drawn = [axes for axes in figure.axes if axes.lines]
    areas = [axes.texts[0].get_text() for axes in drawn]
    assert areas == 2 * ["area 50.0 %", "area 25.0 %", "area 25.0 %", "area 75.0 %"]
    for axes, method in zip(drawn, 4 * ["union_cam", "grad_cam"], strict=True):
        assert axes.lines[-1].get_color() == figures.COLOURS[method]
        assert len(axes.lines) == 3, "both in grey, and its own over them"
    assert_readable(figure)


@pytest.mark.parametrize("shares", [[50], [0, 50, 100]])
def test_a_film_marks_its_images_on_the_curve(images, shares):
    curves = {"insertion": [0.0, 0.3, 1.0], "deletion": [1.0, 0.6, 0.0]}
    figure = figures.film({name: [(share, images[0]) for share in shares] for name in curves}, curves)
    found = [title for title in titles(figure) if "%" in title and "area" not in title]
    assert [f"{share} %: $f^c$ = {curve[share // 50]:.2f}" for curve in curves.values() for share in shares] == found
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == [
        "insertion: the area under the curve is 40.0 %",
        "deletion: the area under the curve is 55.0 %",
    ]
    for axes, curve in zip(panels, curves.values(), strict=True):
        dots = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() == "o"]
        assert dots == [[share, curve[share // 50]] for share in shares]
    assert_readable(figure)


def test_randomization_begins_with_the_whole_map_and_shows_intervals():
    columns = ["method", "stage", "mean", "low", "high", "n"]
    found = [("union_cam", 1, 40, 30, 50, 9), ("union_cam", 2, 10, 5, 15, 9), ("fake_cam", 1, 100, 100, 100, 9)]
    found = pd.DataFrame([*found, ("fake_cam", 2, 100, 100, 100, 9)], columns=columns)
    figure = figures.randomization({"a network, N = 9": ([50, 100], found)}, "title", [20])
    axes = figure.axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[100, 40, 10], [100, 100, 100], [20, 20]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "50", "100"]
    bars = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert bars == [[30, 50], [5, 15]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["UnionCAM", "Fake-CAM", "unrelated maps"]


def test_curves_less_another_methods_have_a_panel_each_with_its_band():
    frame = pd.DataFrame({"share": [0.0, 50.0, 100.0], "difference": [0.0, 2.0, 0.0], "low": [-1.0] * 3, "high": 3.0})
    figure = figures.curve_differences(
        {"insertion": {"union_cam": frame, "score_cam:weights=score": frame}}, "grad_cam", "found"
    )
    assert titles(figure) == ["UnionCAM", "Score-CAM\n(probability)"]
    assert list(figure.axes[0].lines[1].get_ydata()) == [0, 2, 0]
    assert len(figure.axes[0].collections) == 1
    assert "less that of Grad-CAM," in figure.get_suptitle()
    one = {kind: {"union_cam": frame} for kind in ("insertion", "deletion")}
    first, second = figures.curve_differences(one, "grad_cam", "found").axes
    assert first.get_position().y0 == second.get_position().y0, "side by side"


def test_a_reading_with_fewer_thetas_has_no_line_between_them():
    found = rows([("", 3.0, 1.0, 5.0)] * 5).assign(
        reading=["channel", "channel", *["map"] * 3], theta=[0, 90, 0, 50, 90]
    )
    lines = {line.get_label(): line.get_linestyle() for line in figures.sweep(found).axes[0].lines}
    assert lines["channel"] == "None"
    assert lines["map"] == "-"


def test_a_paired_sweep_is_filled_where_clear_and_on_one_scale():
    found = pd.DataFrame({"reading": "map", "theta": [0, 10, 90], "difference": [0.5, 0.0, -4.9], "n": 300})
    found = found.assign(low=[-1, 0, -8.0], high=[2, 0, -2.0], clear=[False, False, True])
    both = pd.concat([found.assign(network="one"), found.assign(network="two", difference=0.1 * found["difference"])])
    figure = figures.paired_sweep(both, "title", published={0: 0.76})
    first, second = figure.axes
    assert titles(figure) == ["one\nN = 300", "two\nN = 300"]
    assert first.get_ylim() == second.get_ylim()
    dots = {line.get_markerfacecolor(): list(line.get_xdata()) for line in first.lines if line.get_marker() == "o"}
    assert dots == {figures.READINGS["map"][0]: [90], "white": [0, 10]}
    assert [list(line.get_ydata()) for line in second.lines if line.get_marker() == "D"] == [[0.76]]


def test_growth_begins_at_0_on_one_scale():
    measured = {"channels": ("live channels", [(100, 1.0), (200, 2.1)]), "side": ("pixels", [(64, 0.5), (128, 4.0)])}
    figure = figures.growth(measured)
    first, second = figure.axes
    assert titles(figure) == ["channels", "side"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["live channels", "pixels"]
    assert [first.get_ylabel(), second.get_ylabel()] == ["seconds", ""]
    assert (list(second.lines[0].get_xdata()), list(second.lines[0].get_ydata())) == ([64, 128], [0.5, 4])
    assert first.get_ylim() == second.get_ylim() == pytest.approx((0, 4.4))
    assert (first.get_xlim(), list(first.get_xticks())) == (pytest.approx((0, 210)), [100, 200])
    assert_readable(figure)


def test_parts_are_stacked_and_the_narrow_ones_have_no_number():
    counts = pd.DataFrame({"masked images": [500, 60], "curves": [10, 40]}, index=["VGG16", "small"])
    figure = figures.parts(counts, ["neutral", "#dddddd"], "passes", "title")
    first, second = figure.axes[0].containers
    assert mpl.colors.to_hex(first[0].get_facecolor()) == figures.COLOURS["neutral"]
    assert {text.get_color() for text in figure.axes[0].texts[:2]} == {"white"}
    assert {text.get_color() for text in figure.axes[0].texts[2:4]} == {"black"}
    assert [(bar.get_x(), bar.get_width()) for bar in first] == [(0, 500), (0, 60)]
    assert [(bar.get_x(), bar.get_width()) for bar in second] == [(500, 10), (60, 40)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["500", "60", "", "40", "510", "100"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["masked images", "curves"]
    assert figure.axes[0].get_xlim()[1] > 510
    shares = figures.parts(pd.DataFrame({"one": [80.0, 99], "other": [20.0, 1]}), ["black", "#dddddd"], "%", "title")
    assert [text.get_text() for text in shares.axes[0].texts] == ["80", "99", "20", ""], "each sum is 100"


def test_durations_have_a_panel_for_each_number_of_pictures_and_tell_what_was_measured():
    rows = [(2000, "laptop", 40.0, 30.0, 50.0, True, np.nan), (2000, "GPU", 0.7, 0.5, 1.4, False, 1.5)]
    rows += [(50_000, "laptop", 1000.0, 750.0, 1250.0, True, np.nan), (50_000, "GPU", 17.5, 12.0, 35.0, False, 35.0)]
    columns = ["pictures", "machine", "hours", "low", "high", "measured", "dollars"]
    figure = figures.durations(pd.DataFrame(rows, columns=columns), "title")
    assert titles(figure) == ["2,000 pictures", "50,000 pictures"]
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["1.7 days", "42 minutes, $2"], ["1.4 months", "18 hours, $35"]]
    line, dot, _, empty = figure.axes[0].lines
    assert list(line.get_xdata()) == [30, 50]
    assert list(dot.get_xdata()) == [40]
    assert (dot.get_markerfacecolor(), empty.get_markerfacecolor()) == (figures.COLOURS["neutral"], "white")
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["1 hour", "1 day", "1 month"]


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (0.001, "0.06 minutes"),
        (1 / 60, "1 minute"),
        (0.99, "59 minutes"),
        (1, "1 hour"),
        (100, "4.2 days"),
        (9000, "1 year"),
    ],
)
def test_a_duration_is_said_in_its_largest_unit(hours, words):
    assert figures.duration(hours) == words
