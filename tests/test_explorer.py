"""Tests of the explorer without a browser: its state, its maps against the core's, uploads, cancelling, memory."""

import asyncio
import io
import json
import os
import re
import struct
import zlib
from concurrent.futures import Future
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import TinyClassifier

from fusioncam import fusion_cam
from unioncam_core import Protocol, capture, union_cam
from unioncam_lab import cache, explorer, methods, metrics
from unioncam_lab.classifiers import as_classifier, load_classifier
from unioncam_lab.explorer import page
from unioncam_lab.explorer import pictures as painted
from unioncam_lab.explorer.app import Explorer, wait_for_visitor
from unioncam_lab.explorer.explanation import PICTURES, Cancelled, Explanation, picture, pictures
from unioncam_lab.explorer.uploads import LARGEST, read_upload
from unioncam_lab.explorer.view import View

SERVER = Path(explorer.__file__).with_name("server")
VIEWS = st.builds(
    View,
    picture=st.sampled_from([*PICTURES, "upload"]),
    target=st.integers(-1, 999),
    steps=st.sampled_from(["union_cam", "fusion_cam"]),
    methods=st.lists(st.sampled_from(["grad_cam", "score_cam", "union_cam"]), unique=True).map(tuple),
    theta=st.integers(0, 200).map(lambda half: half / 2),
    reading=st.sampled_from(["channel", "positive", "map"]),
    opacity=st.sampled_from([0, 0.5, 0.85, 1]),
    tab=st.sampled_from(["explain", "paint", "metrics"]),
)


@given(VIEWS)
def test_a_view_survives_json_and_an_address(view):
    assert View.from_json(view.to_json()) == view
    assert View.from_query(view.to_query()) == view


def test_an_address_names_what_was_changed_alone():
    assert View().to_query() == ""
    assert View(theta=50, tab="paint", methods=("grad_cam",)).to_query() == "methods=grad_cam&theta=50&tab=paint"
    assert View.from_query("theta=50&voila-theme=dark").theta == 50


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("theta=70&tab=paint", View(theta=70, tab="paint")),
        ("", View(picture="rocket")),
        ("theta=700", View(picture="rocket")),
        ("classifier=os:getcwd", View(picture="rocket")),
    ],
)
def test_an_address_chooses_a_view_and_never_a_function(query, shown, monkeypatch):
    monkeypatch.setenv("QUERY_STRING", query)
    assert explorer._of_the_address(View(picture="rocket")) == shown


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"theta": 101}, "theta is 101.0; it lies between 0 and 100."),
        ({"theta": "much"}, "theta is 'much'; a number is needed."),
        ({"theta": float("nan")}, "theta is nan; it lies between 0 and 100."),
        ({"target": 2.5}, "target is 2.5; a whole number is needed."),
        ({"reading": "rows"}, "reading is 'rows'; it can be 'channel' or 'positive' or 'map'."),
        ({"picture": 3}, "picture is 3; a name is needed."),
        ({"channel": -5}, "channel is -5; it is a number from 0, or -1 for the first one."),
    ],
)
def test_a_wrong_value_is_named(values, sentence):
    with pytest.raises(ValueError, match="is") as caught:
        View(**values)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("text", ["", "[1]", '{"theta": 101}', '{"colour": "red"}', "\x00"])
def test_what_is_no_saved_view_gets_a_sentence(text):
    with pytest.raises(ValueError, match=r"\w.*[.]$"):
        View.from_json(text)


def png(width, height):
    """A PNG with the header of a size, and not one pixel."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def jpeg(size=(64, 48)):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "jpeg")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jpg", b"", "empty.jpg is empty"),
        ("notes.txt", b"no picture at all", "notes.txt is no picture that can be read here"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read here"),
        ("half.jpg", jpeg()[:1500], "half.jpg is damaged or incomplete"),
        ("IMG_1.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "IMG_1.HEIC is a HEIC or AVIF photo"),
        ("huge.png", png(20_000, 20_000), "huge.png has 400 million pixels; at most 50 million"),
        ("large.png", png(10_000, 6_000), "large.png has 60 million pixels; at most 50 million"),
        ("heavy.jpg", b"\xff" * (LARGEST + 1), "heavy.jpg has 8.0 MB; at most 8 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_bad_upload_gets_a_sentence(name, content, said):
    with pytest.raises(ValueError, match=r"[.]$") as caught:
        read_upload(name, content, 96)
    assert said in str(caught.value)


def test_a_good_upload_is_its_pixels_upright():
    image = read_upload("photo.jpg", jpeg(), 32)
    assert image.shape == (3, 32, 32)
    assert 0 <= image.min() < image.max() <= 1


@pytest.fixture(scope="module")
def explained():
    """A tiny network and a picture with all that the explorer computes, and the core's evidence for each class."""
    classifier = as_classifier(TinyClassifier())
    image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(3))
    found = Explanation(classifier, image)
    found.compute()
    layer = classifier.target_layer
    (evidences,) = [capture(classifier, image[None], target_layer=layer, targets=[[0, 1, 2, 3, 4]])]
    return found, evidences


