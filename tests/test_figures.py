"""Plots: what is drawn, what is saved, and that it can be read without seeing it."""

import base64
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import TinyCNN

from unioncam_core import capture, union_cam
from unioncam_lab import figures, tables


@pytest.fixture
def explained(images):
    (evidence,) = capture(TinyCNN(2), images[:1], target_layer="relu2")
    return evidence, union_cam(evidence)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_show_saves_displays_and_closes(tmp_path, monkeypatch, images):
    monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path / "new"))
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figures.show(figures.row({"one": images[0]}), "name", alt="What is to be seen")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"name.png", "name.svg"}
    assert Image.open(tmp_path / "new" / "name.png").text["Description"] == "What is to be seen"
    assert "What is to be seen" in (tmp_path / "new" / "name.svg").read_text()
    data, metadata = shown[0]._repr_jpeg_()
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == "JPEG"
    assert metadata["alt"] == "What is to be seen"
    assert plt.get_fignums() == []


def test_the_same_figure_is_the_same_file(tmp_path, monkeypatch, images):
    for folder in ("first", "second"):
        monkeypatch.setenv("UNIONCAM_FIGURES", str(tmp_path / folder))
        figures.show(figures.row({"one": images[0]}), "name", alt="")
    for suffix in ("png", "svg"):
        assert (tmp_path / f"first/name.{suffix}").read_bytes() == (tmp_path / f"second/name.{suffix}").read_bytes()


def test_overlay_is_grey_and_dim_where_nothing_is_salient_and_coloured_where_something_is(images):
    cam = torch.zeros(12, 12)
    cam[6:] = 1
    blend = figures.overlay(images[0], cam)
    grey = images[0].mean(0).numpy()
    np.testing.assert_allclose(blend[:6], 0.75 * grey[:6, :, None].repeat(3, 2), atol=0.01)
    assert (blend[6:, :, 0] - blend[6:, :, 2]).min() > 0.1, "inferno ends in yellow"
    assert 0 <= blend.min() <= blend.max() <= 1


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_architecture_shows_the_live_numbers(explained):
    evidence, steps = explained
    found = " ".join(titles(figures.architecture(evidence, steps)))
    for beta in (steps.beta_denoising, steps.beta_region, steps.beta_united):
        assert f"{beta:.3f}" in found
    scores = evidence.region_scores.where(evidence.gradients.amax((1, 2)) > 0, 0)
    for channel in scores.topk(3).indices.tolist():
        assert f"mask {channel}" in found


def test_selection_marks_the_selected_map(explained):
    evidence, steps = explained
    figure = figures.selection(evidence, steps)
    assert f"the {steps.selected} map" in " ".join(titles(figure))
    bars = next(axes for axes in figure.axes if axes.containers)
    assert [bar.get_height() for bar in bars.containers[0]] == [steps.beta_united, steps.beta_region]


def test_gallery_frames_the_selected_map(explained):
    evidence, steps = explained
    figure = figures.gallery({"photo": explained}, list("abcde"))
    frames = {axes.get_title().split(",")[0]: axes.spines["left"].get_linewidth() for axes in figure.axes[1:]}
    label = {"united": "$L_{De-Region}$", "region": "$L_{Region}$"}[steps.selected]
    assert max(frames, key=frames.get) == label
    assert sorted(frames.values())[1] < frames[label]
    strip = figures.strip({"photo": explained}, list("abcde"))
    assert titles(strip)[0] == f"{'abcde'[evidence.target]}: {evidence.probability:.2f}"


def rows(differences):
    frame = pd.DataFrame(differences, columns=["other", "difference", "low", "high"])
    return frame.assign(method=frame["other"], quantity="drop", mean=frame["difference"])


def test_published_numbers_are_diamonds_beside_our_means():
    found = rows([("grad_cam", 30.0, 25.0, 35.0), ("union_cam", 20.0, 15.0, 25.0)])
    figure = figures.beside_paper(found, {"drop": {"union_cam": 43.15, "grad_cam": 72.3}})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["UnionCAM", "Grad-CAM"]
    diamonds = next(line for line in axes.lines if line.get_marker() == "D")
    assert list(diamonds.get_xdata()) == [43.15, 72.3]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"] == [20, 30]
    assert axes.get_title() == "Average drop"
    assert axes.get_xlabel() == "%, ← better"
    assert axes.get_xlim()[0] == 0, "an axis that begins elsewhere makes differences look larger"


def test_a_method_with_options_has_the_published_number_of_the_method_and_a_control_has_none():
    found = rows([("score_cam:weights=score", 30.0, 25.0, 35.0), ("fake_cam", 1.0, 0.0, 2.0)])
    numbers, others = {"drop": {"score_cam": 56.11}}, {"a library": {"drop": {"score_cam": 28.26}}}
    axes = figures.beside_paper(found, numbers, "title", list(found["method"]), others).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Score-CAM (probability)", "Fake-CAM"]
    for marker, number in (("D", 56.11), ("X", 28.26)):
        (marks,) = [line for line in axes.lines if line.get_marker() == marker]
        np.testing.assert_equal(list(marks.get_xdata()), [number, np.nan])


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


