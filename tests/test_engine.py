"""Tests of the engine against the model: it gives the same logits and maps, and does not change the model."""

import copy
import io
import logging
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import DividesByMaximum, Does, Dropout, Normed
from others import Single
from tiny import TinyClassifier, TinyCNN, state
from torch import nn
from torchvision import models

from unioncam_core import NonFiniteScore, Protocol, UnionCAM, capture, score_regions, union_cam
from unioncam_lab import engine
from unioncam_lab.classifiers import load_classifier
from unioncam_lab.engine import Engine, accelerate, backends
from unioncam_lab.images import DEMO_PHOTOS, demo_photo

ROOT = Path(__file__).parent.parent


class SmallCNN(nn.Module):
    """A network with layers that backends must run in evaluation mode: batch normalization, in-place ReLU, dropout."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.norm, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.conv2, self.drop, self.fc = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Dropout(0.5), nn.Linear(16, 5)
        self.norm.running_mean.uniform_(-0.1, 0.1)
        self.norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, images):
        x = self.relu(self.norm(self.conv1(images)))
        x = self.relu(self.conv2(x))
        return self.fc(self.drop(x.mean((2, 3))))


@pytest.fixture
def small():
    return SmallCNN()


@pytest.fixture
def photos():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def lines(caplog):
    """A function that returns the engine's warnings."""
    caplog.set_level(logging.WARNING, "unioncam_lab.engine")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "unioncam_lab.engine"]


def counting(network, seen):
    def count(images):
        seen.append(len(images))
        return network(images)

    return count


def watch(model, images):
    """Record the batch sizes that the model's backend gets from now on."""
    seen, backend = [], model.gradient_free.backend_for(images)
    model.gradient_free.use(images, replace(backend, network=counting(backend.network, seen)))
    return seen


@pytest.mark.slow
def test_the_built_in_network_is_fast_by_itself_and_its_maps_are_eagers(classifier):
    """On three demo photos, two of them small, since eager takes long: OpenVINO computes the same maps to 1e-3.

    And selects the same one, unless both are worth the same.
    """
    eager = accelerate(copy.deepcopy(classifier), "eager")
    for i, name in enumerate(list(DEMO_PHOTOS)[:3]):
        image = demo_photo(name, 224 if i == 0 else 112).image[None]
        (fast,) = capture(classifier, image, target_layer=classifier.target_layer)
        (slow,) = capture(eager, image, target_layer=eager.target_layer)
        assert classifier.gradient_free.backend_for(image).name == "openvino"
        fast, slow = union_cam(fast), union_cam(slow)
        clear = abs(slow.beta_united - slow.beta_region) > 1e-4
        assert not clear or fast.selected == slow.selected
        for field in ("denoised", "region", "united", *(["cam"] if clear else [])):
            assert float((getattr(fast, field) - getattr(slow, field)).abs().max()) <= 1e-3, (name, field)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "eager"])
def test_a_users_model_keeps_its_layers(photos, backend):
    torch.manual_seed(0)
    model = models.resnet18(weights=None).eval()
    plain = UnionCAM(model, [model.layer3])(photos)
    assert accelerate(model, backend) is model
    np.testing.assert_allclose(UnionCAM(model, [model.layer3])(photos), plain, atol=1e-3)
    assert model.gradient_free.backend_for(photos).name == backend


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_torch_compile(small, photos, lines):
    fast = accelerate(small, "compile", chunk=2).gradient_free
    with torch.no_grad():
        torch.testing.assert_close(fast(photos), small(photos))
    assert fast.backend_for(photos).name == "compile"
    assert lines() == []


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(chunk=st.integers(1, 40), seed=st.integers(0, 1000), dead=st.lists(st.integers(0, 5), max_size=6))
def test_whatever_the_chunk_every_image_gets_its_own_scores(chunk, seed, dead):
    """In double precision, with constant channels (in one image all of them) and two classes for the first image."""
    model = TinyCNN(seed)
    model.conv2.weight.data[dead] = 0
    images = torch.rand(3, 3, 12, 12, dtype=torch.float64)
    model.conv2.bias.data[dead] = 0
    options = {"target_layer": "relu2", "targets": [[0, 3], 1, 2]}
    expected = [union_cam(e) for e in capture(model, images, **options)]
    evidences = capture(accelerate(model, chunk=chunk), images, **options)
    seen = watch(model, images)
    score_regions(evidences)
    assert sum(seen) == sum(len(engine.distinct_masks(e)[0]) for e in evidences[1:])
    assert all(size == chunk for size in seen[:-1])
    for steps, evidence in zip(expected, evidences, strict=True):
        torch.testing.assert_close(union_cam(evidence).cam, steps.cam)