def same(steps, expected):
    for each in fields(expected):
        value, other = getattr(steps, each.name), getattr(expected, each.name)
        if isinstance(other, str):
            assert value == other
        else:
            torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", range(5))
@pytest.mark.parametrize("theta", [0, 10, 55, 100])
def test_every_step_is_the_cores(explained, target, theta):
    found, evidences = explained
    for reading in ("channel", "positive", "map"):
        evidence = replace(evidences[target], protocol=Protocol(percentile_over=reading))
        same(found.union(target, theta, reading), union_cam(evidence, theta))
    same(found.fusion(target, theta), fusion_cam(evidences[target], theta))


def test_the_other_maps_are_those_of_the_methods(explained):
    found, evidences = explained
    for name in ("grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam"):
        torch.testing.assert_close(found.cam(name, 2), methods.METHODS[name](evidences[2]).cam)


def test_a_channel_has_the_mask_and_the_score_of_the_core(explained):
    found, evidences = explained
    for number in found.channels(1, 3):
        channel = found.channel(1, number)
        torch.testing.assert_close(channel.mask, evidences[1].masks([number])[0])
        assert channel.score == pytest.approx(float(evidences[1].region_scores[number]), rel=1e-5)
        assert found.probability(1, channel.mask) == pytest.approx(channel.score, rel=1e-5)
    scores = [found.channel(1, number).score for number in found.channels(1, 6)]
    assert all(first >= second for first, second in pairwise(scores))
    with pytest.raises(ValueError, match="There is no channel 77; there are 0 to 5"):
        found.channel(1, 77)


def test_the_curves_are_those_of_the_metrics(explained):
    found, evidences = explained
    curves, cam = found.curves("grad_cam", 3), found.cam("grad_cam", 3)
    step = curves.images["deletion"].step
    (expected,) = metrics.evaluate(evidences[3], [cam], ("insertion", "deletion"), step)
    assert curves.deletion == pytest.approx(expected["deletion_curve"], rel=1e-4)
    assert curves.insertion == pytest.approx(expected["insertion_curve"], rel=1e-4)
    assert curves.area("deletion") == pytest.approx(expected["deletion"], rel=1e-4)


def test_painting_changes_the_covered_pixels_alone(explained):
    found, _ = explained
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[2:5, 3:9] = True
    for cover in ("black", "blurred", "mean colour"):
        painted = found.painted(mask, cover)
        assert torch.equal(painted[:, ~mask], found.image[:, ~mask])
        assert (painted[:, mask] != found.image[:, mask]).any()
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(found.after(nothing), found.probabilities)
    logits = found.classifier(found.painted(mask)[None])
    torch.testing.assert_close(found.after(mask), logits.softmax(1)[0].detach())
    with pytest.raises(ValueError, match=r"The mask is \[3, 3\]"):
        found.painted(mask[:3, :3])


def test_the_most_salient_pixels_are_counted_exactly(explained):
    found, _ = explained
    cam = torch.arange(144.0).view(12, 12)
    assert found.most_salient(cam, 0.25).sum() == 36
    assert cam[found.most_salient(cam, 0.25)].min() > cam[~found.most_salient(cam, 0.25)].max()
    assert cam[found.most_salient(cam, 0.25, least=True)].max() == 35


def test_each_network_is_offered_pictures_that_suit_it():
    assert set(pictures("shapes_vgg")) | set(pictures("efficientnet_lite0")) == set(PICTURES)
    for name in PICTURES:
        assert picture(name, 24).shape == (3, 24, 24)
    with pytest.raises(ValueError, match="There is no picture 'moon'"):
        picture("moon", 24)


@pytest.fixture(scope="module")
def shapes():
    return load_classifier("shapes_vgg", device="cpu")