def test_a_sweep_has_a_line_for_each_reading():
    found = rows([("", 3.0, 1.0, 5.0)] * 4).assign(reading=["channel", "channel", "map", "map"], theta=[0, 50, 0, 50])
    figure = figures.sweep(found, "title", {"drop": {0: 9.0}})
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines["channel"] == lines["map"] == [0, 50]
    (diamond,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert (list(diamond.get_xdata()), list(diamond.get_ydata())) == ([0], [9.0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == [
        figures.READINGS[name][3] for name in ("channel", "map")
    ]
    both = pd.concat([found.assign(network="one"), found.assign(network="two")])
    assert titles(figures.sweep(both)) == ["one\nAverage drop", "two\nAverage drop"]


def test_curves_show_their_areas():
    figure = figures.curves({"union_cam": [0.0, 0.5, 1.0]}, {"union_cam": [1.0, 0.0, 0.0]})
    assert [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()] == [
        "UnionCAM: 50.0 %",
        "UnionCAM: 25.0 %",
    ]


@pytest.mark.parametrize(
    ("areas", "finding"),
    [
        ((0.5, 0.50002), "Insertion: no difference (50.0 % each)"),
        ((0.5, 0.6), "Insertion: the largest area is that of Grad-CAM"),
        ((0.6, 0.5, 0.6), "Insertion: the largest area is that of UnionCAM and Score-CAM"),
    ],
)
def test_the_title_of_curves_crowns_nobody_at_a_tie(areas, finding):
    lines = {method: [area] * 3 for method, area in zip(("union_cam", "grad_cam", "score_cam"), areas, strict=False)}
    assert titles(figures.curves(lines, lines))[0] == finding


def test_a_methods_options_do_not_change_its_colour():
    assert figures.method_colour("union_cam:theta=50") == figures.COLOURS["union_cam"]
    assert figures.method_colour("LayerCAM") == figures.COLOURS["neutral"]
    methods = ("grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam", "union_cam", "fusion_cam", "fake_cam")
    assert len({figures.COLOURS[method] for method in methods}) == len(methods)


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


def test_forgetting_begins_with_the_whole_map_and_shows_intervals():
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


def test_ranks_have_the_best_on_top_and_hollow_marks_where_nothing_is_clear():
    found = {"drop": {"paper": {"grad_cam": 72.3, "union_cam": 43.15}, "ours": {"grad_cam": 20.04, "union_cam": 21.0}}}
    (axes,) = figures.ranks(found, "title", {"drop": {"ours": {"grad_cam"}}}).axes
    marks = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in axes.lines if line.get_marker() in "os"}
    assert {(x, y): line.get_marker() for (x, y), line in marks.items()} == {
        (0, 2): "s",
        (0, 1): "s",
        (1, 1): "o",
        (1, 2): "o",
    }
    assert marks[1, 1].get_markerfacecolor() == "white", "Grad-CAM"
    assert marks[1, 2].get_markerfacecolor() == figures.COLOURS["union_cam"]
    assert {"72.3", "43.15", "20.0", "21.0"} <= {text.get_text() for text in axes.texts}


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


def test_a_scoreboard_names_n_and_no_winner():
    records = pd.DataFrame({"method": ["grad_cam", "union_cam"] * 2, "drop": [1.0, 2.0, 3.0, 4.0]})
    figure = figures.scoreboard(records)
    assert titles(figure) == ["Average drop"]
    assert figure.get_suptitle() == "Means of 2 photos; a dot is one photo"


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


def test_masses_take_named_and_other_colours():
    shares = pd.DataFrame({"colour": ["union_cam", "#80c8ad"], "right": [40, 26], "other": [5, 17]}, index=["a", "b"])
    bars = figures.masses(shares, "title").axes[0].containers[0]
    faces = [matplotlib.colors.to_hex(bar.get_facecolor()).lower() for bar in bars]
    assert faces == [figures.COLOURS["union_cam"].lower(), "#80c8ad"]


def test_a_spread_joins_the_dots_of_a_picture():
    figure = figures.spread({"one": ("union_cam", [0.1, 0.9]), "two": ("grad_cam", [0.2, 0.8])}, "balance", "title")
    joined = [list(line.get_xdata()) for line in figure.axes[0].lines[:2]]
    assert joined == [[0.1, 0.2], [0.9, 0.8]]


def test_options_are_dots_below_the_published_diamonds():
    rows = pd.DataFrame({"grad_cam": [30.0, 40.0], "union_cam": [20.0, 10.0]}, index=["default", "relu=False"])
    figure = figures.options({"drop": rows}, {"drop": {"grad_cam": 72.3, "union_cam": 43.15}}, "title")
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["published (VGG16)", "default", "relu=False"]
    dots = {line.get_color(): list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"}
    assert dots == {figures.COLOURS["grad_cam"]: [30, 40], figures.COLOURS["union_cam"]: [20, 10]}
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"] == [72.3, 43.15]


def test_costs_are_compared_with_each_library_by_name():
    seconds = {"UnionCAM": 2.0, "Score-CAM": 2.0, "Score-CAM of pytorch-grad-cam": 30.0, "Score-CAM of torchcam": 46.0}
    costs = pd.DataFrame({"method": seconds.keys(), "seconds": seconds.values(), "classifier": "a_network"})
    title = figures.cost(costs).get_suptitle()
    for part in ("15 times as long in pytorch-grad-cam", "23 times as long in torchcam", "a_network, one photo"):
        assert part in title