@pytest.mark.slow
def test_constant_channels_never_enter_the_network(classifier):
    image = demo_photo("coffee").image[None]
    (evidence,) = capture(classifier, image, target_layer=classifier.target_layer)
    backend = classifier.gradient_free.backend_for(image)
    seen = watch(classifier, image)
    scores = evidence.region_scores
    assert sum(seen) <= int(evidence.live.sum()) < 0.7 * len(scores)
    assert scores[~evidence.live].count_nonzero() == 0
    classifier.gradient_free.use(image, backend)


@pytest.mark.slow
def test_equal_masks_enter_the_network_once(small, photos):
    (evidence,) = capture(accelerate(small), photos[:1], target_layer="conv2")
    maps = torch.zeros(6, 4, 4)
    maps[0, 1, 2], maps[1, 1, 2], maps[3, 1, 2] = 0.3, 7, 0.1  # one place, three heights
    maps[4], maps[5] = torch.rand(4, 4), 1  # the last is constant
    evidence = replace(evidence, activations=maps)
    distinct, own = engine.distinct_masks(evidence)
    assert distinct.tolist() in ([0, 4], [4, 0])
    assert distinct[own].tolist() == [0, 0, 0, 4]
    seen = watch(small, photos)
    scores = evidence.region_scores
    assert sum(seen) == 2
    assert scores[0] == scores[1] == scores[3]
    masked = evidence.masked(evidence.masks([0, 1, 2, 3, 4, 5]))
    with torch.no_grad():
        expected = small(masked).softmax(1)[:, evidence.target]
    torch.testing.assert_close(scores, expected.where(evidence.live, 0), atol=1e-4, rtol=0)
    unscaled = replace(evidence, protocol=Protocol(map_scale="none"))
    assert engine.distinct_masks(unscaled)[0].tolist() == [0, 1, 3, 4], "there the height tells them apart"


def test_no_live_channel_at_all(small, photos):
    nn.init.zeros_(small.conv2.weight)
    nn.init.zeros_(small.conv2.bias)
    accelerate(small)
    (evidence, other) = capture(small, photos[:2], target_layer="conv2")
    score_regions([evidence, other])
    assert evidence.region_output is other.region_output is None
    assert evidence.region_scores.count_nonzero() == 0
    assert UnionCAM(small, ["conv2"])(photos[:2]).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"region_weights": "softmax", "class_score": "logit"},
        {"mask_space": "normalized"},
        {"map_scale": "none"},
        {"relu": False},
    ],
    ids=str,
)
def test_every_reading_of_the_paper(small, photos, options):
    small.unioncam_pixels = 0.0, 1.0, torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    cams = {"target_layers": ["conv2"], "protocol": Protocol(**options)}
    plain = UnionCAM(small, **cams)(photos)
    accelerated = UnionCAM(accelerate(small), **cams)(photos)
    assert small.gradient_free.backend_for(photos).name == "openvino"
    np.testing.assert_allclose(accelerated, plain, atol=1e-3)


@pytest.mark.slow
def test_images_of_several_sizes_are_not_scored_together(small, photos):
    accelerate(small)
    evidences = [
        *capture(small, photos[:1], target_layer="conv2"),
        *capture(small, photos[:1, :, 8:], target_layer="conv2"),
    ]
    with pytest.raises(ValueError, match=r"sizes \[\(3, 24, 32\), \(3, 32, 32\)\]; to be scored together"):
        score_regions(evidences)


def test_images_of_two_classifiers_are_scored_by_their_own(photos):
    models = [accelerate(SmallCNN(seed), "eager") for seed in (0, 1)]
    first, second = (capture(model, photos[:1], target_layer="conv2")[0] for model in models)
    expected = [capture(model, photos[:1], target_layer="conv2")[0].region_scores for model in models]
    score_regions([first, second])
    torch.testing.assert_close(first.region_scores, expected[0])
    torch.testing.assert_close(second.region_scores, expected[1])