@pytest.mark.slow
def test_the_passes_tell_how_far_they_are_and_can_be_cancelled(shapes):
    found, shares = Explanation(shapes, picture("shapes 1", 96)), []

    def cancel(share):
        shares.append(share)
        if len(shares) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        found.compute(cancel)
    assert not found.ready
    assert len(shares) < 10
    shares.clear()
    found.compute(shares.append)
    assert found.ready
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[-1] > 0.7
    assert shapes.gradient_free.watch is None
    assert found.union(found.first).cam.shape == (96, 96)


@pytest.mark.slow
def test_nothing_of_an_own_photo_is_kept_on_disk(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIONCAM_CACHE", str(tmp_path))
    monkeypatch.setattr("unioncam_lab.engine.WORTH_KEEPING", 0)
    shapes.gradient_free._ready.clear()

    def files_after(own, name):
        found = Explanation(shapes, picture(name, 96), own)
        before = set(tmp_path.iterdir())
        found.compute()
        found.union(found.first)
        found.curves("grad_cam", found.first)
        return set(tmp_path.iterdir()) - before

    assert files_after(False, "shapes 3"), "of our own picture the masked passes are kept"
    assert files_after(True, "shapes 1") == set()
    assert files_after(False, "shapes 1")
    assert cache.folder() == tmp_path


@pytest.mark.slow
def test_memory_stays_flat_over_many_photos(shapes):
    """What a kernel of one visitor holds after 30 and after 100 photos differs by less than 12 MiB."""
    process, noise = psutil.Process(os.getpid()), torch.Generator().manual_seed(0)
    held = []
    for count in range(100):
        found = Explanation(shapes, torch.rand(3, 96, 96, generator=noise), own=True)
        found.compute()
        found.union(found.first, 50, "map")
        found.fusion(found.first, 50)
        if count % 10 == 9:
            found.curves("grad_cam", found.first)
        if count in (29, 99):
            held.append(process.memory_info().rss / 2**20)
    assert held[1] - held[0] < 12


def test_the_server_answers_this_computer_alone_and_ends_idle_kernels():
    settings = json.loads((SERVER / "voila.json").read_text(encoding="utf-8"))
    assert settings["Voila"]["ip"] == "127.0.0.1"
    assert settings["Voila"]["tornado_settings"]["websocket_max_message_size"] > 2 * LARGEST
    assert settings["VoilaConfiguration"]["preheat_kernel"] is True, "a kernel waits for the next visitor"
    assert 0 < settings["MappingKernelManager"]["cull_idle_timeout"] <= 600
    assert settings["VoilaConfiguration"]["show_tracebacks"] is False
    assert (SERVER / "voila/templates" / settings["VoilaConfiguration"]["template"] / "index.html.j2").is_file()
    script = (SERVER.parent / "explorer.js").read_text(encoding="utf-8")
    assert f"LARGEST = {LARGEST // 10**6}e6" in script, "the browser refuses what the kernel would"


def test_names_and_colours_are_those_of_the_figures():
    from unioncam_lab.figures.style import COLOURS

    assert {name: methods.TITLES[name] for name in page.TITLES} == page.TITLES
    assert {"union_cam", "fusion_cam"} <= set(page.TITLES) & set(COLOURS)


def test_a_map_over_its_photo_is_that_of_the_figures():
    from unioncam_lab.figures import overlay

    noise = torch.Generator().manual_seed(0)
    image, cam = torch.rand(3, 20, 20, generator=noise), torch.rand(20, 20, generator=noise)
    drawn = painted.overlay(image.numpy(), cam.numpy()).astype(float)
    assert np.abs(drawn - 255 * overlay(image, cam)).max() < 5  # two neighbours in the table of colours
    assert (painted.overlay(image.numpy(), cam.numpy(), 0) == np.round(255 * image.mean(0).numpy())[..., None]).all()


SHAPES = {"classifier": "shapes_vgg", "picture": "shapes 1"}


def visit(act, network=None, **view):
    """Let a visitor act on the explorer of drawn shapes, and return it with what it sent beside the page's parts."""

    async def run():
        shown, sent = Explorer(View(**(SHAPES | view)), network=network), []
        shown.send = lambda content, buffers=(): sent.append((content, buffers))
        shown.start()
        await shown._job
        await act(shown)
        while shown._tasks:
            await asyncio.wait(shown._tasks)
        return shown, sent

    return asyncio.run(run())


def say(shown, name, value, *buffers):
    shown.answer({"name": name, "value": value}, buffers)


@pytest.mark.slow
@pytest.mark.parametrize("preheat", ["True", "False"])
def test_a_kernel_that_waits_for_a_visitor_loads_the_network(preheat, monkeypatch):
    monkeypatch.setenv("VOILA_PREHEAT", preheat)
    monkeypatch.setattr("voila.utils.wait_for_request", lambda: None)
    network = wait_for_visitor(View(**SHAPES))
    if preheat == "False":
        assert network is None
        return
    loaded = network.result()["shapes_vgg"]

    async def look(shown):
        assert shown.explanation.classifier is loaded

    assert visit(look, network)[0].explanation.ready


@pytest.mark.slow
def test_a_network_that_could_not_be_loaded_before_is_loaded_again():
    network = Future()
    network.set_exception(RuntimeError("There is no network."))

    async def ask_again(shown):
        assert shown.alert == "There is no network."
        say(shown, "again", "")

    shown, _ = visit(ask_again, network)
    assert shown.explanation.ready


@pytest.mark.slow
def test_the_page_shows_every_step_and_each_picture_has_a_text():
    async def look(shown):
        pass

    shown, _ = visit(look)
    assert shown.alert == ""
    for step in ("L<sub>Denoising</sub>", "L<sub>Region</sub>", "L<sub>De-Region</sub>", "L<sub>UnionCAM</sub>"):
        assert step in shown.stage
    images = re.findall("<img [^>]*>", shown.stage + shown.below)
    assert len(images) > 15
    assert all(re.search('alt="[^"]{15,}"', image) for image in images)
    controls = re.findall(r"<(?:input|select)[^>]*>", shown.source + shown.knobs + shown.below)
    labels = (shown.source + shown.knobs + shown.below).count("<label")
    assert labels == len(controls), "each control stands in its label"


@pytest.mark.slow
def test_a_visitor_changes_the_view_and_a_wrong_message_gets_a_sentence():
    async def act(shown):
        say(shown, "theta", "60")
        assert shown.view.theta == 60
        say(shown, "class", "heart")
        assert shown.view.target == shown.explanation.classifier.classes.index("heart")
        for name, value, words in (
            ("class", "hearts", "Did you mean heart?"),
            ("theta", "101", "theta is 101.0"),
            ("__class__", "x", "A view has no '__class__'"),
            ("classifier", "os:system", "There is no network 'os:system' here"),
            ("download", "../etc.png", "There is no download"),
        ):
            say(shown, name, value)
            assert words in shown.alert
        say(shown, "steps", "fusion_cam")
        assert shown.alert == ""
        assert "L<sub>Fusion</sub>" in shown.stage
        say(shown, "download", "view.json")

    shown, sent = visit(act)
    assert sum(content["type"] == "done" for content, _ in sent) == 9
    (saved,) = [buffers[0] for content, buffers in sent if content["type"] == "download"]
    assert View.from_json(saved.decode()) == shown.view


@pytest.mark.slow
def test_the_brush_and_the_curves_answer():
    async def act(shown):
        say(shown, "tab", "paint")
        assert "unchanged" in shown.stage
        say(shown, "mark", "most")
        assert "10.0 % of the pixels" in shown.stage
        say(shown, "mask", 96, np.packbits(np.ones((96, 96), bool)).tobytes())
        assert "100.0 % of the pixels" in shown.stage
        say(shown, "mask", 96, b"\0")
        assert "The mask has 8 pixels" in shown.alert
        say(shown, "tab", "metrics")

    shown, _ = visit(act)
    assert shown.stage.count("<polyline") == 2


@pytest.mark.slow
def test_an_own_photo_is_explained_and_a_bad_one_leaves_the_page_as_it_was():
    async def act(shown):
        before = shown.stage
        say(shown, "upload", "notes.txt", b"no picture")
        while shown._tasks:
            await asyncio.wait(shown._tasks)
        assert "notes.txt is no picture" in shown.alert
        assert shown.stage == before
        say(shown, "upload", "photo.jpg", jpeg())
        while shown._tasks:
            await asyncio.wait(shown._tasks)
        assert (shown.alert, shown.view.picture) == ("", "upload")
        assert shown.explanation.own
        assert shown.stage != before

    visit(act)


@pytest.mark.slow
def test_a_view_of_an_uploaded_photo_asks_for_it():
    async def act(shown):
        assert "upload the photo again" in shown.alert

    visit(act, picture="upload")