def test_never_more_than_a_chunk_exists(small, photos):
    made = []

    def make(first, last):
        made.append((first, last))
        return photos[torch.arange(first, last) % 5]

    logits = Engine(small, chunk=7).stream(make, 100)
    assert made == [(0, 1), *((first, min(first + 7, 100)) for first in range(0, 100, 7))]
    with torch.no_grad():
        torch.testing.assert_close(logits, small(photos[torch.arange(100) % 5]), atol=1e-4, rtol=1e-4)


def test_openvino_computes_a_chunk_on_each_core(small, photos):
    """Each chunk waits until another one is made, so that this ends only if two are made at once."""
    made, two = [], Barrier(2, timeout=20)

    def make(first, last):
        if last - first == 7:
            two.wait()
        made.append((first, last))
        return photos[torch.arange(first, last) % 5]

    small_engine = Engine(small, "openvino", chunk=7, threads=2)
    logits = small_engine.stream(make, 98)
    assert sorted(made) == [(0, 1), *((first, first + 7) for first in range(0, 98, 7))]
    with torch.no_grad():
        torch.testing.assert_close(logits, small(photos[torch.arange(98) % 5]), atol=1e-4, rtol=1e-4)
    made.clear()
    small_engine.stream(make, 8)
    assert sorted(made) == [(0, 1), (0, 4), (4, 8)], "few images are shared out"


def test_the_scores_do_not_depend_on_which_thread_is_faster(small, photos):
    """Two threads compute chunks, some of them late by up to 4 ms. Each image gets its own scores, to the last bit."""
    fast, delay = accelerate(small, "openvino", chunk=2, threads=2).gradient_free, random.Random(0)
    expected = capture(SmallCNN(), photos, target_layer="conv2")
    outputs, backend = [], fast.backend_for(photos)

    def late(images):
        time.sleep(delay.choice([0, 0.004]))
        return backend.network(images)

    for network in (backend.network, late, late):
        fast.use(photos, replace(backend, network=network))
        outputs.append(torch.cat([e.region_output for e in capture(small, photos, target_layer="conv2")]))
        assert torch.equal(outputs[0], outputs[-1])
    torch.testing.assert_close(outputs[0], torch.cat([e.region_output for e in expected]), atol=1e-4, rtol=1e-4)


def edit_in_place(model):
    with torch.no_grad():
        model.conv1.weight.mul_(-1)


def load_weights(model):
    model.load_state_dict(SmallCNN(seed=7).state_dict())


def replace_a_layer(model):
    model.conv2 = nn.Conv2d(8, 16, 1)


def replace_an_activation(model):
    model.relu = nn.Sigmoid()


def change_statistics(model):
    model.norm.running_mean.add_(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [edit_in_place, load_weights, replace_a_layer, replace_an_activation, change_statistics]
)
def test_a_changed_model_is_built_anew(small, photos, change):
    fast = accelerate(small).gradient_free
    before = fast(photos)
    change(small)
    with torch.no_grad():
        torch.testing.assert_close(fast(photos), small(photos), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, fast(photos), atol=1e-3)


def test_a_model_in_double_precision_stays_exact(photos):
    model = accelerate(TinyCNN())
    images = photos.double()[..., :12, :12]
    with torch.no_grad():
        torch.testing.assert_close(model.gradient_free(images), model(images), atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_an_engine_of_its_own(small, photos, copied):
    first = accelerate(small).gradient_free(photos)
    second = copied(small)
    edit_in_place(second)
    with torch.no_grad():
        torch.testing.assert_close(second.gradient_free(photos), second(photos), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(small.gradient_free(photos), first)


@pytest.mark.slow
def test_the_chunk_is_measured_once_for_each_size(small, photos, monkeypatch):
    measured = []
    fastest_chunk = engine._fastest_chunk
    monkeypatch.setattr(engine, "_fastest_chunk", lambda *a: measured.append(a[1].shape) or fastest_chunk(*a))
    fast = accelerate(small).gradient_free
    for images in (photos, photos[:2], photos[..., :16], photos):
        fast(images)
    assert [tuple(shape[1:]) for shape in measured] == [(3, 32, 32), (3, 32, 16)]
    assert fast.backend_for(photos).chunk in engine.CPU_CHUNKS


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backend", ["openvino", "eager"])
def test_precision_is_what_was_asked_for(small, photos, lines, backend, precision):
    """bfloat16 has 8 bits, float16 has 11: the logits are a little off, which shows that it is in use, but not much.

    Where OpenVINO would compute in fp32, as on a processor without such instructions, it says so, and eager obeys.
    """
    with torch.no_grad():
        small.fc.weight.mul_(40)
        exact = small(photos)
    half = accelerate(small, backend, precision, chunk=5).gradient_free
    logits = half(photos)
    if half.backend_for(photos).name != backend:
        (line,) = lines()
        why = rf"on this processor it computes in b?f\d+, but {precision} is requested"
        assert re.fullmatch(rf"The backend openvino is not used: {why}\. Going on with eager\.", line)
    assert half.backend_for(photos).name in (backend, "eager")
    assert logits.dtype == torch.float32
    assert (
        {"bf16": 1e-3, "fp16": 1e-4}[precision] < float((logits - exact).abs().max()) < 0.1 * float(exact.abs().max())
    )
    assert {parameter.dtype for parameter in small.parameters()} == {torch.float32}


class OtherThanAsked:
    """OpenVINO on a processor that computes in fp32 on one thread, whatever is requested."""

    def compile_model(self, *_):
        return self

    def get_property(self, name):
        precision = SimpleNamespace(to_string=lambda: "f32")
        return {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}[name]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "bf16"}, "it computes in f32, but bf16 is requested"),
        ({"precision": "fp16"}, "it computes in f32, but fp16 is requested"),
        ({"threads": 3}, "it computes on 1 threads, but 3 are requested"),
    ],
)
def test_a_backend_that_computes_otherwise_than_asked_is_not_used(small, photos, lines, monkeypatch, options, reason):
    monkeypatch.setattr("openvino.Core", OtherThanAsked)
    assert accelerate(small, chunk=4, **options).gradient_free.backend_for(photos).name == "eager"
    assert lines() == [f"The backend openvino is not used: on this processor {reason}. Going on with eager."]


@pytest.mark.slow
def test_threads_are_what_was_asked_for(small, photos):
    with torch.no_grad():
        expected = small(photos)
    for threads in (1, 2, None):
        fast = accelerate(small, "openvino", chunk=4, threads=threads).gradient_free
        assert (fast.backend_for(photos).name, fast.backend_for(photos).threads) == (
            "openvino",
            threads or torch.get_num_threads(),
        )
        torch.testing.assert_close(fast(photos), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "ncnn", "eager"])
def test_the_model_is_left_as_it_was(small, photos, backend):
    small.train()
    small.norm.eval()
    small.conv1.weight.requires_grad_(False)
    before = state(small)
    maps = UnionCAM(accelerate(small, backend), ["conv2"])(photos)
    assert state(small) == before
    np.testing.assert_array_equal(UnionCAM(small.eval(), ["conv2"])(photos), maps)


def test_an_interruption_leaves_nothing_behind(small, photos):
    before = state(small)
    accelerate(small, chunk=2)
    evidence, *_ = capture(small, photos, target_layer="conv2")
    backend = small.gradient_free.backend_for(photos)

    def interrupted(images):
        raise KeyboardInterrupt

    small.gradient_free.use(photos, replace(backend, network=interrupted))
    with pytest.raises(KeyboardInterrupt):
        union_cam(evidence)
    assert state(small) == before
    small.gradient_free.use(photos, backend)
    assert union_cam(evidence).cam.shape == (32, 32)


def test_settings_for_nvidia_gpus_are_restored():
    def now():
        return [b.fp32_precision for b in (torch.backends.cudnn.conv, torch.backends.cuda.matmul)]

    before = now(), torch.backends.cudnn.benchmark
    for precision, expected in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")):
        with backends.nvidia_settings(precision):
            assert now() == [expected] * 2
            assert torch.backends.cudnn.benchmark
        assert (now(), torch.backends.cudnn.benchmark) == before


def test_out_of_memory_halves_the_chunk_and_goes_on(small, photos, lines):
    fast = accelerate(small, "eager", chunk=16).gradient_free
    expected, backend, tried = fast(photos[torch.arange(40) % 5]), fast.backend_for(photos), []

    def limited(images):
        tried.append(len(images))
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return backend.network(images)

    fast.use(photos, replace(backend, network=limited))
    torch.testing.assert_close(fast(photos[torch.arange(40) % 5]), expected)
    assert tried == [16, 8, *[4] * 10]
    assert lines() == [
        "Out of memory with 16 images at a time: going on with 8.",
        "Out of memory with 8 images at a time: going on with 4.",
    ]
    fast(photos)
    assert tried[12:] == [4, 1], "the smaller chunk is remembered"


def test_a_backend_may_write_each_result_to_the_same_memory(small, photos):
    fast = accelerate(small, "eager", chunk=2).gradient_free
    expected, backend, memory = fast(photos), fast.backend_for(photos), torch.empty(2, 5)

    def reusing(images):
        return memory[: len(images)].copy_(backend.network(images))

    fast.use(photos, replace(backend, network=reusing))
    torch.testing.assert_close(fast(photos), expected)


def test_no_image_at_all(small, photos):
    with pytest.raises(ValueError, match="0 images are to be scored; 1 or more are needed"):
        accelerate(small).gradient_free(photos[:0])


def test_out_of_memory_with_a_single_image_is_an_error(small, photos):
    fast = accelerate(small, "eager", chunk=1).gradient_free
    backend = fast.backend_for(photos)

    def full(images):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fast.use(photos, replace(backend, network=full))
    with pytest.raises(torch.OutOfMemoryError):
        fast(photos)


def broken(*_):
    raise RuntimeError("no such instruction\non this processor")


def wrong(model, noise, precision, sizes, threads, key):
    return (lambda images: model(images) + 1), sizes


def not_a_number(model, noise, precision, sizes, threads, key):
    return (lambda images: model(images) * torch.nan), sizes


def slow(model, noise, precision, sizes, threads, key):
    return (lambda images: (time.sleep(0.5), model(images))[1]), sizes


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["auto", "openvino"])
@pytest.mark.parametrize(
    ("stand_in", "reason"),
    [(broken, "no such instruction"), (wrong, "logits are off by 1, but only 0.001"), (not_a_number, "off by nan")],
)
def test_a_backend_that_fails_is_replaced_in_one_line(small, photos, lines, monkeypatch, wanted, stand_in, reason):
    monkeypatch.setitem(engine.BACKENDS, "openvino", stand_in)
    fast = accelerate(small, wanted).gradient_free
    with torch.no_grad():
        torch.testing.assert_close(fast(photos), small(photos))
    (line,) = lines()
    assert line.startswith("The backend openvino is not used: ")
    assert reason in line
    assert line.endswith("Going on with eager.")
    assert "\n" not in line


def test_a_backend_that_is_not_installed(small, photos, lines, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert accelerate(small).gradient_free.backend_for(photos).name == "eager"
    assert len(lines()) == 1


@pytest.mark.slow
def test_a_slower_backend_is_not_chosen_but_may_be_asked_for(small, photos, lines, caplog, monkeypatch):
    monkeypatch.setitem(engine.BACKENDS, "openvino", slow)
    assert accelerate(small).gradient_free.backend_for(photos).name == "eager"
    assert lines() == [], "on a busy machine eager can be the faster one, which is nothing to be warned of"
    caplog.set_level(logging.INFO, "unioncam_lab.engine")
    accelerate(small).gradient_free.backend_for(photos)
    assert "it is slower:" in lines()[0]
    assert accelerate(small, "openvino", chunk=5).gradient_free.backend_for(photos).name == "openvino"


def columns(channels):
    """A network for images of any number of channels, nearly all of whose multiplications are in 3×3 convolutions."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 13, 11), (2, 9, 9), (3, 32, 32)])
def test_ncnn_takes_images_of_any_shape_and_any_number_of_them(shape, lines, capfd):
    model, images = columns(shape[0]), torch.rand(11, *shape, generator=torch.Generator().manual_seed(1))
    maps = UnionCAM(model, ["3"])(images[:2])
    fast = accelerate(model, "ncnn", chunk=4, progress=False).gradient_free
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), atol=1e-5, rtol=1e-5)
    assert (fast.backend_for(images).name, fast.backend_for(images).chunk) == ("ncnn", 4)
    np.testing.assert_allclose(UnionCAM(model, ["3"])(images[:2]), maps, atol=1e-3)
    assert lines() == []
    assert capfd.readouterr() == ("", "")


class Digamma(SmallCNN):
    def forward(self, images):
        return super().forward(images).digamma()


@pytest.mark.parametrize(
    ("model", "precision", "reason"),
    [
        (SmallCNN, "bf16", r"it takes float32 images on a CPU in fp32, not torch\.float32 on cpu in bf16"),
        (
            lambda: SmallCNN().double(),
            "fp32",
            r"it takes float32 images on a CPU in fp32, not torch\.float64 on cpu .*",
        ),
        (Digamma, "fp32", "ncnn has no layer aten::digamma"),
    ],
)
def test_what_ncnn_cannot_compute_gets_one_sentence(model, precision, reason, photos, lines, capfd):
    model = model()
    images = photos.to(model.fc.weight)
    assert accelerate(model, "ncnn", precision, chunk=4).gradient_free.backend_for(images).name == "eager"
    (line,) = lines()
    assert re.fullmatch(rf"The backend ncnn is not used: {reason}\. Going on with eager\.", line)
    assert capfd.readouterr() == ("", ""), "nor do pnnx and ncnn print anything"


def test_a_kept_conversion_for_ncnn_computes_the_same(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("UNIONCAM_CACHE", str(tmp_path))
    first, again = (accelerate(columns(3), "ncnn", chunk=2, progress=False).gradient_free for _ in range(2))
    logits = first(photos)
    monkeypatch.setattr(backends, "_convert", lambda *_: pytest.fail("converted again"))
    torch.testing.assert_close(again(photos), logits, atol=0, rtol=0)
    assert again.backend_for(photos).name == "ncnn"


@pytest.mark.parametrize("missing", ["ncnn", "pnnx"])
def test_ncnn_is_an_extra(small, photos, lines, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert accelerate(small, "ncnn", chunk=4).gradient_free.backend_for(photos).name == "eager"
    assert "it needs the packages ncnn and pnnx: pip install -e '.[ncnn]'. Going on with eager." in lines()[0]


def test_the_share_of_winograds_convolutions():
    """By hand: a pass of 3×3, 1×1, strided 3×3 and grouped 3×3 convolutions and a linear layer over 6 × 6 positions."""
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, stride=2, padding=1)]
    model = nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Flatten(), nn.Linear(36, 5))
    plain, others = 36 * 4 * 2 * 9, [36 * 4 * 4, 9 * 4 * 4 * 9, 9 * 4 * 9, 36 * 5]
    assert engine.winograd_share(model, torch.rand(1, 2, 6, 6)) == plain / (plain + sum(others))
    assert not any(layer._forward_hooks for layer in model.modules())
    assert engine.winograd_share(nn.ReLU(), torch.rand(1, 2, 6, 6)) == 0


class Sleepy(SmallCNN):
    """A network that is slow, most of whose multiplications are in 3×3 convolutions with stride 1."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.conv2.stride = (1, 1)

    def forward(self, images):
        time.sleep(0.04)
        return super().forward(images)


def in_seconds(seconds, built):
    """A builder that notes its name and precision in `built`; its network computes Sleepy's logits in these seconds."""

    def builder(model, noise, precision, sizes, threads, key):
        built.append(precision)
        pause = seconds[precision] if isinstance(seconds, dict) else seconds
        return (lambda images: (time.sleep(pause), SmallCNN.forward(model.model, images))[1]), sizes

    return builder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("openvino", "ncnn", "chosen"), [(0.02, 0.005, "ncnn"), (0.005, 0.02, "openvino"), (0.08, 0.005, "ncnn")]
)
def test_auto_takes_the_fastest(photos, lines, monkeypatch, openvino, ncnn, chosen):
    monkeypatch.setattr(engine, "TRY_NCNN", 1e9)
    monkeypatch.setattr(backends, "bf16_is_native", lambda: False)
    monkeypatch.setitem(engine.BACKENDS, "openvino", in_seconds(openvino, []))
    monkeypatch.setitem(engine.BACKENDS, "ncnn", in_seconds(ncnn, []))
    assert accelerate(Sleepy(), chunk=2, threads=1).gradient_free.backend_for(photos).name == chosen
    assert lines() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "precision", "limit", "missing", "tried"),
    [
        (Sleepy, "fp32", 1e9, None, True),
        (Sleepy, "fp32", 0, None, False),
        (Sleepy, "fp32", 1e9, "pnnx", False),
        (Sleepy, "bf16", 1e9, None, False),
        (lambda: SmallCNN().train(False), "fp32", 1e9, None, False),
    ],
    ids=["slow", "fast", "not installed", "bf16", "other convolutions"],
)
def test_auto_tries_ncnn_only_where_it_can_pay_off(photos, lines, monkeypatch, model, precision, limit, missing, tried):
    built = []
    monkeypatch.setattr(engine, "TRY_NCNN", limit)
    monkeypatch.setattr(backends, "bf16_is_native", lambda: False)
    monkeypatch.setitem(engine.BACKENDS, "openvino", in_seconds(0, []))
    monkeypatch.setitem(engine.BACKENDS, "ncnn", in_seconds(0, built))
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    accelerate(model(), precision=precision, chunk=2, threads=1).gradient_free.backend_for(photos)
    assert bool(built) == tried


@pytest.mark.slow
def test_auto_says_why_ncnn_cannot_be_used(photos, lines, monkeypatch):
    monkeypatch.setattr(engine, "TRY_NCNN", 1e9)
    monkeypatch.setattr(backends, "bf16_is_native", lambda: False)
    monkeypatch.setitem(engine.BACKENDS, "openvino", in_seconds(0, []))
    monkeypatch.setitem(engine.BACKENDS, "ncnn", broken)
    assert accelerate(Sleepy(), chunk=2, threads=1).gradient_free.backend_for(photos).name == "openvino"
    assert lines() == ["The backend ncnn is not used: no such instruction. Going on with openvino."]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("native", "seconds", "precision", "limit", "said"),
    [
        (True, 0.002, "fp32", 1e9, True),
        (True, 0.002, "fp32", 0, False),
        (True, 0.02, "fp32", 1e9, False),
        (True, 0.002, "bf16", 1e9, False),
        (False, 0.002, "fp32", 1e9, False),
    ],
    ids=["native", "fast in fp32", "no faster", "in bf16 already", "not native"],
)
def test_what_bf16_would_gain_is_said_once(photos, lines, monkeypatch, native, seconds, precision, limit, said):
    built = []
    monkeypatch.setattr(Engine, "_told_of_bf16", False)
    monkeypatch.setattr(engine, "TRY_NCNN", 0)
    monkeypatch.setattr(engine, "TRY_BF16", limit)
    monkeypatch.setattr(backends, "bf16_is_native", lambda: native)
    monkeypatch.setitem(engine.BACKENDS, "openvino", in_seconds({"fp32": 0.02, "bf16": seconds}, built))
    for _ in range(2):
        assert (
            accelerate(Sleepy(), precision=precision, chunk=2, threads=1).gradient_free.backend_for(photos).name
            == "openvino"
        )
    assert len(lines()) == said
    if said:
        shown = r"In bf16 this processor computes (\S+) images per second, not (\S+), and the logits are off by .*: "
        numbers = re.fullmatch(shown + r"accelerate\(model, precision=\"bf16\"\) asks for it\.", lines()[0])
        assert 3 < float(numbers[1]) / float(numbers[2]) < 10
        assert built == ["fp32", "bf16", "fp32"]


SILENT = """
import multiprocessing, sys, urllib.request
multiprocessing.Process.start = urllib.request.urlopen = lambda *_: sys.exit("OpenVINO wants to report something.")
import torch
from unioncam_lab.engine import accelerate
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)).eval()
print(accelerate(model, "openvino", chunk=2).gradient_free.backend_for(torch.rand(1, 3, 8, 8)).name)
"""


@pytest.mark.slow
def test_nothing_is_reported_over_the_network(tmp_path):
    """The user has not agreed to it, and the process imports OpenVINO for the first time."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", SILENT]
    made = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (made.stdout, made.returncode) == ("openvino\n", 0), made.stderr
    assert not (tmp_path / "intel").exists(), "nor is the user given a number"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backend": "tensorrt"}, "it can be 'auto' or 'openvino' or 'ncnn' or 'compile' or 'eager'"),
        ({"precision": "int8"}, "precision is 'int8'; it can be 'fp32' or 'tf32' or 'bf16' or 'fp16'"),
        ({"precision": "tf32"}, "precision 'tf32' is a mode of NVIDIA GPUs; the model is on cpu"),
        ({"chunk": 0}, "chunk is 0; it is a number of images, 1 or more"),
        ({"chunk": 2.5}, "chunk is 2.5; it is a number"),
    ],
)
def test_bad_options_get_one_sentence(small, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        accelerate(small, **options)
    assert not hasattr(small, "gradient_free")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "progress", "bars"), [(0, True, False), (0.05, True, True), (0.05, False, False)])
def test_a_bar_is_shown_beyond_two_seconds(small, photos, monkeypatch, seconds, progress, bars):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    fast = accelerate(small, "eager", chunk=1, progress=progress).gradient_free
    backend = fast.backend_for(photos)
    slowed = lambda images: (time.sleep(seconds), backend.network(images))[1]  # noqa: E731
    fast.use(photos, replace(backend, network=slowed, rate=1 / seconds if seconds else backend.rate))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fast(photos[torch.arange(45) % 5])
    assert ("45" in terminal.getvalue()) == bars


MEMORY = """
import resource, torch
from unioncam_core import UnionCAM
from unioncam_lab.classifiers import load_classifier
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
classifier = load_classifier("efficientnet_lite0", device="cpu")
image = torch.rand(1, 3, 224, 224)
before = peak()
UnionCAM(classifier, [classifier.target_layer])(image)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux alone")
def test_extra_memory():
    printed = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    print(f"peak resident memory above the loaded model: {float(printed):.0f} MiB")
    assert float(printed) < 600


def test_load_classifier_accelerates(classifier):
    assert load_classifier("efficientnet_lite0", "cpu").gradient_free.backend == "auto"
    assert "gradient_free" not in dict(classifier.named_modules())
    assert not [key for key in classifier.state_dict() if "gradient_free" in key]


@pytest.fixture
def little():
    return torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Cooled(TinyClassifier):
    """A network with a setting that no tensor holds."""

    temperature = 1.0

    def forward(self, images):
        return super().forward(images) / self.temperature


def cooled(model):
    model.temperature = 5.0


def through_data(model):
    model.fc.weight.data *= 1.5


@pytest.mark.parametrize("change", [cooled, through_data])
def test_a_change_that_no_version_shows_is_noticed_when_the_model_is_explained(change, little, caplog):
    fast, plain = accelerate(Cooled(), "openvino", chunk=4, progress=False), Cooled()
    before = UnionCAM(fast, ["relu2"])(little)
    assert not caplog.messages
    change(fast)
    change(plain)
    maps = UnionCAM(fast, ["relu2"])(little)
    np.testing.assert_allclose(maps, UnionCAM(plain, ["relu2"])(little), atol=1e-4)
    assert np.abs(maps - before).max() > 1e-3
    assert caplog.messages == ["The model has changed since the backend openvino was built: it is built again."]
    UnionCAM(fast, ["relu2"])(little)
    assert len(caplog.messages) == 1


def test_a_black_image_without_finite_logits_is_refused_with_and_without_acceleration(little, caplog):
    for model in (DividesByMaximum().float(), accelerate(DividesByMaximum().float(), "openvino", progress=False)):
        with pytest.raises(NonFiniteScore, match="NaN or infinite values for the black image"):
            UnionCAM(model, ["maps"])(little)
    assert caplog.messages == [
        "The backend openvino is not used: the model's logits for a black image are NaN or infinite. "
        "Going on with eager."
    ]


UNSTEADY = {"dropout": Dropout, "batch": partial(Normed, nn.BatchNorm2d(6, track_running_stats=False))}


@pytest.mark.parametrize("kind", UNSTEADY)
def test_a_model_whose_logits_are_not_always_the_same_is_not_accelerated(little, kind):
    """Without an engine, test_any_classifier.py tests the same."""
    model = accelerate(UNSTEADY[kind]().float(), "auto", progress=False)
    with pytest.raises(ValueError, match="logits of an image change from call to call, or with the other images"):
        UnionCAM(model, ["maps"])(little[:1])


FORMS = {
    "(N,)": {"outputs": 1, "end": Does(lambda y: y[:, 0])},
    "a number for one image": {"outputs": 1, "end": Does(torch.squeeze)},
    "(N, C, 1, 1)": {"end": Does(lambda y: y[:, :, None, None])},
    "an object": {"names": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels_and_any_form_of_logits(channels, form, caplog):
    images = torch.rand(2, channels, 12, 12)
    model = Single(channels=channels, **FORMS[form])
    plain = UnionCAM(model, ["maps"])(images, [0, 1])
    fast = accelerate(model, "openvino", chunk=4, progress=False)
    assert fast.gradient_free(images).shape == (2, model.fc.out_features)
    np.testing.assert_allclose(UnionCAM(fast, ["maps"])(images, [0, 1]), plain, atol=1e-4)
    assert "one image" in form or not caplog.messages
